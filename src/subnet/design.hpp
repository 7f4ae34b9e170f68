// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/design.hpp"

namespace sdp {

/// A set of subnetworks, bit i for subnetwork i.
using HolderSet = std::uint64_t;
inline constexpr int k_max_subnetworks = 64;

/// {0, ..., subnetworks - 1}
constexpr HolderSet all_subnetworks(int subnetworks) {
  return subnetworks >= k_max_subnetworks ? ~HolderSet{0} : (HolderSet{1} << subnetworks) - 1;
}

/// The word of the deck: "auto", "windows", "cyclic", "orbits", "plane" or "random".
std::string_view design_name(Design design);

/// k = coverage * subnetworks. Throws ConfigError where that is no whole number from 1 to
/// subnetworks (naming the nearest coverage that is), where subnetworks is not 1 to 64, and where
/// one subnetwork is asked to drop something.
int holders_per_unit(double coverage, int subnetworks);

/// Whether the design has holder sets of k out of N subnetworks. Windows, cyclic and random always
/// do; orbits needs two different cyclic bases, plane N = 8 and k = 4.
bool design_exists(Design design, int subnetworks, int holders);

/// The distinct holder sets of a design other than `automatic` and `random`, whose sets depend on
/// the units that they are for.
///
/// - windows: {i, i+1, ..., i+k-1} mod N
/// - cyclic: all rotations of the base with the largest spectral gap
/// - orbits: all rotations of two bases, the pair with the largest gap
/// - plane: the 14 planes of AG(3,2), {a,b,c,d} with a^b^c^d = 0
///
/// Bases are the lexicographically least of their rotations. Of equal gaps (to 1e-9) the
/// lexicographically least base or pair is taken, so the result is the same on every machine. The
/// search tries every base (every pair) where there are at most 200,000 subsets (2,000 bases), and
/// else improves a fixed list of starts by exchanging single elements; it takes well under a second
/// for every N up to 64. Throws ConfigError naming the design, N, C and what does exist.
std::vector<HolderSet> holder_sets(Design design, int subnetworks, int holders);

/// The rotations of a set by 1, 2, ... up to its period, itself first.
std::vector<HolderSet> rotations(HolderSet base, int subnetworks);

/// The members of a set, such as "{0,1,2,4}".
std::string to_text(HolderSet set);

}  // namespace sdp
