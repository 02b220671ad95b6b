#include "train/by_hand.h"

#include "train/fused.h"
#include "train/quantisers.h"

namespace hadal::train::by_hand {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
template <class T>
using Function = torch::autograd::Function<T>;

namespace {

float* data(const Tensor& x) { return x.data_ptr<float>(); }
Tensor empty(const Tensor& like, at::IntArrayRef shape) {
  return torch::empty(shape, like.options().requires_grad(false));
}
Tensor zeros(const Tensor& like, at::IntArrayRef shape) {
  return torch::zeros(shape, like.options().requires_grad(false));
}
// A gradient that nothing needed arrives undefined.
Tensor gradient(const Tensor& grad, at::IntArrayRef shape, const Tensor& like) {
  return grad.defined() ? grad.contiguous() : zeros(like, shape);
}

// Rows of x contiguous, any distance between them.
fused::View rows_of(const Tensor& x) { return {data(x), x.stride(0), 1}; }

struct Linear : Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight) {
    const Tensor x = input.stride(1) == 1 ? input : input.contiguous(), w = weight.contiguous();
    const Tensor y = empty(x, {x.size(0), w.size(0)});
    fused::gemm(x.size(0), w.size(0), x.size(1), rows_of(x), rows_of(w).transposed(), data(y), w.size(0), false);
    context->save_for_backward({x, w});
    context->saved_data["needs_x"] = input.requires_grad();
    context->saved_data["needs_w"] = weight.requires_grad();
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], dy = grads[0].contiguous();
    const int64_t n = x.size(0), in = x.size(1), out = w.size(0);
    Tensor dx, dw;
    if (context->saved_data["needs_x"].toBool()) {
      dx = empty(x, {n, in});
      fused::gemm(n, in, out, rows_of(dy), rows_of(w), data(dx), in, false);
    }
    if (context->saved_data["needs_w"].toBool()) {
      dw = empty(x, {out, in});
      fused::gemm(out, in, n, rows_of(dy).transposed(), rows_of(x), data(dw), in, false);
    }
    return {dx, dw};
  }
};

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight, double eps) {
    const Tensor x = input.contiguous();
    const int64_t d = x.size(-1), n = x.numel() / d;
    const Tensor y = empty(x, x.sizes()), inverse_rms = empty(x, {n});
    const bool has_weight = weight.numel() > 0;
    fused::rms_norm(data(x), has_weight ? data(weight) : nullptr, n, d, static_cast<float>(eps), data(y),
                    data(inverse_rms));
    context->save_for_backward({x, weight, inverse_rms});
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &inverse_rms = saved[2];
    const Tensor dy = grads[0].contiguous(), dx = empty(x, x.sizes()), dw = zeros(x, weight.sizes());
    const bool has_weight = weight.numel() > 0;
    fused::rms_norm_backward(data(x), has_weight ? data(weight) : nullptr, data(inverse_rms), data(dy),
                             inverse_rms.numel(), x.size(-1), data(dx), has_weight ? data(dw) : nullptr);
    return {dx, dw, {}};
  }
};

struct Rotate : Function<Rotate> {
  static Tensor turned(const Tensor& x, const Tensor& cos, const Tensor& sin, double sign) {
    const Tensor y = x.clone(torch::MemoryFormat::Contiguous);
    const int64_t n = x.size(0), hd = x.size(-1);
    if (n > 0)
      fused::rotate(data(y), n, x.numel() / (n * hd), hd, data(cos), data(sin), cos.size(1), static_cast<float>(sign));
    return y;
  }
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& cos, const Tensor& sin, double sign) {
    context->save_for_backward({cos, sin});
    context->saved_data["sign"] = sign;
    return turned(x, cos, sin, sign);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    return {turned(grads[0], saved[0], saved[1], -context->saved_data["sign"].toDouble()), {}, {}, {}};
  }
};

fused::HcShape hc_shape(const Tensor& streams, const checkpoint::ModelConfig& config) {
  return {.n = streams.size(0),
          .hc = streams.size(1),
          .d = streams.size(2),
          .iters = config.hc_sinkhorn_iters,
          .eps = config.hc_eps,
          .norm_eps = config.norm_eps};
}

void keep_shape(AutogradContext* context, const fused::HcShape& shape) {
  context->saved_data["iters"] = static_cast<int64_t>(shape.iters);
  context->saved_data["eps"] = static_cast<double>(shape.eps);
}

fused::HcShape kept_shape(AutogradContext* context, const Tensor& streams) {
  return {.n = streams.size(0),
          .hc = streams.size(1),
          .d = streams.size(2),
          .iters = static_cast<int>(context->saved_data["iters"].toInt()),
          .eps = static_cast<float>(context->saved_data["eps"].toDouble())};
}

struct HcPre : Function<HcPre> {
  static variable_list forward(AutogradContext* context, const Tensor& input, const Tensor& fn, const Tensor& base,
                               const Tensor& scale, const checkpoint::ModelConfig& config) {
    const Tensor x = input.contiguous();
    const fused::HcShape shape = hc_shape(x, config);
    const int64_t n = shape.n, hc = shape.hc;
    const Tensor mix = empty(x, {n, shape.n_mix()}), inverse_rms = empty(x, {n}), pre = empty(x, {n, hc});
    const Tensor post = empty(x, {n, hc}), comb = empty(x, {n, hc, hc}), y = empty(x, {n, shape.d});
    fused::hc_mixes(shape, shape.n_mix(), data(x), data(fn), data(mix), data(inverse_rms));
    fused::hc_split(shape, data(mix), data(scale), data(base), data(pre), data(post), data(comb));
    fused::hc_collapse(shape, data(x), data(pre), data(y));
    context->save_for_backward({x, fn, base, scale, mix, inverse_rms, pre});
    keep_shape(context, shape);
    return {y, post, comb};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &fn = saved[1], &base = saved[2], &scale = saved[3], &mix = saved[4], &pre = saved[6];
    const fused::HcShape shape = kept_shape(context, x);
    const int64_t n = shape.n, hc = shape.hc;
    const Tensor dy = gradient(grads[0], {n, shape.d}, x), dpost = gradient(grads[1], {n, hc}, x);
    const Tensor dcomb = gradient(grads[2], {n, hc, hc}, x);
    const Tensor dx = zeros(x, x.sizes()), dpre = empty(x, {n, hc}), dmix = empty(x, mix.sizes());
    const Tensor dfn = zeros(x, fn.sizes()), dbase = zeros(x, base.sizes()), dscale = zeros(x, scale.sizes());
    fused::hc_collapse_backward(shape, data(x), data(pre), data(dy), data(dx), data(dpre));
    fused::hc_split_backward(shape, data(mix), data(scale), data(base), data(dpre), data(dpost), data(dcomb),
                             data(dmix), data(dscale), data(dbase));
    fused::hc_mixes_backward(shape, shape.n_mix(), data(x), data(fn), data(mix), data(saved[5]), data(dmix), data(dx),
                             data(dfn));
    return {dx, dfn, dbase, dscale, {}};
  }
};

struct HcPost : Function<HcPost> {
  static Tensor forward(AutogradContext* context, const Tensor& o_in, const Tensor& streams_in, const Tensor& post_in,
                        const Tensor& comb_in) {
    const Tensor o = o_in.contiguous(), x = streams_in.contiguous(), post = post_in.contiguous();
    const Tensor comb = comb_in.contiguous(), out = empty(x, x.sizes());
    const fused::HcShape shape{.n = x.size(0), .hc = x.size(1), .d = x.size(2)};
    fused::hc_mix_out(shape, data(o), data(x), data(post), data(comb), data(out));
    context->save_for_backward({o, x, post, comb});
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &o = saved[0], &x = saved[1], &post = saved[2], &comb = saved[3];
    const fused::HcShape shape{.n = x.size(0), .hc = x.size(1), .d = x.size(2)};
    const Tensor dout = grads[0].contiguous(), d_o = empty(x, o.sizes()), dx = empty(x, x.sizes());
    const Tensor dpost = empty(x, post.sizes()), dcomb = empty(x, comb.sizes());
    fused::hc_mix_out_backward(shape, data(o), data(x), data(post), data(comb), data(dout), data(d_o), data(dx),
                               data(dpost), data(dcomb));
    return {d_o, dx, dpost, dcomb};
  }
};

// The mixes alone, and the collapse alone: for the head, whose weights are few.
struct HcMixes : Function<HcMixes> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& fn,
                        const checkpoint::ModelConfig& config) {
    const Tensor x = input.contiguous();
    const fused::HcShape shape = hc_shape(x, config);
    const Tensor mix = empty(x, {shape.n, fn.size(0)}), inverse_rms = empty(x, {shape.n});
    fused::hc_mixes(shape, fn.size(0), data(x), data(fn), data(mix), data(inverse_rms));
    context->save_for_backward({x, fn, mix, inverse_rms});
    keep_shape(context, shape);
    return mix;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &fn = saved[1];
    const Tensor dmix = grads[0].contiguous(), dx = zeros(x, x.sizes()), dfn = zeros(x, fn.sizes());
    fused::hc_mixes_backward(kept_shape(context, x), fn.size(0), data(x), data(fn), data(saved[2]), data(saved[3]),
                             data(dmix), data(dx), data(dfn));
    return {dx, dfn, {}};
  }
};

struct HcCollapse : Function<HcCollapse> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& pre_in) {
    const Tensor x = input.contiguous(), pre = pre_in.contiguous();
    const Tensor y = empty(x, {x.size(0), x.size(2)});
    fused::hc_collapse({.n = x.size(0), .hc = x.size(1), .d = x.size(2)}, data(x), data(pre), data(y));
    context->save_for_backward({x, pre});
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &pre = saved[1];
    const Tensor dy = grads[0].contiguous(), dx = zeros(x, x.sizes()), dpre = empty(x, pre.sizes());
    fused::hc_collapse_backward({.n = x.size(0), .hc = x.size(1), .d = x.size(2)}, data(x), data(pre), data(dy),
                                data(dx), data(dpre));
    return {dx, dpre};
  }
};

struct Pool : Function<Pool> {
  static fused::PoolShape shape_of(const Tensor& first, const Tensor& has_previous, int64_t ratio, int64_t width) {
    const bool overlap = ratio == 4;
    return {.c = first.numel(),
            .ratio = ratio,
            .width = width,
            .dim = overlap ? width / 2 : width,
            .overlap = overlap,
            .first = first.data_ptr<int64_t>(),
            .has_previous = has_previous.data_ptr<bool>()};
  }
  static Tensor forward(AutogradContext* context, const Tensor& values_in, const Tensor& gates_in, const Tensor& ape,
                        const Blocks& blocks) {
    const Tensor values = values_in.contiguous(), gates = gates_in.contiguous();
    const auto shape = shape_of(blocks.first, blocks.has_previous, blocks.ratio, values.size(1));
    const Tensor e = empty(values, {shape.c, shape.dim});
    fused::pool(shape, data(values), data(gates), data(ape), data(e));
    context->save_for_backward({values, gates, ape, e, blocks.first, blocks.has_previous});
    context->saved_data["ratio"] = blocks.ratio;
    return e;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &values = saved[0], &gates = saved[1], &ape = saved[2], &e = saved[3];
    const auto shape = shape_of(saved[4], saved[5], context->saved_data["ratio"].toInt(), values.size(1));
    const Tensor de = grads[0].contiguous(), dvalues = zeros(values, values.sizes());
    const Tensor dgates = zeros(values, gates.sizes()), dape = zeros(values, ape.sizes());
    fused::pool_backward(shape, data(values), data(gates), data(ape), data(e), data(de), data(dvalues), data(dgates),
                         data(dape));
    return {dvalues, dgates, dape, {}};
  }
};

struct Attention : Function<Attention> {
  // constants: first, begin, count, row_begin, selected; all but the first may be undefined.
  static fused::AttendShape shape_of(const Tensor& q, int64_t b, int64_t window, const variable_list& constants,
                                     int64_t width) {
    const auto integers = [](const Tensor& x) { return x.defined() ? x.data_ptr<int64_t>() : nullptr; };
    return {.b = b,
            .t = q.size(0) / b,
            .heads = q.size(1),
            .hd = q.size(2),
            .window = window,
            .first = integers(constants[0]),
            .begin = integers(constants[1]),
            .count = integers(constants[2]),
            .row_begin = integers(constants[3]),
            .width = width,
            .selected = constants[4].defined() ? constants[4].data_ptr<bool>() : nullptr};
  }
  static variable_list forward(AutogradContext* context, const Tensor& q_in, const Tensor& kv_in,
                               const Tensor& entries_in, const Tensor& sink, const Attend& args) {
    const Tensor q = q_in.contiguous(), kv = kv_in.contiguous(), entries = entries_in.contiguous();
    const Blocks* blocks = entries.numel() > 0 ? args.blocks : nullptr;
    variable_list constants(5);
    constants[0] = args.packing.first;
    if (blocks) {
      constants[1] = blocks->begin;
      constants[2] = blocks->count;
      constants[3] = blocks->row_begin;
      if (args.selected.defined()) constants[4] = args.selected.contiguous();
    }
    const int64_t width = blocks ? blocks->width : 0;
    auto shape = shape_of(q, args.packing.b, args.window, constants, width);
    shape.rounds = args.rounds;
    const Tensor o = empty(q, q.sizes()), lse = empty(q, {q.size(0), q.size(1)});
    const Tensor mass = args.wants_mass && blocks ? zeros(q, {q.size(0), width}) : Tensor();
    fused::attend(shape, data(q), data(kv), data(entries), data(sink), data(o), data(lse),
                  mass.defined() ? data(mass) : nullptr);
    variable_list saved = {q, kv, entries, sink, lse};
    saved.insert(saved.end(), constants.begin(), constants.end());
    context->save_for_backward(saved);
    context->saved_data["b"] = args.packing.b;
    context->saved_data["window"] = args.window;
    context->saved_data["width"] = width;
    const Tensor mass_out = mass.defined() ? mass : empty(q, {0});
    context->mark_non_differentiable({lse, mass_out});
    return {o, lse, mass_out};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &q = saved[0], &kv = saved[1], &entries = saved[2], &sink = saved[3], &lse = saved[4];
    const auto shape = shape_of(q, context->saved_data["b"].toInt(), context->saved_data["window"].toInt(),
                                {saved.begin() + 5, saved.end()}, context->saved_data["width"].toInt());
    const Tensor d_o = grads[0].contiguous(), dq = empty(q, q.sizes()), dkv = zeros(q, kv.sizes());
    const Tensor dentries = zeros(q, entries.sizes()), dsink = zeros(q, sink.sizes());
    fused::attend_backward(shape, data(q), data(kv), data(entries), data(sink), data(lse), data(d_o), data(dq),
                           data(dkv), data(dentries), data(dsink));
    return {dq, dkv, dentries, dsink, {}};
  }
};

struct Swiglu : Function<Swiglu> {
  static Tensor forward(AutogradContext* context, const Tensor& gate_in, const Tensor& up_in, const Tensor& w_in,
                        double limit) {
    const Tensor gate = gate_in.contiguous(), up = up_in.contiguous(), w = w_in.contiguous();
    const Tensor h = empty(gate, gate.sizes());
    const int64_t m = gate.size(-1);
    fused::swiglu(data(gate), data(up), w.numel() > 0 ? data(w) : nullptr, gate.numel() / m, m,
                  static_cast<float>(limit), data(h));
    context->save_for_backward({gate, up, w});
    context->saved_data["limit"] = limit;
    return h;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1], &w = saved[2];
    const Tensor dh = grads[0].contiguous(), dg = empty(gate, gate.sizes()), du = empty(gate, gate.sizes());
    const Tensor dw = empty(gate, w.sizes());
    const int64_t m = gate.size(-1);
    const bool has_weight = w.numel() > 0;
    fused::swiglu_backward(data(gate), data(up), has_weight ? data(w) : nullptr, data(dh), gate.numel() / m, m,
                           static_cast<float>(context->saved_data["limit"].toDouble()), data(dg), data(du),
                           has_weight ? data(dw) : nullptr);
    return {dg, du, dw, {}};
  }
};

// Slots are the pairs (row, choice), sorted by expert and then by row: those of an expert lie
// together.
struct Routed : Function<Routed> {
  static variable_list forward(AutogradContext* context, const Tensor& x_in, const Tensor& weights_in,
                               const Tensor& w1_in, const Tensor& w2_in, const Tensor& w3_in, const Experts& args) {
    const Tensor x = x_in.contiguous(), weights = weights_in.contiguous(), ids = args.ids.contiguous();
    const Tensor w1 = w1_in.contiguous(), w2 = w2_in.contiguous(), w3 = w3_in.contiguous();
    const int64_t n_experts = w1.size(0), m = w1.size(1), d = x.size(1), k = ids.size(1), slots = ids.numel();
    const Tensor counts = torch::zeros({n_experts}, torch::kInt64), order = torch::empty({slots}, torch::kInt64);
    const Tensor rows = torch::empty({slots}, torch::kInt64), slot_weights = empty(x, {slots});
    const int64_t* id = ids.data_ptr<int64_t>();
    int64_t* count = counts.data_ptr<int64_t>();
    for (int64_t i = 0; i < slots; ++i) ++count[id[i]];
    std::vector<int64_t> next(static_cast<size_t>(n_experts), 0);
    for (int64_t e = 1; e < n_experts; ++e)
      next[static_cast<size_t>(e)] = next[static_cast<size_t>(e - 1)] + count[e - 1];
    for (int64_t i = 0; i < slots; ++i) {
      const int64_t slot = next[static_cast<size_t>(id[i])]++;
      order.data_ptr<int64_t>()[slot] = i;
      rows.data_ptr<int64_t>()[slot] = i / k;
      data(slot_weights)[slot] = data(weights)[i];
    }

    const Tensor own = empty(x, {slots, d}), gate = empty(x, {slots, m}), up = empty(x, {slots, m});
    const Tensor out = empty(x, {slots, d}), y = zeros(x, x.sizes());
    Tensor h = empty(x, {slots, m});
    fused::gather_rows(data(x), rows.data_ptr<int64_t>(), slots, d, data(own));
    const auto each_expert = [&](auto&& run) {
      for (int64_t e = 0, begin = 0; e < n_experts; begin += count[e], ++e)
        if (count[e] > 0) run(e, begin, count[e]);
    };
    each_expert([&](int64_t e, int64_t begin, int64_t c) {
      const fused::View own_rows{data(own) + begin * d, d};
      fused::gemm(c, m, d, own_rows, fused::View{data(w1) + e * m * d, d}.transposed(), data(gate) + begin * m, m,
                  false);
      fused::gemm(c, m, d, own_rows, fused::View{data(w3) + e * m * d, d}.transposed(), data(up) + begin * m, m, false);
    });
    const Tensor g = args.quantise ? round_to_bf16(gate) : gate, u = args.quantise ? round_to_bf16(up) : up;
    const int64_t beyond =
        fused::swiglu(data(g), data(u), data(slot_weights), slots, m, static_cast<float>(args.limit), data(h));
    if (args.quantise) h = quantise_fp8(round_to_bf16(h), 128);
    each_expert([&](int64_t e, int64_t begin, int64_t c) {
      fused::gemm(c, d, m, {data(h) + begin * m, m}, fused::View{data(w2) + e * m * d, m}.transposed(),
                  data(out) + begin * d, d, false);
    });
    const Tensor rounded = args.quantise ? round_to_bf16(out) : out;
    fused::add_rows(data(rounded), rows.data_ptr<int64_t>(), slots, d, data(y));

    context->save_for_backward({own, g, u, h, slot_weights, w1, w2, w3, counts, order, rows});
    context->saved_data["limit"] = args.limit;
    context->saved_data["n"] = x.size(0);
    context->saved_data["k"] = k;
    const Tensor clamped =
        torch::full({}, static_cast<double>(beyond) / static_cast<double>(slots * m), x.options().requires_grad(false));
    context->mark_non_differentiable({counts, clamped});
    return {y, counts, clamped};
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &own = saved[0], &gate = saved[1], &up = saved[2], &h = saved[3], &slot_weights = saved[4];
    const Tensor &w1 = saved[5], &w2 = saved[6], &w3 = saved[7];
    const int64_t* count = saved[8].data_ptr<int64_t>();
    const int64_t* rows = saved[10].data_ptr<int64_t>();
    const int64_t n_experts = w1.size(0), slots = own.size(0), d = own.size(1), m = gate.size(1);
    const int64_t n = context->saved_data["n"].toInt(), k = context->saved_data["k"].toInt();
    const Tensor dy = grads[0].contiguous(), dout = empty(own, {slots, d}), dh = empty(own, {slots, m});
    const Tensor dg = empty(own, {slots, m}), du = empty(own, {slots, m}), down = empty(own, {slots, d});
    const Tensor dw1 = zeros(own, w1.sizes()), dw2 = zeros(own, w2.sizes()), dw3 = zeros(own, w3.sizes());
    const Tensor dslot = empty(own, {slots}), dx = zeros(own, {n, d}), dweights = empty(own, {n, k});
    fused::gather_rows(data(dy), rows, slots, d, data(dout));
    const auto each_expert = [&](auto&& run) {
      for (int64_t e = 0, begin = 0; e < n_experts; begin += count[e], ++e)
        if (count[e] > 0) run(begin, count[e], e * m * d);
    };
    each_expert([&](int64_t begin, int64_t c, int64_t matrix) {
      const fused::View out_rows{data(dout) + begin * d, d}, h_rows{data(h) + begin * m, m};
      fused::gemm(c, m, d, out_rows, {data(w2) + matrix, m}, data(dh) + begin * m, m, false);
      fused::gemm(d, m, c, out_rows.transposed(), h_rows, data(dw2) + matrix, m, false);
    });
    fused::swiglu_backward(data(gate), data(up), data(slot_weights), data(dh), slots, m,
                           static_cast<float>(context->saved_data["limit"].toDouble()), data(dg), data(du),
                           data(dslot));
    each_expert([&](int64_t begin, int64_t c, int64_t matrix) {
      const fused::View own_rows{data(own) + begin * d, d}, g_rows{data(dg) + begin * m, m},
          u_rows{data(du) + begin * m, m};
      fused::gemm(m, d, c, g_rows.transposed(), own_rows, data(dw1) + matrix, d, false);
      fused::gemm(m, d, c, u_rows.transposed(), own_rows, data(dw3) + matrix, d, false);
      fused::gemm(c, d, m, g_rows, {data(w1) + matrix, d}, data(down) + begin * d, d, false);
      fused::gemm(c, d, m, u_rows, {data(w3) + matrix, d}, data(down) + begin * d, d, true);
    });
    fused::add_rows(data(down), rows, slots, d, data(dx));
    for (int64_t i = 0; i < slots; ++i) data(dweights)[saved[9].data_ptr<int64_t>()[i]] = data(dslot)[i];
    return {dx, dweights, dw1, dw2, dw3, {}};
  }
};

Tensor or_empty(const Tensor& x, const Tensor& like) { return x.defined() ? x : empty(like, {0}); }

}  // namespace

bool applies(const Tensor& x, int64_t width) {
  static const bool supported = fused::supported();
  return supported && !is_plain() && x.device().is_cpu() && x.scalar_type() == torch::kFloat32 &&
         width % fused::kLanes == 0;
}

Tensor linear(const Tensor& x, const Tensor& w) { return Linear::apply(x, w); }

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return RmsNorm::apply(x, or_empty(weight, x), eps);
}

Tensor rotate(const Tensor& x, const Rotation& rotation, bool inverse) {
  return Rotate::apply(x, rotation.cos.contiguous(), rotation.sin.contiguous(), inverse ? -1.0 : 1.0);
}

HcSplit hc_pre(const Tensor& streams, const HyperConnection& hc, const checkpoint::ModelConfig& config) {
  const auto out = HcPre::apply(streams, hc.fn, hc.base, hc.scale, config);
  return {out[0], out[1], out[2]};
}

Tensor hc_post(const Tensor& o, const Tensor& streams, const HcSplit& split) {
  return HcPost::apply(o, streams, split.post, split.comb);
}

Tensor hc_head(const Tensor& streams, const HyperConnection& hc, const checkpoint::ModelConfig& config) {
  const Tensor mix = HcMixes::apply(streams, hc.fn, config);
  return HcCollapse::apply(streams, torch::sigmoid(mix * hc.scale + hc.base) + static_cast<double>(config.hc_eps));
}

Tensor pool(const Tensor& values, const Tensor& gates, const Tensor& ape, const Blocks& blocks) {
  return Pool::apply(values, gates, ape, blocks);
}

Attended attend(const Attend& args) {
  const auto out = Attention::apply(args.q, args.kv, or_empty(args.entries, args.q), args.sink, args);
  Attended attended{.o = out[0], .mass = {}, .sink_mass = torch::exp(args.sink.detach() - out[1]).mean()};
  if (args.wants_mass && args.entries.defined()) attended.mass = out[2];
  return attended;
}

Tensor swiglu(const Tensor& gate, const Tensor& up, const Tensor& w, double limit) {
  return Swiglu::apply(gate, up, or_empty(w, gate), limit);
}

ExpertsOut experts(const Experts& args) {
  const auto out = Routed::apply(args.x, args.weights, args.w1, args.w2, args.w3, args);
  return {.y = out[0], .counts = out[1], .clamped = out[2]};
}

}  // namespace hadal::train::by_hand
