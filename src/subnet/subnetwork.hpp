// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/design.hpp"
#include "base/parameter_table.hpp"
#include "base/unit.hpp"
#include "subnet/mask.hpp"

namespace sdp {

/// What one subnetwork holds: all shared rows and the rows of its units. Every span is a maximal
/// run of rows of one unit (Span::unit is its index), or of shared rows (k_shared).
///
/// Throws std::invalid_argument when two units claim a row, or a unit one that does not exist.
ParameterTable subnetwork_table(std::vector<TensorSpec> const& tensors, UnitSet const& units,
                                Mask const& mask, int subnetwork);

/// All rows of all tensors in the same spans: the table of a worker that holds every unit.
ParameterTable full_table(std::vector<TensorSpec> const& tensors, UnitSet const& units);

/// round_robin: rank mod N; node_aligned: floor(rank / ranks_per_node) mod N.
int subnetwork_of(int rank, Placement placement, int ranks_per_node, int subnetworks);

/// The subnetwork of each rank. Throws ConfigError where a subnetwork would have no rank.
std::vector<int> place_ranks(int ranks, Placement placement, int ranks_per_node, int subnetworks);

}  // namespace sdp
