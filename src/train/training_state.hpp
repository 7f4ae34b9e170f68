// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/parameter_table.hpp"
#include "base/types.hpp"

namespace sdp {

/// Overwrites a flat buffer of table.size() elements with the initial weights of a run: element e
/// of a tensor depends on (seed, tensor name, e) alone, so every rank count and every subnetwork
/// starts from the same model.
template <class V>
void initial_weights(ExecSpace const& exec, ParameterTable const& table, std::uint64_t seed,
                     View1<V> const& weights);

extern template void initial_weights<float>(ExecSpace const&, ParameterTable const&, std::uint64_t,
                                            View1<float> const&);
extern template void initial_weights<double>(ExecSpace const&, ParameterTable const&, std::uint64_t,
                                             View1<double> const&);

}  // namespace sdp
