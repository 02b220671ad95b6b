#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace hadal::serve {
namespace {

// A label's value may hold anything but these.
std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) text += c == '\\' ? "\\\\" : c == '"' ? "\\\"" : c == '\n' ? "\\n" : std::string(1, c);
  return text;
}

}  // namespace

void Metrics::Histogram::add(double seconds) {
  ++counts[static_cast<size_t>(std::lower_bound(kBounds.begin(), kBounds.end(), seconds) - kBounds.begin())];
  sum += seconds;
}

void Metrics::request(const std::string& endpoint, int status) {
  const std::lock_guard lock(mutex_);
  ++requests_[{endpoint, status}];
}

void Metrics::token_after(double seconds) {
  const std::lock_guard lock(mutex_);
  times_[kBetween].add(seconds);
}

void Metrics::finished(const std::string& reason, const Timing& timing, int64_t reasoning_tokens, int64_t tool_calls,
                       int64_t repaired) {
  const std::lock_guard lock(mutex_);
  ++finished_[reason];
  reasoning_tokens_ += reasoning_tokens;
  tool_calls_ += tool_calls;
  repaired_ += repaired;
  if (timing.started >= 0) times_[kQueue].add(timing.started);
  if (timing.first_token >= 0) {
    times_[kFirstToken].add(timing.first_token);
    times_[kPrefill].add(timing.first_token - timing.started);
    times_[kDecode].add(timing.last_token - timing.first_token);
  }
  if (timing.done >= 0) times_[kWhole].add(timing.done);
}

std::string Metrics::text(const Now& now) const {
  const std::string own = fmt::format("model=\"{}\"", escaped(now.model)),
                    other = fmt::format("model_name=\"{}\"", escaped(now.model));
  std::string out;
  const auto family = [&](const std::string& name, const char* type, const char* help) {
    out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  };
  const auto value = [&](const std::string& name, const std::string& labels, auto number) {
    out += fmt::format("{}{{{}}} {}\n", name, labels, number);
  };
  // alias: vLLM's name of the same; empty: it has none.
  const auto one = [&](const char* name, const char* alias, const char* type, const char* help, auto number) {
    family(name, type, help);
    value(name, own, number);
    if (*alias == 0) return;
    family(alias, type, help);
    value(alias, other, number);
  };
  const Counters& c = now.counters;
  one("hadal_requests_running", "vllm:num_requests_running", "gauge", "Answers that are being made.", c.running);
  one("hadal_requests_waiting", "vllm:num_requests_waiting", "gauge", "Requests that wait for a place.", c.waiting);
  one("hadal_prompt_tokens_total", "vllm:prompt_tokens_total", "counter", "Tokens of prompts.", c.prompt_tokens);
  one("hadal_generation_tokens_total", "vllm:generation_tokens_total", "counter", "Tokens of answers.", c.tokens);
  one("hadal_suspensions_total", "vllm:num_preemptions_total", "counter",
      "Answers that gave their memory back for a while.", c.suspended);
  family("vllm:prefix_cache_queries_total", "counter", "Tokens of prompts.");
  value("vllm:prefix_cache_queries_total", other, c.prompt_tokens);
  one("hadal_cache_miss_tokens_total", "", "counter", "Tokens of prompts that were read.",
      c.prompt_tokens - c.reused_tokens);
  family("hadal_cache_hit_tokens_total", "counter", "Tokens of prompts that were not computed again.");
  value("hadal_cache_hit_tokens_total", own + ",tier=\"memory\"", c.reused_tokens - c.from_disk_tokens);
  value("hadal_cache_hit_tokens_total", own + ",tier=\"disk\"", c.from_disk_tokens);
  family("vllm:prefix_cache_hits_total", "counter", "Tokens of prompts that were not computed again.");
  value("vllm:prefix_cache_hits_total", other, c.reused_tokens);
  const cache::StoreCounters disk = now.store.value_or(cache::StoreCounters{});
  family("hadal_cache_bytes", "gauge", "States that rest.");
  value("hadal_cache_bytes", own + ",tier=\"memory\"", c.resting_bytes);
  value("hadal_cache_bytes", own + ",tier=\"disk\"", disk.bytes);
  family("hadal_cache_evictions_total", "counter", "States and units that had to go.");
  value("hadal_cache_evictions_total", own + ",tier=\"memory\"", c.evicted);
  value("hadal_cache_evictions_total", own + ",tier=\"disk\"", disk.evicted);
  one("hadal_cache_units", "", "gauge", "Units on disk.", disk.units);
  one("hadal_cache_saved_bytes_total", "", "counter", "Written to disk.", disk.saved_bytes);
  one("hadal_cache_save_seconds_total", "", "counter", "Seconds of writing.", disk.save_s);
  one("hadal_cache_loaded_bytes_total", "", "counter", "Read from disk.", disk.loaded_bytes);
  one("hadal_cache_load_seconds_total", "", "counter", "Seconds of reading.", disk.load_s);
  one("hadal_cache_disk_failures_total", "", "counter", "Writes and reads that the system refused.", disk.failed);
  one("hadal_cache_damaged_units_total", "", "counter", "Units that were damaged, and removed.", disk.damaged);
  one("hadal_cache_skipped_saves_total", "", "counter", "States that were not written.", disk.skipped);
  one("hadal_client_disconnects_total", "", "counter", "Clients that left before their answer's end.", c.cancelled);
  const double usage =
      now.state_bytes_limit > 0 ? static_cast<double>(c.state_bytes) / static_cast<double>(now.state_bytes_limit) : 0;
  one("hadal_kv_usage_ratio", "vllm:kv_cache_usage_perc", "gauge", "Memory of conversations, of what they may use.",
      usage);
  one("process_resident_memory_bytes", "", "gauge", "Resident memory of the process.", now.resident_bytes);

  const Cost& cost = now.accounts.cost;
  family("hadal_cost_usd_total", "counter", "What the answers cost by the price table.");
  for (const auto& [kind, amount] :
       {std::pair{"hit", cost.hit}, std::pair{"miss", cost.miss}, std::pair{"output", cost.output}})
    value("hadal_cost_usd_total", fmt::format("{},kind=\"{}\"", own, kind), usd_text(amount));
  const Ledger::Seen& ledger = now.accounts.ledger;
  one("hadal_ledger_rows_total", "", "counter", "Rows written to the ledger.", ledger.written);
  one("hadal_ledger_failures_total", "", "counter", "Times that the ledger could not be written.", ledger.failures);
  one("hadal_ledger_lost_total", "", "counter", "Rows given up because too many waited.", ledger.lost);

  const std::lock_guard lock(mutex_);
  one("hadal_reasoning_tokens_total", "", "counter", "Tokens of answers inside their reasoning.", reasoning_tokens_);
  one("hadal_tool_calls_total", "", "counter", "Complete tool calls.", tool_calls_);
  one("hadal_tool_parse_recovered_total", "", "counter", "Departures from the grammar of calls that were mended.",
      repaired_);
  family("hadal_requests_total", "counter", "Requests by endpoint and status.");
  for (const auto& [key, count] : requests_)
    value("hadal_requests_total", fmt::format("{},endpoint=\"{}\",code=\"{}\"", own, escaped(key.first), key.second),
          count);
  family("hadal_finish_total", "counter", "Answers by how they ended.");
  for (const auto& [reason, count] : finished_)
    value("hadal_finish_total", fmt::format("{},reason=\"{}\"", own, reason), count);
  family("vllm:request_success_total", "counter", "Answers by how they ended.");
  for (const auto& [reason, count] : finished_)
    if (reason == "stop" || reason == "length" || reason == "tool_calls")
      value("vllm:request_success_total", fmt::format("{},finished_reason=\"{}\"", other, reason), count);

  static constexpr struct {
    Kind kind;
    const char *own, *alias, *help;
  } kTimes[] = {
      {kFirstToken, "hadal_time_to_first_token_seconds", "vllm:time_to_first_token_seconds",
       "From a request's arrival to its first token."},
      {kBetween, "hadal_inter_token_latency_seconds", "vllm:inter_token_latency_seconds", "Between two tokens."},
      {kWhole, "hadal_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds",
       "From a request's arrival to the end of its answer."},
      {kQueue, "hadal_queue_time_seconds", "vllm:request_queue_time_seconds", "Waiting for a place."},
      {kPrefill, "hadal_prefill_time_seconds", "vllm:request_prefill_time_seconds",
       "From a request's start to its first token."},
      {kDecode, "hadal_decode_time_seconds", "vllm:request_decode_time_seconds",
       "From a request's first token to its last."}};
  for (const auto& time : kTimes)
    for (const auto& [name, labels] : {std::pair{time.own, &own}, std::pair{time.alias, &other}}) {
      family(name, "histogram", time.help);
      const Histogram& histogram = times_[time.kind];
      int64_t total = 0;
      for (size_t i = 0; i <= kBounds.size(); ++i) {
        total += histogram.counts[i];
        value(std::string(name) + "_bucket",
              *labels + ",le=\"" + (i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf") + "\"", total);
      }
      value(std::string(name) + "_sum", *labels, histogram.sum);
      value(std::string(name) + "_count", *labels, total);
    }
  return out;
}

}  // namespace hadal::serve
