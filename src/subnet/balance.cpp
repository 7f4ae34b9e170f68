// SPDX-License-Identifier: Apache-2.0
#include "subnet/balance.hpp"

#include <algorithm>

namespace sdp {

namespace {

/// shared + sum of the weights of the units that each subnetwork holds.
template <class Weight>
std::vector<double> held(UnitSet const& units, Mask const& mask, double shared, Weight&& weight) {
  std::vector<double> sums(static_cast<std::size_t>(mask.subnetworks), shared);
  for (std::size_t u = 0; u < units.units.size(); ++u)
    for (int i = 0; i < mask.subnetworks; ++i)
      if (mask.holds(i, static_cast<int>(u)))
        sums[static_cast<std::size_t>(i)] += static_cast<double>(weight(units.units[u]));
  return sums;
}

}  // namespace

std::vector<double> held_parameters(std::vector<TensorSpec> const& tensors, UnitSet const& units,
                                    Mask const& mask) {
  index_t shared = 0;
  for (TensorSpec const& tensor : tensors) shared += tensor.size();
  for (Unit const& unit : units.units) shared -= unit.parameters;
  return held(units, mask, static_cast<double>(shared),
              [](Unit const& unit) { return unit.parameters; });
}

std::vector<double> held_cost(UnitSet const& units, Mask const& mask, double shared_cost) {
  return held(units, mask, shared_cost, [](Unit const& unit) { return unit.cost; });
}

double imbalance(std::vector<double> const& by_subnetwork) {
  const MinMeanMax spread = min_mean_max(by_subnetwork);
  return spread.mean > 0.0 ? spread.max / spread.mean : 1.0;
}

Balance measure_balance(std::vector<TensorSpec> const& tensors, UnitSet const& units,
                        Mask const& mask, double shared_cost,
                        std::vector<int> const& subnetwork_of_rank) {
  const auto parameters = held_parameters(tensors, units, mask);
  const auto cost = held_cost(units, mask, shared_cost);
  double all = 0.0;
  for (TensorSpec const& tensor : tensors) all += static_cast<double>(tensor.size());
  Balance balance;
  balance.flops = imbalance(cost);
  balance.parameters = imbalance(parameters);
  std::vector<double> fractions;
  for (int subnetwork : subnetwork_of_rank)
    fractions.push_back(parameters[static_cast<std::size_t>(subnetwork)] / all);
  balance.true_fraction = min_mean_max(fractions);
  return balance;
}

}  // namespace sdp
