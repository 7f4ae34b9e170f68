// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "train/progress.hpp"

namespace sdp::cli {

namespace {

using Json = nlohmann::json;

Json read_summary(std::string const& run) {
  const std::filesystem::path path = std::filesystem::path(run) / "summary.json";
  std::ifstream file(path);
  if (!file)
    throw ConfigError(path.string() + " cannot be read: a finished run is expected in " + run);
  const Json summary = Json::parse(file, nullptr, false);
  if (!summary.is_object() || !summary.contains("memory") || !summary.contains("flop_share"))
    throw ConfigError(path.string() + " is not the summary of a run of this program");
  return summary;
}

/// One line a figure, one column a run; after the first column the ratio to it.
std::string comparison(std::vector<std::string> const& runs, std::vector<Json> const& summaries) {
  std::string out = fmt::format("{:<28}", "");
  for (std::string const& run : runs) {
    auto path = std::filesystem::path(run);
    if (path.filename().empty()) path = path.parent_path();
    out += fmt::format("{:>22}", path.filename().string());
  }
  out += "\n";
  using Value = std::function<double(Json const&)>;
  using Text = std::function<std::string(double)>;
  const auto row = [&](char const* what, bool ratio, Value const& value, Text const& text) {
    out += fmt::format("{:<28}", what);
    double first = NAN;
    for (std::size_t i = 0; i < summaries.size(); ++i) {
      double number = NAN;
      try {
        number = value(summaries[i]);
      } catch (Json::exception const&) {  // null: this run has no such figure
      }
      if (i == 0) first = number;
      std::string cell = std::isfinite(number) ? text(number) : "-";
      if (ratio && i > 0 && std::isfinite(number) && first > 0)
        cell += fmt::format(" ({:.2f}x)", number / first);
      out += fmt::format("{:>22}", cell);
    }
    out += "\n";
  };
  const auto loss = [](double value) { return fmt::format("{:.4f}", value); };
  const auto percent = [](double value) { return fmt::format("{:.1f} %", 100.0 * value); };
  const auto milliseconds = [](double value) { return fmt::format("{:.1f} ms", value); };
  const auto peak = [](char const* category) {
    return [category](Json const& s) { return s["memory"][category]["measured"]["max"]; };
  };
  row(
      "validation loss", false, [](Json const& s) { return s["val_loss"]; }, loss);
  row(
      "ensemble loss", false, [](Json const& s) { return s["ensemble_loss"]; }, loss);
  row(
      "updates", false, [](Json const& s) { return s["steps"]; },
      [](double value) { return fmt::format("{:.0f}", value); });
  row(
      "FLOPs per rank, whole run", true, [](Json const& s) { return s["flops_per_rank"]["mean"]; },
      [](double value) { return fmt::format("{:.3g}", value); });
  row(
      "FLOPs per rank and step", false, [](Json const& s) { return s["flop_share"]["mean"]; },
      percent);
  row(
      "parameters per rank", false, [](Json const& s) { return s["true_fraction"]["mean"]; },
      percent);
  row("peak memory per rank", true, peak("total"), short_bytes);
  row("  weights", true, peak("weights"), short_bytes);
  row("  gradients", true, peak("gradients"), short_bytes);
  row("  optimizer", true, peak("optimizer"), short_bytes);
  row("  activations", true, peak("activations"), short_bytes);
  row(
      "sent per rank and step", true,
      [](Json const& s) { return s["sent_bytes_per_step"]["measured"]; }, short_bytes);
  row(
      "step time, median", true, [](Json const& s) { return s["step_ms"]; }, milliseconds);
  row(
      "wall time", true, [](Json const& s) { return s["wall_seconds"]; }, short_duration);
  return out;
}

}  // namespace

ExitCode run(CompareArguments const& arguments) {
  std::vector<Json> summaries;
  for (std::string const& run : arguments.runs) summaries.push_back(read_summary(run));
  std::fputs(comparison(arguments.runs, summaries).c_str(), stdout);
  return ExitCode::ok;
}

}  // namespace sdp::cli
