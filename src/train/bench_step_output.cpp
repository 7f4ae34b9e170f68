// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/types.hpp"
#include "config/names.hpp"
#include "train/bench_step.hpp"
#include "train/describe_run.hpp"
#include "train/progress.hpp"

namespace sdp {

namespace {

using nlohmann::ordered_json;

ordered_json to_json(PhaseTime const& time) {
  return {{"median", time.median}, {"min", time.min}, {"max", time.max}};
}

/// Planned bytes of a category; nothing where the plan does not have it.
std::optional<double> planned(WorkerPlan const& plan, MemoryCategory category) {
  switch (category) {
    case MemoryCategory::weights:
      return plan.weights;
    case MemoryCategory::gradients:
      return plan.gradients;
    case MemoryCategory::optimizer:
      return plan.optimizer;
    case MemoryCategory::activations:
      return plan.activations;
    case MemoryCategory::communication:
      return plan.communication;
    default:
      return std::nullopt;
  }
}

/// The categories that a lone worker has and the plan knows.
double planned_model_bytes(WorkerPlan const& plan) {
  return plan.weights + plan.gradients + plan.optimizer + plan.activations;
}

char const* rate_key(Config const& config) {
  switch (config.run.precision) {
    case Precision::bf16:
      return "flops_bf16";
    case Precision::fp64:
      return "flops_fp64";
    default:
      return "flops_fp32";
  }
}

bool is_llama(Config const& config) {
  return config.model.kind == ModelKind::llama;
}

}  // namespace

std::string bench_step_json(Config const& config, StepBenchResult const& r) {
  WorkerPlan const& plan = r.plan;
  ordered_json memory;
  for (int i = 0; i < k_memory_categories; ++i) {
    const auto category = static_cast<MemoryCategory>(i);
    const std::optional<double> bytes = planned(plan, category);
    memory[name(category)] = {{"planned", bytes ? ordered_json(*bytes) : ordered_json(nullptr)},
                              {"measured", r.memory[static_cast<std::size_t>(i)]}};
  }
  memory["total"] = {{"planned", planned_model_bytes(plan) + plan.communication},
                     {"measured", r.memory_total}};
  const auto mfu = r.mfu();
  ordered_json document{
      {"model", model_title(config.model)},
      {"parameters", r.parameters},
      {"precision", to_string(config.run.precision)},
      {"device", ExecSpace::name()},
      {"regime", to_string(config.sdp.regime)},
      {"level", to_string(config.sdp.level)},
      {"coverage", r.coverage},
      {"subnetworks", r.subnetworks},
      {"ranks", r.options.ranks},
      {"worker", r.options.worker},
      {"subnetwork", plan.subnetwork},
      {"true_fraction", plan.true_fraction},
      {"flop_share", plan.flop_share},
      {"sharding", to_string(config.optimizer.sharding)},
      {"recompute", to_string(config.model.recompute)},
      {"micro_batch", config.train.micro_batch},
      {"accumulation", r.accumulation},
      {"seq_len", is_llama(config) ? ordered_json(config.train.seq_len) : ordered_json(nullptr)},
      {"steps", r.options.steps},
      {"warmup", r.options.warmup},
      {"step_ms", to_json(r.step)},
      {"forward_ms", to_json(r.forward)},
      {"backward_ms", to_json(r.backward)},
      {"optimizer_ms", to_json(r.optimizer)},
      {is_llama(config) ? "tokens_per_s" : "images_per_s", r.targets_per_s()},
      {"model_flops_per_step", plan.flops},
      {"model_flops_per_s", r.flops_per_s()},
      {"peak_flops",
       r.options.peak_flops ? ordered_json(*r.options.peak_flops) : ordered_json(nullptr)},
      {"mfu", mfu ? ordered_json(*mfu) : ordered_json(nullptr)},
      {"loss", r.loss},
      {"skipped", r.skipped},
      {"memory", memory},
      {"process_peak_bytes", r.process_peak_bytes},
      {"process_model_bytes", r.process_model_bytes},
      {"device_bytes", r.device_bytes},
      {"device_model_bytes", r.device_model_bytes},
      {"predicted",
       {{"machine", r.options.machine.name},
        {"step_ms", plan.predicted.step_ms},
        {"compute_ms", plan.predicted.compute_ms},
        {"exchange_ms", plan.predicted.exchange_ms},
        {"sent_bytes", plan.sent_bytes}}},
      {"machine",
       {{rate_key(config), r.sustained_flops()}, {"memory_bandwidth", r.copy_bandwidth}}}};
  return document.dump() + "\n";
}

std::string bench_step_table(Config const& config, StepBenchResult const& r) {
  WorkerPlan const& plan = r.plan;
  std::string out;
  const auto line = [&](char const* what, std::string const& value) {
    out += fmt::format("{:<18}{}\n", what, value);
  };
  line("model", fmt::format("{}, {} parameters, {}, on {}", model_title(config.model),
                            short_count(static_cast<double>(r.parameters)),
                            to_string(config.run.precision), ExecSpace::name()));
  line("worker", fmt::format("{} of {}, alone: nothing is sent or averaged", r.options.worker,
                             r.options.ranks));
  if (config.sdp.regime != Regime::none) {
    line("subnetwork", fmt::format("{} of {}, {} masking, {} level, coverage {:.4g}",
                                   plan.subnetwork, r.subnetworks, to_string(config.sdp.regime),
                                   to_string(config.sdp.level), r.coverage));
    line("of the model", fmt::format("{:.1f} % of the parameters, {:.1f} % of the FLOPs",
                                     100 * plan.true_fraction, 100 * plan.flop_share));
  }
  line("batch",
       fmt::format("{} x {} {}, random; recompute \"{}\"", r.accumulation, config.train.micro_batch,
                   is_llama(config) ? fmt::format("samples of {} tokens", config.train.seq_len)
                                    : std::string("images"),
                   to_string(config.model.recompute)));

  out += fmt::format("\n{:<18}{:>12}{:>12}{:>12}\n", "ms", "median", "min", "max");
  const auto phase = [&](char const* what, PhaseTime const& time) {
    out +=
        fmt::format("{:<18}{:>12.3f}{:>12.3f}{:>12.3f}\n", what, time.median, time.min, time.max);
  };
  phase("forward", r.forward);
  phase("backward", r.backward);
  phase("optimizer", r.optimizer);
  phase(fmt::format("step, {} of them", r.options.steps).c_str(), r.step);
  line(is_llama(config) ? "tokens/s" : "images/s", short_count(r.targets_per_s()));
  line("model TFLOP/s", fmt::format("{:.4g}", 1e-12 * r.flops_per_s()));
  if (const auto mfu = r.mfu())
    line("MFU",
         fmt::format("{:.1f} % of {:.4g} TFLOP/s", 100 * *mfu, 1e-12 * *r.options.peak_flops));
  line("planned step",
       fmt::format("{:.4g} ms of computing, {:.4g} ms with the exchange, on {}",
                   plan.predicted.compute_ms, plan.predicted.step_ms, r.options.machine.name));
  if (r.skipped > 0)
    line("warning", fmt::format("{} steps had a loss or gradient that is not finite", r.skipped));

  out += fmt::format("\n{:<18}{:>12}{:>12}\n", "memory", "measured", "planned");
  const auto row = [&](char const* what, double measured, std::optional<double> expected) {
    out += fmt::format("{:<18}{:>12}{:>12}\n", what, short_bytes(measured),
                       expected ? short_bytes(*expected) : "-");
  };
  for (int i = 0; i < k_memory_categories; ++i) {
    const auto category = static_cast<MemoryCategory>(i);
    if (category == MemoryCategory::communication) continue;
    row(name(category), static_cast<double>(r.memory[static_cast<std::size_t>(i)]),
        planned(plan, category));
  }
  row("total", static_cast<double>(r.memory_total), planned_model_bytes(plan));
  row("process", static_cast<double>(r.process_peak_bytes), std::nullopt);
  if (r.device_bytes > 0) row("device", static_cast<double>(r.device_bytes), std::nullopt);
  out += fmt::format("buffers of messages that a run adds: {}\n", short_bytes(plan.communication));

  out += fmt::format(
      "\nfor the file of `sdp plan --machine`:\n{} = {:.3g}\nmemory_bandwidth = {:.3g}\n",
      rate_key(config), r.sustained_flops(), r.copy_bandwidth);
  return out;
}

}  // namespace sdp
