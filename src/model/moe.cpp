#include "model/moe.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/math.h"

namespace hadal::model {
namespace {

using kernels::LinearJob;

constexpr int64_t kLeastValues = int64_t{1} << 11;  // below it, waking threads costs more than the activations

// Chosen experts and their weights per row: step.work.route_ids, route_weights, [t, k], best first.
void route(Step& step, const Moe& weights, int layer, Input& input) {
  const int64_t n = weights.gate.rows, k = step.config.n_activated_experts;
  float* scores = step.work.gate_scores.take(step.n_rows() * n);
  auto& ids = step.work.route_ids;
  ids.resize(std::max(ids.size(), static_cast<size_t>(step.n_rows() * k)));
  float* route_weights = step.work.route_weights.take(step.n_rows() * k);
  const LinearJob gate = step.job(weights.gate, input, scores, true);
  kernels::linear(step.pool, step.isa, {&gate, 1});
  step.each_row([&](int64_t i) {
    float* s = scores + i * n;
    for (int64_t e = 0; e < n; ++e) s[e] = kernels::sqrt_softplus(s[e]);
    int32_t* chosen = ids.data() + i * k;
    if (weights.tid2eid) {
      for (int64_t j = 0; j < k; ++j) {
        int64_t id;
        std::memcpy(&id, weights.tid2eid + (step.row(i).token * k + j) * 8, 8);
        chosen[j] = static_cast<int32_t>(id);
      }
    } else {
      std::vector<int32_t> order(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      const auto key = [&](int32_t e) {  // NaN compares like the lowest, so that sorting stays well defined
        const float v = s[e] + weights.bias[static_cast<size_t>(e)];
        return v == v ? v : -3.4e38f;
      };
      std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int32_t a, int32_t b) {
        const float ka = key(a), kb = key(b);
        return ka != kb ? ka > kb : a < b;
      });
      std::copy(order.begin(), order.begin() + k, chosen);
    }
    float sum = 0;
    for (int64_t j = 0; j < k; ++j) sum += s[chosen[j]];
    for (int64_t j = 0; j < k; ++j) route_weights[i * k + j] = s[chosen[j]] / sum * step.config.route_scale;
  });
  step.tap(layer, "route_sel", {step.n_rows(), k}, ids.data());
  step.tap(layer, "route_w", {step.n_rows(), k}, route_weights);
}

}  // namespace

void moe(Step& step, Moe& weights, int layer, const float* x, float* y) {
  const int64_t t = step.n_rows(), d = step.config.dim, m = step.config.moe_inter_dim;
  const int64_t k = step.config.n_activated_experts;
  Workspace& work = step.work;
  work.ffn_input.set(x, d, t, d);
  route(step, weights, layer, work.ffn_input);

  // Rows grouped by expert, ascending; the shared expert comes last with all rows. Slot s of the expert
  // buffers belongs to input row slot_row[s].
  const int64_t n_experts = step.config.n_routed_experts, n_slots = t * (k + 1);
  std::vector<int64_t> first_slot(static_cast<size_t>(n_experts) + 1, 0);
  for (int64_t j = 0; j < t * k; ++j) ++first_slot[static_cast<size_t>(work.route_ids[static_cast<size_t>(j)]) + 1];
  std::partial_sum(first_slot.begin(), first_slot.end(), first_slot.begin());
  std::vector<int32_t> slot_row(static_cast<size_t>(n_slots));
  std::vector<float> slot_weight(static_cast<size_t>(n_slots), 1.0f);
  std::vector<std::pair<int32_t, int64_t>> row_slots(static_cast<size_t>(t * k));  // (expert, slot) per row
  std::vector<int64_t> next(first_slot.begin(), first_slot.end() - 1);
  for (int64_t i = 0; i < t; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const int32_t e = work.route_ids[static_cast<size_t>(i * k + j)];
      const int64_t slot = next[static_cast<size_t>(e)]++;
      slot_row[static_cast<size_t>(slot)] = static_cast<int32_t>(i);
      slot_weight[static_cast<size_t>(slot)] = work.route_weights.take(0)[i * k + j];
      row_slots[static_cast<size_t>(i * k + j)] = {e, slot};
    }
    std::sort(row_slots.begin() + i * k, row_slots.begin() + (i + 1) * k);
    slot_row[static_cast<size_t>(t * k + i)] = static_cast<int32_t>(i);
  }
  std::vector<int32_t> ids;
  for (int64_t e = 0; e < n_experts; ++e)
    if (first_slot[static_cast<size_t>(e)] != first_slot[static_cast<size_t>(e) + 1])
      ids.push_back(static_cast<int32_t>(e));
  const auto brought = weights.experts.bring(ids);
  struct Group {
    const Expert* expert;
    int64_t first, n;
  };
  std::vector<Group> groups;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t first = first_slot[static_cast<size_t>(ids[i])];
    groups.push_back({brought[i], first, first_slot[static_cast<size_t>(ids[i]) + 1] - first});
  }
  groups.push_back({&weights.shared, t * k, t});

  float* gate = work.expert_gate.take(n_slots * m);
  float* up = work.expert_up.take(n_slots * m);
  std::vector<LinearJob> jobs;
  for (const Group& group : groups) {
    for (const auto& [weight, out] : {std::pair{&group.expert->w1, gate}, std::pair{&group.expert->w3, up}}) {
      LinearJob job = step.job(*weight, work.ffn_input, out + group.first * m);
      job.input_rows = slot_row.data() + group.first;
      job.n_tokens = group.n;
      jobs.push_back(job);
    }
  }
  kernels::linear(step.pool, step.isa, jobs);

  float* hidden = work.expert_hidden.take(n_slots * m);
  const auto swiglu = [&](int64_t slot, int) {
    step.isa.swiglu(gate + slot * m, up + slot * m, m, step.config.swiglu_limit, slot_weight[static_cast<size_t>(slot)],
                    step.faithful, hidden + slot * m);
  };
  if (n_slots * m < kLeastValues) {
    for (int64_t slot = 0; slot < n_slots; ++slot) swiglu(slot, 0);
  } else {
    step.pool.run(n_slots, swiglu);
  }
  work.expert_input.set(hidden, m, n_slots, m);
  std::vector<int32_t> slots(static_cast<size_t>(n_slots));
  std::iota(slots.begin(), slots.end(), 0);
  float* out = work.expert_out.take(n_slots * d);
  jobs.clear();
  for (const Group& group : groups) {
    LinearJob job = step.job(group.expert->w2, work.expert_input, out + group.first * d);
    job.input_rows = slots.data() + group.first;
    job.n_tokens = group.n;
    jobs.push_back(job);
  }
  kernels::linear(step.pool, step.isa, jobs);

  step.each_row([&](int64_t i) {
    float* acc = y + i * d;
    std::fill(acc, acc + d, 0.0f);
    for (int64_t j = 0; j < k; ++j) step.isa.add(out + row_slots[static_cast<size_t>(i * k + j)].second * d, d, acc);
    step.isa.add(out + (t * k + i) * d, d, acc);
    if (step.faithful) step.isa.round_row(acc, d);
  });
}

}  // namespace hadal::model
