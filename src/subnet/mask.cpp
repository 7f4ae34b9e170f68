// SPDX-License-Identifier: Apache-2.0
#include "subnet/mask.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "subnet/balance.hpp"
#include "subnet/cyclic_search.hpp"
#include "subnet/dealing.hpp"
#include "subnet/spectral.hpp"

namespace sdp {

namespace {

constexpr double k_tie = 1e-9;         // spectral gaps that differ by less are equal
constexpr double k_uneven_cost = 1.1;  // max / mean worth a warning

Mask dealt(UnitSet const& units, MaskSpec const& spec, Design design, int holders) {
  Mask mask;
  mask.subnetworks = spec.subnetworks;
  mask.holders_per_unit = holders;
  mask.design = design;
  mask.seed = spec.seed;
  const auto family = design == Design::random ? std::vector<HolderSet>{}
                                               : holder_sets(design, spec.subnetworks, holders);
  Dealing dealing = deal(units, spec.subnetworks, holders, family, spec.seed);
  mask.holders = std::move(dealing.holders);
  mask.warnings = std::move(dealing.warnings);
  describe_mask(units, mask);
  return mask;
}

Mask best_mask(UnitSet const& units, MaskSpec const& spec, int holders) {
  const auto most = static_cast<std::size_t>(2 * spec.subnetworks);
  Mask best;
  best.rho = -1.0;
  for (Design design :
       {Design::windows, Design::cyclic, Design::orbits, Design::plane, Design::random}) {
    if (!design_exists(design, spec.subnetworks, holders)) continue;
    if (design == Design::random && units.units.size() > most &&
        binomial(spec.subnetworks, holders, 2 * most) > static_cast<long long>(most))
      continue;
    Mask mask = dealt(units, spec, design, holders);
    if (mask.rho > best.rho + k_tie && mask.distinct_sets().size() <= most) best = std::move(mask);
  }
  return best;
}

/// One sentence for each class that has no unit on some subnetwork.
void warn_of_missing(UnitSet const& units, Mask& mask) {
  for (std::size_t c = 0; c < units.classes.size(); ++c) {
    HolderSet reached = 0;
    int count = 0;
    for (std::size_t u = 0; u < units.units.size(); ++u)
      if (units.units[u].unit_class == static_cast<int>(c)) {
        reached |= mask.holders[u];
        ++count;
      }
    const HolderSet missing = all_subnetworks(mask.subnetworks) & ~reached;
    if (count > 0 && missing != 0)
      mask.warnings.push_back(fmt::format(
          "class \"{}\" has {} unit{} on {} subnetwork{} each, so the subnetworks {} hold none of "
          "it",
          units.classes[c], count, count == 1 ? "" : "s", mask.holders_per_unit,
          mask.holders_per_unit == 1 ? "" : "s", to_text(missing)));
  }
}

}  // namespace

std::vector<HolderSet> Mask::distinct_sets() const {
  std::vector<HolderSet> sets = holders;
  std::sort(sets.begin(), sets.end());
  sets.erase(std::unique(sets.begin(), sets.end()), sets.end());
  return sets;
}

Mask make_mask(UnitSet const& units, MaskSpec const& spec) {
  const int holders = sdp::holders_per_unit(spec.coverage, spec.subnetworks);
  if (spec.design != Design::automatic) return dealt(units, spec, spec.design, holders);
  if (holders == spec.subnetworks) {
    Mask mask = full_mask(units, spec.subnetworks);
    mask.seed = spec.seed;
    return mask;
  }
  return best_mask(units, spec, holders);
}

Mask full_mask(UnitSet const& units, int subnetworks) {
  Mask mask;
  mask.subnetworks = subnetworks;
  mask.holders_per_unit = subnetworks;
  mask.holders.assign(units.units.size(), all_subnetworks(subnetworks));
  describe_mask(units, mask);
  return mask;
}

void describe_mask(UnitSet const& units, Mask& mask) {
  mask.rho = spectral_gap(mask.holders, mask.subnetworks);
  mask.rho_bound = spectral_gap_bound(mask.subnetworks, mask.holders_per_unit);
  if (mask.rho == 0.0)
    mask.warnings.push_back(fmt::format(
        "the mask is disconnected (spectral gap 0): with coverage {} over {} subnetworks some of "
        "them never share a droppable unit, directly or through others",
        mask.coverage(), mask.subnetworks));
  warn_of_missing(units, mask);
  const double uneven = imbalance(held_cost(units, mask, 0.0));
  if (uneven > k_uneven_cost)
    mask.warnings.push_back(
        fmt::format("the subnetworks cannot be balanced: the dearest has {:.2f} times the mean "
                    "cost of droppable units",
                    uneven));
}

}  // namespace sdp
