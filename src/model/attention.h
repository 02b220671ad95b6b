// V4 attention over a window of recent tokens and compressed entries (architecture report A.4, official
// Attention). h heads of hd dims; keys are values: one row per token or entry, shared by all heads.
//
//   qr = RMSNorm(wq_a x)                  [ql]         q  = rope(head_norm(wq_b qr))       [h, hd]
//   kv = rope(RMSNorm(wkv x))             [hd], stored as the cache stores it (FP8 nope dims in `faithful`)
//   rows attended by position t: tokens max(0, t - W + 1)..t, then entries: CSA the indexer's choice, best
//   first; HCA all b < (t + 1) / ratio
//   S_j = q k_j hd^-1/2;  o = sum_j R(p_j) k_j / (sum_j p_j + e^(sink - max S)),  p_j = e^(S_j - max S)
//   u_G = wo_a[G] rope^-1(o)_G            [groups, o_lora]     out = wo_b u                    [d]
#pragma once

#include "model/step.h"
#include "model/weights.h"

namespace hadal::model {

// x, out: [t, d]. Extends the layer's state of every segment.
void attention(Step& step, const Attention& weights, int layer, const float* x, float* out);

}  // namespace hadal::model
