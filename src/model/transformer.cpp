#include "model/transformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "model/attention.h"
#include "model/hyper_connections.h"
#include "model/moe.h"

namespace hadal::model {
namespace {

// Batch rows whose logits are wanted: the last n_logits of every segment.
template <class S>
std::vector<int64_t> wanted_rows(std::span<const S> batch, const std::vector<Segment>& segments) {
  std::vector<int64_t> rows;
  for (size_t s = 0; s < batch.size(); ++s) {
    const int64_t end = segments[s].first_row + segments[s].n;
    for (int64_t row = end - std::min(batch[s].n_logits, segments[s].n); row < end; ++row) rows.push_back(row);
  }
  return rows;
}

void add_segment(Step& step, kv::SequenceState& state, int64_t start, std::span<const TokenId> tokens) {
  step.segments.push_back({&state, start, step.n_rows(), static_cast<int64_t>(tokens.size())});
  for (size_t i = 0; i < tokens.size(); ++i) step.rows.push_back({tokens[i], start + static_cast<int64_t>(i)});
}

}  // namespace

Result<Transformer> Transformer::bind(const checkpoint::Checkpoint& checkpoint, Numerics numerics,
                                      const kernels::Isa& isa, ThreadPool& pool) {
  Transformer model;
  model.config_ = &checkpoint.config();
  model.isa_ = &isa;
  model.pool_ = &pool;
  model.weights_ = HADAL_TRY(Weights::bind(checkpoint, numerics));
  model.layout_ =
      std::make_shared<const kv::Layout>(kv::Layout::from(checkpoint.config(), checkpoint.draft(), numerics));
  for (const bool compressed : {false, true}) model.rope_[compressed] = RopeTable::make(*model.config_, compressed);
  return model;
}

Step Transformer::make_step() {
  work_.thread_scratch.resize(static_cast<size_t>(pool_->size()));
  return Step{.pool = *pool_,
              .isa = *isa_,
              .config = *config_,
              .layout = *layout_,
              .rope = rope_,
              .work = work_,
              .probe = probe_,
              .faithful = layout_->numerics == Numerics::kFaithful,
              .rows = {},
              .segments = {}};
}

void Transformer::embed(TokenId token, float* row) const {
  const int64_t d = config_->dim;
  if (weights_.embed.dtype == Dtype::kBf16) {
    isa_->bf16_row(weights_.embed.data + 2 * d * token, d, row);
  } else {
    std::memcpy(row, weights_.embed.data + 4 * d * token, static_cast<size_t>(4 * d));
  }
}

Status Transformer::check_tokens(std::span<const TokenId> tokens, int64_t start) const {
  for (const TokenId token : tokens)
    if (token < 0 || token >= config_->vocab_size)
      return Error{Code::kInvalid, fmt::format("token id: expected 0 to {}, found {}", config_->vocab_size - 1, token)};
  const int64_t end = start + static_cast<int64_t>(tokens.size());
  if (end > config_->max_position_embeddings)
    return Error{Code::kInvalid, fmt::format("context: expected at most {} tokens (max_position_embeddings), found {}",
                                             config_->max_position_embeddings, end)};
  return {};
}

Block& Transformer::block(int layer) {
  return layer < config_->n_layers ? weights_.layers[static_cast<size_t>(layer)]
                                   : weights_.mtp[static_cast<size_t>(layer - config_->n_layers)].block;
}

// h: [t, hc, d], in place
void Transformer::run_block(Step& step, Block& block, int layer, float* h) {
  const int64_t t = step.n_rows(), d = config_->dim;
  float* y = work_.mixed.take(t * d);
  float* x = work_.normed.take(t * d);
  float* o = work_.sublayer_out.take(t * d);
  const auto norm = [&](const std::vector<float>& weight) {
    step.each_row([&](int64_t i) {
      step.isa.rms_norm(y + i * d, weight.data(), d, config_->norm_eps, step.faithful, x + i * d);
    });
  };

  HcSplit split = hc_pre(step, block.hc_attn, h, y);
  norm(block.attn_norm);
  step.tap(layer, "attn_in", {t, d}, x);
  attention(step, block.attn, layer, x, o);
  step.tap(layer, "attn_out", {t, d}, o);
  hc_post(step, split, o, h);

  split = hc_pre(step, block.hc_ffn, h, y);
  norm(block.ffn_norm);
  step.tap(layer, "ffn_in", {t, d}, x);
  moe(step, block.ffn, layer, x, o);
  step.tap(layer, "ffn_out", {t, d}, o);
  hc_post(step, split, o, h);
  step.tap(layer, "block_out", {t, config_->hc_mult, d}, h);
}

void Transformer::run_head(Step& step, const Head& head, const float* streams, std::span<const int64_t> rows,
                           float* logits) {
  const int64_t n = static_cast<int64_t>(rows.size()), d = config_->dim, width = config_->hc_mult * d;
  if (n == 0) return;
  float* h = work_.head_rows.take(n * width);
  for (int64_t i = 0; i < n; ++i)
    std::memcpy(h + i * width, streams + rows[static_cast<size_t>(i)] * width,
                sizeof(float) * static_cast<size_t>(width));
  float* z = work_.head_normed.take(n * d);
  hc_head(step, head.hc, h, n, z);
  pool_->run(n, [&](int64_t i, int) {
    isa_->rms_norm(z + i * d, head.norm.data(), d, config_->norm_eps, step.faithful, z + i * d);
  });
  const kernels::LinearJob job{.weight = &weights_.head,
                               .input = kernels::plain_input(z, d, d),
                               .n_tokens = n,
                               .n_rows = weights_.head.rows,
                               .out = logits,
                               .out_stride = config_->vocab_size};
  kernels::linear(*pool_, *isa_, {&job, 1});
}

Status Transformer::forward(std::span<const Sequence> batch, std::vector<float>& logits, std::vector<float>* streams) {
  Step step = make_step();
  for (const Sequence& sequence : batch) {
    HADAL_TRY(check_tokens(sequence.tokens, sequence.state->length()));
    add_segment(step, *sequence.state, sequence.state->length(), sequence.tokens);
  }
  logits.clear();
  if (step.rows.empty()) return {};
  step.prepare_angles();

  const int64_t d = config_->dim, hc = config_->hc_mult, width = hc * d;
  float* h = work_.streams.take(step.n_rows() * width);
  step.each_row([&](int64_t i) {
    embed(step.row(i).token, h + i * width);
    for (int64_t j = 1; j < hc; ++j)
      std::memcpy(h + i * width + j * d, h + i * width, sizeof(float) * static_cast<size_t>(d));
  });
  for (int layer = 0; layer < config_->n_layers; ++layer)
    run_block(step, weights_.layers[static_cast<size_t>(layer)], layer, h);

  const std::vector<int64_t> rows = wanted_rows(batch, step.segments);
  logits.resize(rows.size() * static_cast<size_t>(config_->vocab_size));
  run_head(step, weights_.final, h, rows, logits.data());
  if (streams) streams->assign(h, h + step.n_rows() * width);
  for (const Segment& segment : step.segments) {
    if (segment.n == 0) continue;
    if (has_mtp()) {
      const float* last = h + (segment.first_row + segment.n - 1) * width;
      segment.state->last_hidden().assign(last, last + width);
    }
    segment.state->advance(segment.n);
  }
  return {};
}

// X0[j] = R( e_proj RMSNorm(embed[token i+1]) + h_proj RMSNorm(X_i[j]) ), then the block and its own head.
Status Transformer::mtp(std::span<const MtpSequence> batch, std::vector<float>& logits, std::vector<float>* streams) {
  if (!has_mtp()) return Error{Code::kUnsupported, "the checkpoint has no MTP block"};
  Step step = make_step();
  const int64_t d = config_->dim, hc = config_->hc_mult, width = hc * d;
  MtpBlock& mtp = weights_.mtp.front();
  for (const MtpSequence& sequence : batch) {
    HADAL_TRY(check_tokens(sequence.next_tokens, sequence.state->draft_length()));
    add_segment(step, *sequence.state, sequence.state->draft_length(), sequence.next_tokens);
  }
  logits.clear();
  const int64_t t = step.n_rows();
  if (t == 0) return {};
  step.prepare_angles();

  float* e = work_.mtp_embed.take(t * d);
  float* x = work_.mtp_hidden.take(t * width);
  for (size_t s = 0; s < batch.size(); ++s)
    std::memcpy(x + step.segments[s].first_row * width, batch[s].streams,
                sizeof(float) * static_cast<size_t>(step.segments[s].n * width));
  step.each_row([&](int64_t i) {
    embed(step.row(i).token, e + i * d);
    step.isa.rms_norm(e + i * d, mtp.enorm.data(), d, config_->norm_eps, step.faithful, e + i * d);
    for (int64_t j = 0; j < hc; ++j) {
      float* stream = x + i * width + j * d;
      step.isa.rms_norm(stream, mtp.hnorm.data(), d, config_->norm_eps, step.faithful, stream);
    }
  });
  work_.mtp_embed_input.set(e, d, t, d);
  work_.mtp_hidden_input.set(x, d, t * hc, d);
  float* e_out = work_.mtp_embed_out.take(t * d);
  float* h = work_.mtp_hidden_out.take(t * width);
  const kernels::LinearJob jobs[] = {step.job(mtp.e_proj, work_.mtp_embed_input, e_out),
                                     step.job(mtp.h_proj, work_.mtp_hidden_input, h)};
  kernels::linear(*pool_, *isa_, jobs);
  step.each_row([&](int64_t i) {
    for (int64_t j = 0; j < hc; ++j) step.isa.add(e_out + i * d, d, h + i * width + j * d);
    if (step.faithful) step.isa.round_row(h + i * width, width);
  });
  run_block(step, mtp.block, config_->n_layers, h);

  const std::vector<int64_t> rows = wanted_rows(batch, step.segments);
  logits.resize(rows.size() * static_cast<size_t>(config_->vocab_size));
  run_head(step, mtp.head, h, rows, logits.data());
  if (streams) streams->assign(h, h + t * width);
  for (const Segment& segment : step.segments) segment.state->advance_draft(segment.n);
  return {};
}

Status Transformer::attention_only(int layer, kv::SequenceState& state, std::span<const float> x,
                                   std::vector<float>& out) {
  Step step = make_step();
  const std::vector<TokenId> no_tokens(x.size() / static_cast<size_t>(config_->dim), 0);
  const bool is_draft = layer >= config_->n_layers;
  add_segment(step, state, is_draft ? state.draft_length() : state.length(), no_tokens);
  step.prepare_angles();
  out.resize(x.size());
  attention(step, block(layer).attn, layer, x.data(), out.data());
  return {};
}

Status Transformer::moe_only(int layer, std::span<const TokenId> tokens, std::span<const float> x,
                             std::vector<float>& out) {
  Step step = make_step();
  HADAL_TRY(check_tokens(tokens, 0));
  for (const TokenId token : tokens) step.rows.push_back({token, 0});
  out.resize(x.size());
  moe(step, block(layer).ffn, layer, x.data(), out.data());
  return {};
}

}  // namespace hadal::model
