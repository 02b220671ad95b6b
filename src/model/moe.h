// Mixture of experts (architecture report A.7, official Gate, Expert, MoE).
//
//   s_e = sqrt(softplus(gate_e x))                                        float32
//   chosen: layers with bias: the k largest s_e + bias_e (equal: smaller e); hash layers: tid2eid[token]
//   w_e = s_e / sum of the chosen s, times route_scale
//   expert(x) = w2 R(w_e silu(min(w1 x, L)) clamp(w3 x, -L, L));  the shared expert without w_e
//   y = R(sum over the chosen, ascending e, of expert_e(x), then + shared(x))
#pragma once

#include "model/step.h"
#include "model/weights.h"

namespace hadal::model {

// x, y: [t, d]
void moe(Step& step, Moe& weights, int layer, const float* x, float* y);

}  // namespace hadal::model
