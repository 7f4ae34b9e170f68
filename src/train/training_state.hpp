// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "checkpoint/flat_pieces.hpp"

namespace sdp {

/// Overwrites pieces of a flat buffer with the initial weights of a run: element e of a tensor
/// depends on (seed, tensor name, e) alone, so every rank count and every subnetwork starts from
/// the same model. V is float, double or bf16, where the weights are those of float rounded once.
template <class V>
void initial_weights(ExecSpace const& exec, ParameterTable const& table,
                     std::vector<FlatPiece> const& pieces, std::uint64_t seed,
                     View1<V> const& weights);

/// The same for a buffer of table.size() elements as a whole.
template <class V>
void initial_weights(ExecSpace const& exec, ParameterTable const& table, std::uint64_t seed,
                     View1<V> const& weights) {
  initial_weights(exec, table, flat_pieces(table), seed, weights);
}

extern template void initial_weights<float>(ExecSpace const&, ParameterTable const&,
                                            std::vector<FlatPiece> const&, std::uint64_t,
                                            View1<float> const&);
extern template void initial_weights<double>(ExecSpace const&, ParameterTable const&,
                                             std::vector<FlatPiece> const&, std::uint64_t,
                                             View1<double> const&);
extern template void initial_weights<kernels::bf16>(ExecSpace const&, ParameterTable const&,
                                                    std::vector<FlatPiece> const&, std::uint64_t,
                                                    View1<kernels::bf16> const&);

}  // namespace sdp
