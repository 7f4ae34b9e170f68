// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/types.hpp"

namespace sdp {

/// Rows [begin, begin + count) of one logical tensor.
struct RowRange {
  int tensor = 0;
  index_t begin = 0;
  index_t count = 0;
};

/// The smallest part of a model that a subnetwork keeps or drops as a whole. What belongs to no
/// unit is shared by all subnetworks.
struct Unit {
  std::string name;            ///< such as "layers.3.mlp" or "layers.3.attention.kv.1"
  int unit_class = 0;          ///< into UnitSet::classes
  int block = 0;               ///< layer, or residual block, counted from the input
  std::vector<RowRange> rows;  ///< ascending by tensor, then by row; ranges do not touch
  index_t parameters = 0;      ///< elements of these rows
  std::int64_t cost = 0;       ///< forward FLOPs of one sample of the longest length
};

/// The droppable units of a model, in order of block, then class, then rows. Units of one class are
/// alike, and are dealt to the subnetworks in equal numbers.
struct UnitSet {
  std::vector<std::string> classes;  ///< such as "attention" and "mlp"
  std::vector<Unit> units;
};

}  // namespace sdp
