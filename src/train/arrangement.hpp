// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/unit.hpp"
#include "comm/buckets.hpp"
#include "comm/owners.hpp"
#include "comm/schedule.hpp"
#include "config/config.hpp"
#include "models/subnetwork_model.hpp"
#include "subnet/mask.hpp"

namespace sdp {

/// Who holds what: a deck, a number of workers and a mask turned into tables. Plain data without a
/// rank in it, the same on every worker; everything else that depends on the mask follows from it.
///
/// A dense run is one subnetwork without units that all workers have.
struct Arrangement {
  UnitSet units;
  Mask mask;
  std::vector<int> subnetwork_of_worker;
  ExchangeLayout layout;            ///< tables by subnetwork
  std::vector<IndexRange> buckets;  ///< of messages
  GradientReturn gradient_return = GradientReturn::holders;
  int ranks_per_node = 1;
  std::vector<double> branch_scales;  ///< of every worker's model

  int workers() const { return static_cast<int>(subnetwork_of_worker.size()); }
  ParameterTable const& gradients(int worker) const {
    return layout.gradients[static_cast<std::size_t>(subnetwork_of_worker[worker])];
  }
  ParameterTable const& weights(int worker) const {
    return layout.weights.empty()
               ? gradients(worker)
               : layout.weights[static_cast<std::size_t>(subnetwork_of_worker[worker])];
  }
  /// What the model of a worker is built from.
  ModelSubnetwork subnetwork(int worker) const {
    return {weights(worker), gradients(worker), branch_scales};
  }
  ExchangeSchedule schedule(int worker) const;
};

/// The arrangement of a run at an update (from 0), which says how often the mask has changed by
/// then (sdp.remask_every). `ranks_per_node` as World::node_size(). Deterministic, without
/// communication. ConfigError where coverage, design, mask file or placement do not fit.
Arrangement arrange(Config const& config, int workers, int ranks_per_node, std::int64_t step = 0);

/// Number of bytes of an element of the weights and activations.
index_t element_bytes(Precision precision);

/// FLOPs of one training sample on a worker, and of the dense model.
SampleFlops worker_flops(Config const& config, Arrangement const& arrangement, int worker);
SampleFlops dense_flops(Config const& config);

/// phi of every worker: its FLOPs over those of the dense model.
std::vector<double> flop_shares(Config const& config, Arrangement const& arrangement);

/// c of every worker: parameters that it trains over those of the dense model.
std::vector<double> true_fractions(Arrangement const& arrangement);

/// One line for people: regime, level, subnetworks, coverage, true fraction, FLOP share, holder
/// sets and spectral gap.
std::string describe_subnetworks(Config const& config, Arrangement const& arrangement);

/// Updates and warm-up updates of a run: those of the deck or, with train.match = "flops", as many
/// as spend the FLOPs of a dense run of train.steps, warm-up stretched alike. `mean_share` is the
/// mean of flop_shares().
struct RunLength {
  std::int64_t steps = 0;
  ScheduleConfig schedule;
};
RunLength run_length(Config const& config, double mean_share);

}  // namespace sdp
