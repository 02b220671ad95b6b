// Manifold-constrained hyper-connections (mHC; architecture report A.3, official Block.hc_pre / hc_post).
//
//   f    = the hc streams of a row, flattened                                  [hc d]
//   m    = (fn f) / rms(f)                                                     [(2 + hc) hc]
//   pre  = sigmoid(m_pre scale_0 + base) + eps;  post = 2 sigmoid(m_post scale_1 + base)       [hc] each
//   comb = sinkhorn(m_comb scale_2 + base)                                     [hc, hc], source x destination
//   y    = R(sum_j pre_j X_j)                                                  [d], into the sublayer
//   X'_b = R(post_b o + sum_a comb_ab X_a)                                     o: the sublayer's output
#pragma once

#include <vector>

#include "model/step.h"
#include "model/weights.h"

namespace hadal::model {

// post [hc] and comb [hc, hc] of each row, kept from pre() to post().
struct HcSplit {
  const float* post = nullptr;
  const float* comb = nullptr;
  int64_t stride = 0;  // floats per row in both
};

// streams: [t, hc, d]; y: [t, d]
HcSplit hc_pre(Step& step, const HyperConnection& hc, const float* streams, float* y);
// streams: [t, hc, d], updated in place; o: [t, d]
void hc_post(Step& step, const HcSplit& split, const float* o, float* streams);
// The collapse before the head: y = R(sum_j (sigmoid(m_j scale + base_j) + eps) X_j) for n rows.
void hc_head(Step& step, const HyperConnection& hc, const float* streams, int64_t n, float* y);

// One row's split from its mixes m; exposed for its check vectors.
void hc_split(const float* mix, const float* scale, const float* base, int hc, int iters, float eps, float* pre,
              float* post, float* comb);

}  // namespace hadal::model
