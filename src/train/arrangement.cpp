// SPDX-License-Identifier: Apache-2.0
#include "train/arrangement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.hpp"
#include "config/names.hpp"
#include "models/llama_units.hpp"
#include "models/model_family.hpp"
#include "subnet/mask_json.hpp"
#include "subnet/subnetwork.hpp"

namespace sdp {

namespace {

Mask choose_mask(SdpConfig const& sdp, UnitSet const& units, std::int64_t step) {
  const int subnetworks = static_cast<int>(sdp.subnetworks);
  if (!sdp.mask_file.empty()) {
    if (sdp.remask_every > 0)
      throw ConfigError("sdp.mask_file fixes the mask, but sdp.remask_every changes it every " +
                        std::to_string(sdp.remask_every) + " updates; give one of the two");
    Mask mask = read_mask(sdp.mask_file, units, subnetworks);
    if (sdp.coverage != 1.0 && sdp.coverage != mask.coverage())
      throw ConfigError(fmt::format(
          "sdp.coverage is {}, but the mask in sdp.mask_file \"{}\" has {}; leave the key out or "
          "make them equal",
          sdp.coverage, sdp.mask_file, mask.coverage()));
    return mask;
  }
  MaskSpec spec;
  spec.subnetworks = subnetworks;
  spec.coverage = sdp.coverage;
  spec.design = sdp.design;
  spec.seed = sdp.mask_seed;
  if (sdp.remask_every > 0) spec.seed += static_cast<std::uint64_t>(step / sdp.remask_every);
  return make_mask(units, spec);
}

}  // namespace

ExchangeSchedule Arrangement::schedule(int worker) const {
  return make_schedule(layout, buckets, worker, gradient_return, ranks_per_node);
}

index_t element_bytes(Precision precision) {
  return precision == Precision::fp64 ? 8 : precision == Precision::bf16 ? 2 : 4;
}

Arrangement arrange(Config const& config, int workers, int ranks_per_node, std::int64_t step) {
  ModelConfig const& model = config.model;
  SdpConfig const& sdp = config.sdp;
  const std::vector<TensorSpec> tensors = model_tensors(model);
  Arrangement result;
  result.ranks_per_node = ranks_per_node;
  result.gradient_return = config.optimizer.sharding == Sharding::holders ? GradientReturn::none
                                                                          : GradientReturn::holders;
  const ParameterTable whole(tensors);
  if (sdp.regime == Regime::none) {
    result.mask = full_mask(result.units, 1);
    result.layout = dense_layout(whole, workers);
  } else {
    result.units = model_units(model, sdp);
    result.mask = choose_mask(sdp, result.units, step);
    if (model.kind == ModelKind::llama && config.run.precision == Precision::bf16)
      if (std::string slow = llama_slow_widths(model.llama, sdp); !slow.empty())
        result.mask.warnings.push_back(std::move(slow));
    if (config.system.reduction == Reduction::allreduce &&
        result.mask.holders_per_unit < result.mask.subnetworks)
      throw ConfigError(
          "system.reduction is \"allreduce\", which needs every worker to hold every parameter; "
          "subnetworks need \"exchange\"");
    for (int s = 0; s < result.mask.subnetworks; ++s)
      result.layout.gradients.push_back(subnetwork_table(tensors, result.units, result.mask, s));
    if (sdp.regime == Regime::backward)
      result.layout.weights.assign(result.layout.gradients.size(),
                                   full_table(tensors, result.units));
    result.layout.table_of_worker =
        place_ranks(workers, sdp.placement, ranks_per_node, result.mask.subnetworks);
    result.branch_scales = model_branch_scales(
        model, sdp, result.units,
        static_cast<double>(result.mask.subnetworks) / result.mask.holders_per_unit);
  }
  result.subnetwork_of_worker = result.layout.table_of_worker;
  const index_t gradient_bytes = std::max<index_t>(element_bytes(config.run.precision), 4);
  result.buckets =
      make_buckets(whole, config.system.bucket_mb * (index_t{1} << 20), gradient_bytes);
  return result;
}

SampleFlops worker_flops(Config const& config, Arrangement const& arrangement, int worker) {
  return model_sample_flops(config.model, arrangement.weights(worker),
                            arrangement.gradients(worker), config.train.seq_len);
}

SampleFlops dense_flops(Config const& config) {
  const ParameterTable table(model_tensors(config.model));
  return model_sample_flops(config.model, table, table, config.train.seq_len);
}

std::vector<double> flop_shares(Config const& config, Arrangement const& arrangement) {
  const auto dense = static_cast<double>(dense_flops(config).total());
  std::vector<double> by_subnetwork(arrangement.layout.gradients.size(), -1.0);
  std::vector<double> shares;
  for (int worker = 0; worker < arrangement.workers(); ++worker) {
    double& share =
        by_subnetwork[static_cast<std::size_t>(arrangement.subnetwork_of_worker[worker])];
    if (share < 0.0)
      share = static_cast<double>(worker_flops(config, arrangement, worker).total()) / dense;
    shares.push_back(share);
  }
  return shares;
}

std::vector<double> true_fractions(Arrangement const& arrangement) {
  std::vector<double> fractions;
  for (int worker = 0; worker < arrangement.workers(); ++worker) {
    ParameterTable const& table = arrangement.gradients(worker);
    fractions.push_back(static_cast<double>(table.size()) /
                        static_cast<double>(table.logical_size()));
  }
  return fractions;
}

std::string describe_subnetworks(Config const& config, Arrangement const& arrangement) {
  const auto share = [](std::vector<double> const& values) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const double mean =
        std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
    return fmt::format("{:.1f} % ({:.1f} to {:.1f})", 100 * mean, 100 * *low, 100 * *high);
  };
  Mask const& mask = arrangement.mask;
  return fmt::format(
      "{} masking at {} level: {} subnetworks, each unit of {} on {} (coverage {:.4g}), {} holder "
      "sets, rho {:.4f}; a rank trains {} of the parameters with {} of the FLOPs",
      to_string(config.sdp.regime), to_string(config.sdp.level), mask.subnetworks,
      arrangement.units.units.size(), mask.holders_per_unit, mask.coverage(),
      mask.distinct_sets().size(), mask.rho, share(true_fractions(arrangement)),
      share(flop_shares(config, arrangement)));
}

RunLength run_length(Config const& config, double mean_share) {
  RunLength length{config.train.steps, config.schedule};
  if (config.train.match == Match::steps) return length;
  length.steps = std::llround(static_cast<double>(config.train.steps) / mean_share);
  const double stretch =
      static_cast<double>(length.steps) / static_cast<double>(config.train.steps);
  length.schedule.warmup_steps =
      std::llround(static_cast<double>(config.schedule.warmup_steps) * stretch);
  return length;
}

}  // namespace sdp
