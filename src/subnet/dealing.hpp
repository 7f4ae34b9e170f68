// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/unit.hpp"
#include "subnet/design.hpp"

namespace sdp {

/// Holder sets given to units.
struct Dealing {
  std::vector<HolderSet> holders;  ///< of each unit
  std::vector<std::string> warnings;
};

/// Gives every unit one of the holder sets of a family, class by class: no set of the family is
/// used twice more often than another, the subnetworks' costs are balanced over all classes, the
/// rest is drawn with the seed. An empty family stands for the random design: sets of k, in each
/// class as many different ones as there are units or sets, every subnetwork in about equally many.
///
/// The sum of squares of the subnetworks' costs falls until no move of a unit to a set that is used
/// less, and no exchange between two units of a class, makes it smaller (at most eight rounds).
/// Costs are whole numbers, cut to 26 bits in sum.
Dealing deal(UnitSet const& units, int subnetworks, int holders,
             std::vector<HolderSet> const& family, std::uint64_t seed);

}  // namespace sdp
