// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "train/bench_comm.hpp"
#include "train/machine_file.hpp"
#include "train/progress.hpp"

namespace sdp {

namespace {

using nlohmann::ordered_json;

ordered_json optional(std::optional<double> value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json to_json(MinMeanMax const& spread) {
  return {{"min", spread.min}, {"mean", spread.mean}, {"max", spread.max}};
}

ordered_json to_json(std::optional<LinkCost> const& link) {
  if (!link) return nullptr;
  return {{"ranks", link->ranks}, {"bandwidth", link->bandwidth}, {"latency", link->latency}};
}

double gigabytes_per_s(double bytes, double ms) {
  return ms > 0.0 ? 1e-6 * bytes / ms : 0.0;
}

ordered_json to_json(CommCase const& c) {
  const double exchange = c.times.gradients + c.times.weights;
  return {{"name", c.name},
          {"elements", c.elements},
          {"buckets", c.buckets},
          {"holder_sets", c.holder_sets},
          {"sent_bytes", to_json(c.sent_bytes)},
          {"messages", to_json(c.messages)},
          {"gradients_ms", c.times.gradients},
          {"weights_ms", c.times.weights},
          {"exchange_ms", exchange},
          {"exchange_gb_per_s", gigabytes_per_s(c.sent_bytes.mean, exchange)},
          {"predicted_ms", c.predicted_ms},
          {"all_reduce_bytes", c.all_reduce_bytes},
          {"bucketed_all_reduce_ms", c.times.bucketed},
          {"all_reduce_ms", optional(c.times.all_reduce)},
          {"by_holder_set_ms", optional(c.times.by_holder_set)}};
}

}  // namespace

std::string bench_comm_json(CommBenchResult const& r) {
  ordered_json cases = ordered_json::array();
  for (CommCase const& c : r.cases) cases.push_back(to_json(c));
  const ordered_json document{{"ranks", r.ranks},
                              {"ranks_per_node", r.ranks_per_node},
                              {"bucket_mb", r.bucket_mb},
                              {"repeat", r.repeat},
                              {"cases", cases},
                              {"node", to_json(r.node)},
                              {"network", to_json(r.network)},
                              {"machine", machine_text(r.machine)}};
  return document.dump() + "\n";
}

std::string bench_comm_table(CommBenchResult const& r) {
  std::string out = fmt::format(
      "{} ranks, {} on a node; buckets of {:.3g} MiB; ms of the slowest rank, median of {} "
      "rounds\n\n",
      r.ranks, r.ranks_per_node, r.bucket_mb, r.repeat);
  out += fmt::format("{:<30}{:>10}{:>6}{:>10}{:>10}{:>10}{:>10}{:>8}{:>12}{:>12}{:>12}\n", "",
                     "elements", "sets", "sent", "gradients", "weights", "planned", "GB/s",
                     "all-reduce", "in buckets", "set by set");
  const auto ms = [](std::optional<double> value) {
    return value ? fmt::format("{:.3f}", *value) : std::string("-");
  };
  for (CommCase const& c : r.cases)
    out += fmt::format(
        "{:<30}{:>10}{:>6}{:>10}{:>10.3f}{:>10.3f}{:>10.3f}{:>8.3f}{:>12}{:>12.3f}{:>12}\n", c.name,
        short_count(static_cast<double>(c.elements)), c.holder_sets, short_bytes(c.sent_bytes.mean),
        c.times.gradients, c.times.weights, c.predicted_ms,
        gigabytes_per_s(c.sent_bytes.mean, c.times.gradients + c.times.weights),
        ms(c.times.all_reduce), c.times.bucketed, ms(c.times.by_holder_set));
  out += fmt::format("\nfor the file of `sdp plan --machine` (measured: {}):\n{}",
                     r.node && r.network ? "node_* and network_*"
                     : r.node            ? "node_*"
                     : r.network         ? "network_*"
                                         : "nothing, for there is one rank",
                     machine_text(r.machine));
  return out;
}

}  // namespace sdp
