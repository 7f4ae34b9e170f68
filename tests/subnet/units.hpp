// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/unit.hpp"

namespace sdp::test {

struct ClassShape {
  std::string name;
  int count;
  std::vector<std::int64_t> costs;  ///< repeated along the units
};

/// Units of one tensor each, rows of their own; class after class.
inline UnitSet make_units(std::vector<ClassShape> const& shapes) {
  UnitSet units;
  int tensor = 0;
  for (ClassShape const& shape : shapes) {
    for (int i = 0; i < shape.count; ++i) {
      Unit unit;
      unit.name = "layers." + std::to_string(i) + "." + shape.name;
      unit.unit_class = static_cast<int>(units.classes.size());
      unit.block = i;
      unit.rows = {{tensor++, 0, 4}};
      unit.cost = shape.costs[static_cast<std::size_t>(i) % shape.costs.size()];
      unit.parameters = 8;
      units.units.push_back(unit);
    }
    units.classes.push_back(shape.name);
  }
  return units;
}

inline UnitSet make_units(int attention, int mlp) {
  return make_units({{"attention", attention, {100}}, {"mlp", mlp, {170}}});
}

}  // namespace sdp::test
