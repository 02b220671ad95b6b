#include "checkpoint/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "base/file.h"

namespace hadal::checkpoint {
namespace {

int64_t number_in(const std::string& path) {  // -1: no file, or "max"
  const auto text = read_file(path, 4096);
  if (!text.ok() || text.value().empty() || text.value()[0] < '0' || text.value()[0] > '9') return -1;
  return std::strtoll(text.value().c_str(), nullptr, 10);
}

int64_t field_in(const std::string& text, std::string_view name) {  // "name 123" on a line of its own; 0: not there
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (text.compare(at, name.size(), name) == 0 && at + name.size() < end && text[at + name.size()] == ' ')
      return std::strtoll(text.c_str() + at + name.size(), nullptr, 10);
    at = end + 1;
  }
  return 0;
}

// What one control group leaves, or -1 if it sets no limit. Its use counts page cache, which can be dropped.
int64_t left_in_group(const std::string& group, bool v2) {
  const int64_t limit = number_in(group + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
  const int64_t used = number_in(group + (v2 ? "/memory.current" : "/memory.usage_in_bytes"));
  if (limit < 0 || limit > (int64_t{1} << 60) || used < 0) return -1;
  const auto stat = read_file(group + "/memory.stat", 1 << 16);
  int64_t cache = 0;
  if (stat.ok())
    for (const char* list : {"active_file", "inactive_file"})
      cache += field_in(stat.value(), v2 ? std::string(list) : std::string("total_") + list);
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cache));
}

}  // namespace

int64_t available_memory(const std::string& root) {
  int64_t available = std::numeric_limits<int64_t>::max();
  if (const auto text = read_file(root + "/proc/meminfo", 1 << 16); text.ok()) {
    const size_t at = text.value().find("MemAvailable:");
    if (at != std::string::npos) available = 1024 * std::strtoll(text.value().c_str() + at + 13, nullptr, 10);
  }
  // This process's group and all above it: a limit of any of them binds. Inside a container the path may be the
  // host's and not be there; the last step, the root of the mount, is then the container's own group.
  const auto groups = read_file(root + "/proc/self/cgroup", 1 << 16);
  const std::string text = groups.ok() ? groups.value() : "";
  for (size_t at = 0; at < text.size();) {  // lines "0::/path" (v2) and "4:memory:/path" (v1)
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",memory,") == std::string::npos) continue;
    const std::string mount = root + "/sys/fs/cgroup" + (v2 ? "" : "/memory");
    for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {
      if (const int64_t left = left_in_group(mount + path, v2); left >= 0) available = std::min(available, left);
      if (path.find('/') == std::string::npos) break;
    }
  }
  return available;
}

std::string human_bytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes)
                   : fmt::format("{:.{}f} {}", value,
                                 value < 10    ? 2
                                 : value < 100 ? 1
                                               : 0,
                                 kUnits[unit]);
}

Plan make_plan(const Summary& summary, int64_t working_bytes, int64_t available_bytes) {
  Plan plan{.verdict = Plan::Verdict::kFits,
            .weight_bytes = summary.total_bytes,
            .working_bytes = working_bytes,
            .available_bytes = available_bytes,
            .seconds_per_token = 0,
            .sentence = {}};
  const std::string needs = fmt::format("weights {}, working memory {}; {} available", human_bytes(plan.weight_bytes),
                                        human_bytes(working_bytes), human_bytes(available_bytes));
  if (working_bytes > available_bytes) {
    plan.verdict = Plan::Verdict::kRefuse;
    plan.sentence = fmt::format("not enough memory: {} (a shorter context needs less)", needs);
  } else if (plan.weight_bytes + working_bytes > available_bytes) {
    plan.verdict = Plan::Verdict::kPages;
    const double resident =
        static_cast<double>(available_bytes - working_bytes) / static_cast<double>(plan.weight_bytes);
    plan.seconds_per_token = (1 - resident) * static_cast<double>(summary.bytes_per_token) / kAssumedDiskRate;
    plan.sentence =
        fmt::format("{}: will page: about {:.1f} s per token (at 1 GB/s from disk)", needs, plan.seconds_per_token);
  } else {
    plan.sentence = needs;
  }
  return plan;
}

void warm_up(const Checkpoint& checkpoint, int64_t max_bytes, const std::atomic<bool>* cancel,
             const std::function<void(int64_t, int64_t)>& progress) {
  constexpr uint64_t kStep = uint64_t{64} << 20;
  int64_t total = 0, done = 0;
  for (const FileMap& shard : checkpoint.shards()) total += static_cast<int64_t>(shard.bytes().size());
  total = std::min(total, max_bytes);
  for (const FileMap& shard : checkpoint.shards())
    for (uint64_t begin = 0; begin < shard.bytes().size(); begin += kStep) {
      if (done >= total || (cancel && cancel->load())) return;
      shard.populate(begin, kStep);
      done += static_cast<int64_t>(std::min<uint64_t>(kStep, shard.bytes().size() - begin));
      if (progress) progress(std::min(done, total), total);
    }
}

}  // namespace hadal::checkpoint
