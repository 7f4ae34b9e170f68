// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "subnet/design.hpp"

namespace sdp {

/// rho = 1 - lambda_2(W), W = Dw^{-1/2} M Du^{-1} M^T Dw^{-1/2}, where M (N,U) has a column for
/// each holder set in the list (repeated as often as it is used), Dw are its row sums and Du its
/// column sums: how fast averaging over holders mixes what the subnetworks know.
///
/// N = 1 and an empty list (everything is shared) give 1; a disconnected mask gives exactly 0.
/// Eigenvalues by cyclic Jacobi rotations; subnetworks at most 64.
double spectral_gap(std::vector<HolderSet> const& holders, int subnetworks);

/// N (k-1) / (k (N-1)), which no mask with k holders for every unit exceeds; 1 for N = 1.
double spectral_gap_bound(int subnetworks, int holders);

/// Eigenvalues of a symmetric matrix (n,n), row-major, descending.
std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, int n);

}  // namespace sdp
