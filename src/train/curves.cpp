#include "train/curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "base/output_file.h"
#include "train/run.h"

namespace hadal::train {
namespace {

constexpr double kWidth = 640, kHeight = 260, kLeft = 62, kRight = 12, kTop = 30, kBottom = 34;
constexpr size_t kMostPoints = 400;
constexpr const char* kColours[] = {"#3b7dd8", "#d9822b", "#3a9d5d", "#c0392b",
                                    "#8e5bc0", "#7a6a53", "#2aa198", "#999999"};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

// 1, 2 or 5 times a power of ten, so that about `n` steps fit.
double tick_step(double span, int n) {
  const double rough = span / n, power = std::pow(10, std::floor(std::log10(rough)));
  const double lead = rough / power;
  return power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}

std::string tick_text(double value) {
  if (value == 0) return "0";
  const double size = std::fabs(value);
  if (size >= 1e9) return fmt::format("{:g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:g}k", value / 1e3);
  return fmt::format("{:.4g}", value);
}

// Means over equal stretches of x.
Series thinned(const Series& series) {
  if (series.x.size() <= kMostPoints) return series;
  Series out{series.name, {}, {}};
  const size_t n = series.x.size();
  for (size_t i = 0; i < kMostPoints; ++i) {
    const size_t begin = i * n / kMostPoints, end = (i + 1) * n / kMostPoints;
    double x = 0, y = 0;
    for (size_t k = begin; k < end; ++k) {
      x += series.x[k];
      y += series.y[k];
    }
    out.x.push_back(x / static_cast<double>(end - begin));
    out.y.push_back(y / static_cast<double>(end - begin));
  }
  return out;
}

struct Axis {
  double low = 0, high = 1;
  double from = 0, to = 1;  // pixels
  double at(double value) const { return from + (value - low) / (high - low) * (to - from); }
  std::vector<double> ticks(int n) const {
    std::vector<double> ticks;
    const double step = tick_step(high - low, n);
    for (double t = std::ceil(low / step) * step; t <= high + 1e-9 * step; t += step)
      ticks.push_back(std::fabs(t) < 1e-9 * step ? 0 : t);
    return ticks;
  }
};

}  // namespace

std::string svg(const Chart& chart, std::string_view x_label) {
  std::vector<Series> drawn;
  bool any = false;
  Axis x{0, 1, kLeft, kWidth - kRight}, y{0, 1, kHeight - kBottom, kTop};
  for (const Series& raw : chart.series) {
    Series kept{raw.name, {}, {}};
    for (size_t i = 0; i < raw.x.size(); ++i) {
      if (!std::isfinite(raw.y[i]) || (chart.log_y && raw.y[i] <= 0)) continue;
      kept.x.push_back(raw.x[i]);
      kept.y.push_back(chart.log_y ? std::log10(raw.y[i]) : raw.y[i]);
    }
    kept = thinned(kept);
    for (size_t i = 0; i < kept.x.size(); ++i) {
      x.low = any ? std::min(x.low, kept.x[i]) : kept.x[i];
      x.high = any ? std::max(x.high, kept.x[i]) : kept.x[i];
      y.low = any ? std::min(y.low, kept.y[i]) : kept.y[i];
      y.high = any ? std::max(y.high, kept.y[i]) : kept.y[i];
      any = true;
    }
    drawn.push_back(std::move(kept));
  }
  if (x.high <= x.low) x.high = x.low + 1;
  const double margin = y.high > y.low ? 0.05 * (y.high - y.low) : std::max(1e-6, 0.05 * std::fabs(y.high));
  if (!chart.log_y && y.low >= 0 && y.low < 0.3 * y.high) y.low = margin;  // near zero: show zero
  y.low -= margin;
  y.high += margin;

  std::string out =
      fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\"><title>{}</title>\n", kWidth, kHeight, escaped(chart.title));
  out += fmt::format("<text class=\"t\" x=\"{}\" y=\"18\">{}</text>\n", kLeft, escaped(chart.title));
  for (const double tick : y.ticks(5)) {
    out += fmt::format("<line class=\"g\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", kLeft, kWidth - kRight,
                       y.at(tick), y.at(tick));
    out += fmt::format("<text class=\"y\" x=\"{}\" y=\"{:.1f}\">{}</text>\n", kLeft - 6, y.at(tick) + 4,
                       tick_text(chart.log_y ? std::pow(10, tick) : tick));
  }
  for (const double tick : x.ticks(6))
    out +=
        fmt::format("<text class=\"x\" x=\"{:.1f}\" y=\"{}\">{}</text>\n", x.at(tick), kHeight - 18, tick_text(tick));
  out += fmt::format("<text class=\"x\" x=\"{}\" y=\"{}\">{}</text>\n", (kLeft + kWidth - kRight) / 2, kHeight - 4,
                     escaped(x_label));
  double legend = kWidth - kRight;
  for (size_t i = drawn.size(); i-- > 0;) {  // the legend, from the right
    const char* colour = kColours[i % std::size(kColours)];
    if (drawn.size() > 1) {
      out += fmt::format("<text class=\"l\" x=\"{:.0f}\" y=\"18\" fill=\"{}\">{}</text>\n", legend, colour,
                         escaped(drawn[i].name));
      legend -= 14 + 6.2 * static_cast<double>(drawn[i].name.size());
    }
    std::string points;
    for (size_t k = 0; k < drawn[i].x.size(); ++k)
      points += fmt::format("{}{:.1f},{:.1f}", k ? " " : "", x.at(drawn[i].x[k]), y.at(drawn[i].y[k]));
    if (drawn[i].x.size() == 1) {
      out += fmt::format("<circle r=\"3\" cx=\"{:.1f}\" cy=\"{:.1f}\" fill=\"{}\"/>\n", x.at(drawn[i].x[0]),
                         y.at(drawn[i].y[0]), colour);
    } else if (!points.empty()) {
      out += fmt::format("<polyline stroke=\"{}\" points=\"{}\"/>\n", colour, points);
    }
  }
  return out + "</svg>\n";
}

Result<std::string> curves_page(std::string_view log, std::string_view title) {
  std::map<std::string, Series> series;  // by key of the log; recall's buckets as "recall/<bucket>"
  std::vector<std::string> buckets;
  int64_t n_steps = 0, tokens = 0, tokens_per_step = 0;
  double seconds = 0;
  const auto add = [&](const std::string& key, double x, double y) {
    Series& one = series[key];
    one.x.push_back(x);
    one.y.push_back(y);
  };
  for (size_t begin = 0; begin < log.size();) {
    const size_t end = std::min(log.find('\n', begin), log.size());
    const auto line = json::parse(log.substr(begin, end - begin));
    begin = end + 1;
    const json::Value* at = line.ok() ? line.value().find("step") : nullptr;
    if (!at || !at->is_number()) continue;  // cut off by a crash
    const double step = at->to_double().value_or(0) + 1;
    if (line.value().find("loss")) ++n_steps;
    for (const auto& [key, value] : line.value().as_object()) {
      if (key == "recall" && value.is_object()) {
        for (const auto& [bucket, accuracy] : value.as_object()) {
          const std::string name = "recall/" + bucket;
          if (!series.contains(name)) buckets.push_back(name);
          add(name, step, accuracy.to_double().value_or(0));
        }
      } else if (key == "tokens" && value.is_number()) {
        const int64_t now = value.to_int64().value_or(0);
        tokens_per_step = now - tokens;
        tokens = now;
      } else if (value.is_number() && key != "step") {
        if (key == "seconds") seconds += value.to_double().value_or(0);
        add(key, step, value.to_double().value_or(0));
      }
    }
  }
  if (n_steps == 0) return Error{Code::kCorrupt, "the log holds no step"};

  std::string charts;
  const auto chart = [&](const char* name, const std::vector<std::pair<std::string, std::string>>& keys,
                         bool log_y = false) {
    Chart one{name, {}, log_y};
    for (const auto& [key, label] : keys) {
      const auto found = series.find(key);
      if (found == series.end() ||
          std::all_of(found->second.y.begin(), found->second.y.end(), [](double v) { return v == 0; }))
        continue;
      one.series.push_back(found->second);
      one.series.back().name = label;
    }
    if (!one.series.empty()) charts += "<figure>" + svg(one, "step") + "</figure>\n";
  };
  chart("loss (nats per weighted token)", {{"loss", "train"}, {"held_out_loss", "held out"}, {"mtp", "MTP"}});
  std::vector<std::pair<std::string, std::string>> recall;
  for (const std::string& bucket : buckets) recall.emplace_back(bucket, bucket.substr(7));
  chart("recall by distance, held out", recall);
  chart("gradient norm, before clipping", {{"gradient_norm", "norm"}}, true);
  chart("learning rate", {{"learning_rate", "rate"}});
  chart("sequence balance loss", {{"balance", "balance"}});
  chart("largest expert load over the mean, worst layer", {{"load_max", "load"}});
  chart("indexer: KL", {{"indexer_kl", "KL"}});
  chart("indexer: share of attention mass it holds", {{"index_recall", "recall"}});
  chart("rms of the streams, mean over layers", {{"stream_rms", "rms"}});
  chart("share of expert activations at the clamp", {{"clamp_rate", "share"}});
  chart("attention mass on sinks", {{"sink_mass", "share"}});
  chart("tokens per second", {{"tokens_per_second", "rate"}});
  const auto last = [&](const char* key) { return series.contains(key) ? series[key].y.back() : 0.0; };
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title>\n<style>\n"
      ":root{{color-scheme:light dark}}\nbody{{font:15px/1.5 "
      "system-ui,sans-serif;max-width:1360px;margin:2em auto;padding:0 1em}}\n"
      "main{{display:grid;grid-template-columns:repeat(auto-fit,minmax(480px,1fr));gap:1em}}"
      "\nfigure{{margin:0}}\n"
      "svg{{width:100%;height:auto;font:12px system-ui,sans-serif}}\nsvg "
      "text:not(.l){{fill:currentColor}}\n.t{{font-weight:600}}\n"
      ".x{{text-anchor:middle;opacity:.75}}\n.y{{text-anchor:end;opacity:.75}}\n.l{{text-anchor:"
      "end}}\n"
      ".g{{stroke:currentColor;opacity:.15}}\npolyline{{fill:none;stroke-width:1.6}}\n</style>\n"
      "<h1>{0}</h1>\n<p>{1} steps of {2} tokens, {3} tokens in {4:.0f} s of steps; last loss "
      "{5:.4f}.</p>\n<main>\n{6}</main>\n</html>\n",
      escaped(title), n_steps, tokens_per_step, tokens, seconds, last("loss"), charts);
}

Status write_curves(const std::string& directory, const std::string& output) {
  const std::string path = directory + "/log.jsonl";
  auto page = curves_page(HADAL_TRY(read_file(path)), "hadal train: " + directory);
  if (!page.ok()) return Error{page.error().code, path + ": " + page.error().message};
  return write_file(output, page.value());
}

}  // namespace hadal::train
