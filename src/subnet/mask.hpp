// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/unit.hpp"
#include "subnet/design.hpp"

namespace sdp {

/// What a mask is made from, besides the units.
struct MaskSpec {
  int subnetworks = 1;    ///< N
  double coverage = 1.0;  ///< C = k / N
  Design design = Design::automatic;
  std::uint64_t seed = 1;
};

/// Which subnetworks hold which units: every unit has exactly `holders_per_unit` of them.
struct Mask {
  int subnetworks = 1;                ///< N
  int holders_per_unit = 1;           ///< k
  Design design = Design::windows;    ///< never automatic; windows where every unit is held by all
  std::uint64_t seed = 1;             ///< that it was made with
  std::vector<HolderSet> holders;     ///< of each unit
  double rho = 1.0;                   ///< spectral gap of `holders`
  double rho_bound = 1.0;             ///< no mask with this N and k has a larger one
  std::vector<std::string> warnings;  ///< one sentence each

  double coverage() const { return static_cast<double>(holders_per_unit) / subnetworks; }
  bool holds(int subnetwork, int unit) const {
    return (holders[static_cast<std::size_t>(unit)] >> subnetwork & 1) != 0;
  }
  /// The distinct holder sets in use, ascending as integers.
  std::vector<HolderSet> distinct_sets() const;
};

/// The mask of a run, the same on every machine: integer costs, Philox draws keyed by the seed,
/// ties broken by a fixed order.
///
/// Within a class the numbers of units per holder set differ by at most one. Which sets get one
/// more, and which unit gets which set, balances the cost of the subnetworks over all classes; what
/// is then still free is drawn with the seed. Every class keeps a unit on every subnetwork where
/// units * k >= N (where no choice of sets of the design does that, consecutive sets take their
/// place for that class, with a warning), else a warning names the class. `automatic` takes the
/// design whose mask has the largest spectral gap among those with at most 2N distinct holder sets;
/// of equal ones the first in the order of the enumeration.
///
/// Throws ConfigError for a coverage that is no multiple of 1/N and a design that does not exist.
Mask make_mask(UnitSet const& units, MaskSpec const& spec);

/// All units on all of `subnetworks` subnetworks: the mask of a dense run.
Mask full_mask(UnitSet const& units, int subnetworks);

/// Fills rho, rho_bound and the warnings that follow from the holders of a mask (disconnected,
/// classes that a subnetwork lacks). For masks that come from elsewhere.
void describe_mask(UnitSet const& units, Mask& mask);

}  // namespace sdp
