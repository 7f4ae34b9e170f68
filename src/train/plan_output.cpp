// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "config/names.hpp"
#include "subnet/mask_json.hpp"
#include "train/describe_run.hpp"
#include "train/plan.hpp"
#include "train/progress.hpp"
#include "train/run_folder.hpp"

namespace sdp {

namespace {

using nlohmann::ordered_json;

ordered_json to_json(MinMeanMax const& spread) {
  return {{"min", spread.min}, {"mean", spread.mean}, {"max", spread.max}};
}

ordered_json to_json(MemoryPlan const& memory) {
  return {{"weights", to_json(memory.weights)},
          {"gradients", to_json(memory.gradients)},
          {"optimizer", to_json(memory.optimizer)},
          {"activations", to_json(memory.activations)},
          {"communication", to_json(memory.communication)},
          {"total", to_json(memory.total)}};
}

ordered_json to_json(StepTime const& time) {
  return {{"step_ms", time.step_ms},
          {"compute_ms", time.compute_ms},
          {"exchange_ms", time.exchange_ms}};
}

/// "12.5 % (12.0 to 13.0)"
std::string percent(MinMeanMax const& spread) {
  return fmt::format("{:.1f} % ({:.1f} to {:.1f})", 100.0 * spread.mean, 100.0 * spread.min,
                     100.0 * spread.max);
}

}  // namespace

std::string plan_json(Plan const& plan) {
  ordered_json baselines;
  for (auto const& [name, strategy] : plan.baselines)
    baselines[name] = {{"memory_per_rank", to_json(strategy.memory)},
                       {"sent_bytes_per_step", to_json(strategy.sent_bytes)},
                       {"predicted", to_json(strategy.predicted)}};
  const ordered_json document{{"parameters", plan.parameters},
                              {"coverage", plan.coverage},
                              {"true_fraction", to_json(plan.true_fraction)},
                              {"flop_share", to_json(plan.flop_share)},
                              {"subnetworks", plan.subnetworks},
                              {"ranks", plan.ranks},
                              {"ranks_per_node", plan.ranks_per_node},
                              {"counted_ranks", plan.counted_ranks},
                              {"design", plan.design},
                              {"holders_per_unit", plan.holders_per_unit},
                              {"holder_sets", plan.holder_sets},
                              {"rho", plan.rho},
                              {"rho_bound", plan.rho_bound},
                              {"imbalance",
                               {{"flops", plan.flops_imbalance},
                                {"parameters", plan.parameters_imbalance},
                                {"activations", plan.activations_imbalance}}},
                              {"memory_per_rank", to_json(plan.own.memory)},
                              {"sent_bytes_per_step", to_json(plan.own.sent_bytes)},
                              {"recv_bytes_per_step", to_json(plan.received_bytes)},
                              {"messages_per_step", plan.messages},
                              {"predicted", to_json(plan.own.predicted)},
                              {"baselines", baselines},
                              {"machine", plan.machine.name},
                              {"warnings", plan.warnings}};
  return document.dump() + "\n";
}

std::string plan_table(Config const& config, Plan const& plan) {
  std::string out;
  const auto line = [&](char const* what, std::string const& value) {
    out += fmt::format("{:<18}{}\n", what, value);
  };
  line("model", fmt::format("{}, {} parameters, {}", model_title(config.model),
                            short_count(static_cast<double>(plan.parameters)),
                            to_string(config.run.precision)));
  line("ranks", fmt::format("{}, {} on a node; {}", plan.ranks,
                            std::min(plan.ranks, plan.ranks_per_node), plan.machine.name));
  line("batch", fmt::format("{} {}, {} at a time on a rank", config.train.global_batch,
                            config.model.kind == ModelKind::llama
                                ? fmt::format("samples of {} tokens", config.train.seq_len)
                                : std::string("images"),
                            config.train.micro_batch));
  if (config.sdp.regime == Regime::none) {
    line("subnetworks", "none: every rank trains the whole model");
  } else {
    line("subnetworks",
         fmt::format("{}, {} masking, {} level, {} by {}; {} units on {} each", plan.subnetworks,
                     to_string(config.sdp.regime), to_string(config.sdp.level), plan.design,
                     to_string(config.sdp.placement), plan.units.units.size(),
                     plan.holders_per_unit));
    line("coverage C", fmt::format("{:.4g}", plan.coverage));
    line("true fraction c", percent(plan.true_fraction));
    line("FLOP share phi", percent(plan.flop_share));
    line("holder sets", fmt::format("{}, spectral gap {:.4f} (bound {:.4f})", plan.holder_sets,
                                    plan.rho, plan.rho_bound));
    line("imbalance",
         fmt::format("FLOPs {:.3f}, parameters {:.3f}, activations {:.3f}", plan.flops_imbalance,
                     plan.parameters_imbalance, plan.activations_imbalance));
  }
  line("messages", fmt::format("{:.0f} sent by a rank in a step", plan.messages));
  if (plan.counted_ranks < plan.ranks)
    line("", fmt::format("(messages, bytes sent and times are those of {} of the ranks)",
                         plan.counted_ranks));

  out += fmt::format("\n{:<22}{:>12}", "a rank, mean", "this deck");
  for (char const* name : {"DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3"}) out += fmt::format("{:>12}", name);
  out += "\n";
  const auto row = [&](char const* what, auto&& cell) {
    out += fmt::format("{:<22}{:>12}", what, cell(plan.own));
    for (auto const& [name, strategy] : plan.baselines)
      out += fmt::format("{:>12}", cell(strategy));
    out += "\n";
  };
  const auto bytes = [](double value) { return short_bytes(value); };
  const auto ms = [](double value) {
    return value < 9999.5 ? fmt::format("{:.4g} ms", value) : fmt::format("{:.4g} s", 1e-3 * value);
  };
  using S = StrategyPlan const&;
  row("weights", [&](S s) { return bytes(s.memory.weights.mean); });
  row("gradients", [&](S s) { return bytes(s.memory.gradients.mean); });
  row("optimizer", [&](S s) { return bytes(s.memory.optimizer.mean); });
  row("activations", [&](S s) { return bytes(s.memory.activations.mean); });
  // Of the baselines' messages no buffers are known.
  row("communication",
      [&](S s) { return &s == &plan.own ? bytes(s.memory.communication.mean) : std::string("-"); });
  row("memory", [&](S s) { return bytes(s.memory.total.mean); });
  row("memory, largest rank", [&](S s) { return bytes(s.memory.total.max); });
  row("sent in a step", [&](S s) { return bytes(s.sent_bytes.mean); });
  row("compute, slowest", [&](S s) { return ms(s.predicted.compute_ms); });
  row("exchange, slowest", [&](S s) { return ms(s.predicted.exchange_ms); });
  row("step", [&](S s) { return ms(s.predicted.step_ms); });
  for (std::string const& warning : plan.warnings) out += "warning: " + warning + "\n";
  return out;
}

void write_plan(Plan const& plan, std::string const& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) throw DataError(folder + ": the folder cannot be made: " + failed.message());
  write_file(std::filesystem::path(folder) / "plan.json", plan_json(plan));
  if (!plan.units.units.empty())
    write_file(std::filesystem::path(folder) / "mask.json", mask_to_json(plan.units, plan.mask));
}

}  // namespace sdp
