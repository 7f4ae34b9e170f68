// SPDX-License-Identifier: Apache-2.0
#include "data/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/data/data_support.hpp"

namespace sdp {
namespace {

std::vector<index_t> epoch_of(Sampler const& sampler, index_t epoch) {
  std::vector<index_t> order;
  for (index_t i = 0; i < sampler.num_samples(); ++i)
    order.push_back(sampler.sample_at(epoch * sampler.num_samples() + i));
  return order;
}

TEST(Sampler, EveryEpochIsAPermutation) {
  for (index_t n : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 255, 256, 257, 1000, 4097, 65536, 65537})
    for (std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}})
      for (index_t epoch : {index_t{0}, index_t{1}, index_t{1} << 33}) {
        auto order = epoch_of(Sampler(seed, n), epoch);
        std::sort(order.begin(), order.end());
        for (index_t i = 0; i < n; ++i)
          ASSERT_EQ(order[static_cast<std::size_t>(i)], i) << n << " seed " << seed;
      }
}

TEST(Sampler, EpochsAndSeedsDiffer) {
  const auto base = epoch_of(Sampler(1, 1000), 0);
  auto identity = base;
  std::iota(identity.begin(), identity.end(), 0);
  for (auto const& other :
       {identity, epoch_of(Sampler(1, 1000), 1), epoch_of(Sampler(1, 1000), index_t{1} << 32),
        epoch_of(Sampler(2, 1000), 0), epoch_of(Sampler(1 | std::uint64_t{1} << 32, 1000), 0)}) {
    int equal = 0;
    for (std::size_t i = 0; i < base.size(); ++i) equal += base[i] == other[i] ? 1 : 0;
    EXPECT_LT(equal, 12);  // one is expected by chance
  }
}

/// Pearson's statistic of counts that should be equal.
double chi_square(std::vector<int> const& counts) {
  const double mean = std::accumulate(counts.begin(), counts.end(), 0.0) / counts.size();
  double sum = 0;
  for (int count : counts) sum += (count - mean) * (count - mean) / mean;
  return sum;
}

/// Five standard deviations above the mean of the distribution.
double chi_square_limit(std::size_t cells) {
  const double freedom = static_cast<double>(cells) - 1;
  return freedom + 5 * std::sqrt(2 * freedom) + 5;
}

TEST(Sampler, EverySampleIsEquallyLikelyAtEveryPlace) {
  for (index_t n : {2, 3, 5, 16, 37}) {
    const Sampler sampler(11, n);
    std::vector<int> place_counts(static_cast<std::size_t>(n * n), 0);
    std::vector<int> next_counts(static_cast<std::size_t>(n), 0);  // step from place 0 to place 1
    for (index_t epoch = 0; epoch < 20000; ++epoch) {
      const auto order = epoch_of(sampler, epoch);
      for (index_t i = 0; i < n; ++i) ++place_counts[static_cast<std::size_t>(i * n + order[i])];
      ++next_counts[static_cast<std::size_t>((order[1] - order[0] + n) % n)];
    }
    EXPECT_LT(chi_square(place_counts), chi_square_limit(place_counts.size())) << n;
    EXPECT_EQ(next_counts.front(), 0);
    next_counts.erase(next_counts.begin());
    EXPECT_LT(chi_square(next_counts), chi_square_limit(next_counts.size())) << n;
  }
}

TEST(Sampler, ThreeSamplesTakeAllSixOrdersEqually) {
  const Sampler sampler(5, 3);
  std::vector<int> counts(9, 0);
  for (index_t epoch = 0; epoch < 12000; ++epoch) {
    const auto order = epoch_of(sampler, epoch);
    ++counts[static_cast<std::size_t>(order[0] * 3 + order[1])];
  }
  for (std::size_t diagonal : {8, 4, 0}) {
    EXPECT_EQ(counts[diagonal], 0);
    counts.erase(counts.begin() + static_cast<std::ptrdiff_t>(diagonal));
  }
  EXPECT_LT(chi_square(counts), chi_square_limit(counts.size()));
}

TEST(Sampler, TheOrderNeverChanges) {
  const Sampler small(1, 10);
  EXPECT_EQ(epoch_of(small, 0), (std::vector<index_t>{5, 9, 0, 3, 7, 4, 2, 6, 8, 1}));
  EXPECT_EQ(epoch_of(small, 1), (std::vector<index_t>{7, 5, 0, 4, 1, 9, 6, 8, 3, 2}));
  const Sampler large(1234567890123456789u, 100'000'000'007);
  std::vector<index_t> found;
  for (index_t i :
       {index_t{0}, index_t{1}, index_t{2}, index_t{100'000'000'007}, index_t{987'654'321'987'654}})
    found.push_back(large.sample_at(i));
  EXPECT_EQ(found,
            (std::vector<index_t>{420042017, 39033368779, 59393073078, 25767706170, 12135513924}));
}

TEST(Sampler, RefusesAnEmptySet) {
  EXPECT_THROW(Sampler(1, 0), ConfigError);
}

}  // namespace
}  // namespace sdp
