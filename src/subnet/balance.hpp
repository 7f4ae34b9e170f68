// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/min_mean_max.hpp"
#include "base/parameter_table.hpp"
#include "base/unit.hpp"
#include "subnet/mask.hpp"

namespace sdp {

/// Parameters that each subnetwork holds, shared ones among them.
std::vector<double> held_parameters(std::vector<TensorSpec> const& tensors, UnitSet const& units,
                                    Mask const& mask);

/// Cost (forward FLOPs of one sample) that each subnetwork has, `shared_cost` among it.
std::vector<double> held_cost(UnitSet const& units, Mask const& mask, double shared_cost);

/// Largest over mean; 1 where all are 0.
double imbalance(std::vector<double> const& by_subnetwork);

/// How even a mask is over its subnetworks, and what part of the model they hold.
struct Balance {
  double flops = 1.0;        ///< max / mean of held_cost
  double parameters = 1.0;   ///< max / mean of held_parameters
  MinMeanMax true_fraction;  ///< c: held parameters / all parameters, over the given ranks
};

/// `subnetwork_of_rank` as place_ranks() gives it: the true fraction is over ranks, both imbalances
/// are over subnetworks.
Balance measure_balance(std::vector<TensorSpec> const& tensors, UnitSet const& units,
                        Mask const& mask, double shared_cost,
                        std::vector<int> const& subnetwork_of_rank);

}  // namespace sdp
