// The lightning indexer of CSA layers (architecture report A.6, official Indexer): which compressed entries a
// query attends.
//
//   qI  = FP4(Hadamard(rope(wq_b qr)))                     [heads, dim]
//   w   = R(R(weights_proj x) * dim^-1/2 heads^-1/2)       [heads]
//   z_b = R(qI k_b);  I_b = R(sum_h R(relu(z_hb) w_h))
//   the index_topk largest I_b of the entries b < (t + 1) / 4; equal scores: smaller b first
#pragma once

#include "model/step.h"
#include "model/weights.h"

namespace hadal::model {

// index_q: [t, heads * dim] (wq_b qr) and index_w: [t, heads] (weights_proj x), both as the linears left them;
// overwritten. The sequences' index entries must already hold this step's. Fills step.work.selected, best
// first.
void select_entries(Step& step, const Indexer& indexer, int layer, float* index_q, float* index_w);

}  // namespace hadal::model
