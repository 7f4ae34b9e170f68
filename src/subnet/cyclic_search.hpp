// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <vector>

#include "subnet/design.hpp"

namespace sdp {

// A cyclic base is a set of k out of N subnetworks, the lexicographically least of its rotations
// ({0,1,4} comes before {0,2,3}). All its rotations together, used evenly, have the eigenvalues
// |sum over s in base of exp(2 pi i f s / N)|^2 / k^2, f = 0 ... N-1, of which f = 0 gives 1.

/// The set turned by `by` places: {(s + by) mod N}.
HolderSet rotate(HolderSet set, int by, int subnetworks);

/// The lexicographically least rotation.
HolderSet canonical_base(HolderSet set, int subnetworks);

/// Whether a comes before b: the least element in which they differ belongs to a.
bool lexicographically_less(HolderSet a, HolderSet b);

/// All sets of k out of N, lexicographically ascending.
std::vector<HolderSet> all_subsets(int subnetworks, int holders);

/// N over k, at most `limit`.
long long binomial(int subnetworks, int holders, long long limit);

/// Spectral gap of all rotations of the bases, each distinct set used once.
double cyclic_gap(std::vector<HolderSet> const& bases, int subnetworks, int holders);

/// The base, and the pair of different bases, with the largest gap; see holder_sets() for the
/// search. 1 <= k < N, for pairs 2 <= k <= N - 2.
HolderSet best_base(int subnetworks, int holders);
std::pair<HolderSet, HolderSet> best_base_pair(int subnetworks, int holders);

}  // namespace sdp
