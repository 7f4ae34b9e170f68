// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/parameter_table.hpp"
#include "base/types.hpp"

namespace sdp {

/// Flat buffer of n = table.size() elements with the initial weights of a run: element e of a
/// tensor depends on (seed, tensor name, e) alone, so every rank count starts from the same model.
template <class V>
View1<V> initial_weights(ExecSpace const& exec, ParameterTable const& table, std::uint64_t seed);

extern template View1<float> initial_weights<float>(ExecSpace const&, ParameterTable const&,
                                                    std::uint64_t);
extern template View1<double> initial_weights<double>(ExecSpace const&, ParameterTable const&,
                                                      std::uint64_t);

}  // namespace sdp
