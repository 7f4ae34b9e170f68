// SPDX-License-Identifier: Apache-2.0
#include "subnet/spectral.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

namespace sdp {

namespace {

/// Whether every subnetwork can be reached from every other through common units.
bool connected(std::vector<HolderSet> const& holders, int subnetworks) {
  HolderSet reached = 1;
  for (HolderSet before = 0; before != reached;) {
    before = reached;
    for (HolderSet set : holders)
      if ((set & reached) != 0) reached |= set;
  }
  return reached == all_subnetworks(subnetworks);
}

}  // namespace

double spectral_gap(std::vector<HolderSet> const& holders, int subnetworks) {
  if (subnetworks == 1 || holders.empty()) return 1.0;
  if (!connected(holders, subnetworks)) return 0.0;
  const auto n = static_cast<std::size_t>(subnetworks);
  std::vector<double> w(n * n, 0.0);
  std::vector<double> degree(n, 0.0);
  for (HolderSet set : holders) {
    const double share = 1.0 / std::popcount(set);
    for (std::size_t i = 0; i < n; ++i) {
      if ((set >> i & 1) == 0) continue;
      degree[i] += 1.0;
      for (std::size_t j = 0; j < n; ++j)
        if ((set >> j & 1) != 0) w[i * n + j] += share;
    }
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) w[i * n + j] /= std::sqrt(degree[i] * degree[j]);
  const double second = symmetric_eigenvalues(std::move(w), subnetworks)[1];
  return std::clamp(1.0 - second, 0.0, 1.0);
}

double spectral_gap_bound(int subnetworks, int holders) {
  if (subnetworks == 1) return 1.0;
  return static_cast<double>(subnetworks) * (holders - 1) /
         (static_cast<double>(holders) * (subnetworks - 1));
}

std::vector<double> symmetric_eigenvalues(std::vector<double> a, int size) {
  constexpr int k_most_sweeps = 50;
  const auto n = static_cast<std::size_t>(size);
  for (int sweep = 0; sweep < k_most_sweeps; ++sweep) {
    double outside = 0.0, all = 0.0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        all += a[i * n + j] * a[i * n + j];
        if (i != j) outside += a[i * n + j] * a[i * n + j];
      }
    if (outside <= 1e-30 * all) break;
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) {
        if (a[p * n + q] == 0.0) continue;
        // The rotation that makes a[p][q] zero; t is the smaller root of t^2 + 2 theta t - 1.
        const double theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
        const double t =
            (theta < 0.0 ? -1.0 : 1.0) / (std::abs(theta) + std::sqrt(theta * theta + 1.0));
        const double c = 1.0 / std::sqrt(t * t + 1.0);
        const double s = t * c;
        for (std::size_t i = 0; i < n; ++i) {
          const double ip = a[i * n + p], iq = a[i * n + q];
          a[i * n + p] = c * ip - s * iq;
          a[i * n + q] = s * ip + c * iq;
        }
        for (std::size_t i = 0; i < n; ++i) {
          const double pi = a[p * n + i], qi = a[q * n + i];
          a[p * n + i] = c * pi - s * qi;
          a[q * n + i] = s * pi + c * qi;
        }
      }
  }
  std::vector<double> values;
  for (std::size_t i = 0; i < n; ++i) values.push_back(a[i * n + i]);
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

}  // namespace sdp
