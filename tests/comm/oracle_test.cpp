// SPDX-License-Identifier: Apache-2.0
// What the exchange must agree with, whatever the masks: a zero-filled sum over all ranks divided
// by the number of holders, the dense layout where everybody holds everything, the sharded form,
// and the number of elements that the method sends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "exchange_fixture.hpp"
#include "tests/support/pmpi_counter.hpp"

namespace sdp {
namespace {

using kernels::bf16;
using test::Fixture;

constexpr GradientReturn k_returns[] = {GradientReturn::holders, GradientReturn::none};

/// Random masks with any number of workers and subnetworks.
std::vector<ExchangeLayout> random_layouts(int workers, bool full_weights) {
  std::vector<ExchangeLayout> layouts{test::random_layout(workers, 41, full_weights)};
  const int tables = full_weights ? workers : (workers + 1) / 2;
  for (int keep : std::set{1, (tables + 1) / 2})
    layouts.push_back(test::random_masks(workers, tables, keep, 42, full_weights));
  return layouts;
}

/// Sum over all ranks of gradients that are zero where they are not held, over the number of
/// holders; by logical position, in double precision.
template <class G>
std::vector<double> reference(World const& world, Fixture<G> const& fixture, int step) {
  std::vector<double> sums(static_cast<std::size_t>(fixture.logical_size()), 0.0);
  std::vector<std::int64_t> holders(sums.size(), 0);
  for (index_t logical : fixture.positions()) {
    sums[static_cast<std::size_t>(logical)] =
        static_cast<double>(test::gradient<G>(world.worker(), logical, step));
    holders[static_cast<std::size_t>(logical)] = 1;
  }
  world.sum_in_place(sums);
  world.sum_in_place(holders);
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] /= static_cast<double>(holders[i]);
  return sums;
}

/// ||values - expected|| / ||expected|| over the elements that have an average here.
template <class G>
double relative_error(Fixture<G> const& fixture, std::vector<double> const& expected) {
  const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), fixture.gradients);
  double error = 0.0;
  double norm = 0.0;
  auto compare = [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      const double value =
          expected[static_cast<std::size_t>(fixture.positions()[static_cast<std::size_t>(i)])];
      error += std::pow(static_cast<double>(host(static_cast<std::size_t>(i))) - value, 2);
      norm += value * value;
    }
  };
  if (fixture.exchange.schedule().gradient_return == GradientReturn::holders)
    compare(0, static_cast<index_t>(host.extent(0)));
  else
    for (OwnedRange const& range : fixture.exchange.owned())
      compare(range.gradients.begin, range.gradients.end);
  return norm > 0.0 ? std::sqrt(error / norm) : std::sqrt(error);
}

template <class G>
void compare_with_all_reduce(World const& world, double tolerance) {
  for (bool full_weights : {false, true})
    for (ExchangeLayout const& layout : random_layouts(world.workers(), full_weights))
      for (GradientReturn mode : k_returns)
        for (int ranks_per_node : {1, 2}) {
          Fixture<G> fixture(world, layout, 6000, mode, {}, ranks_per_node);
          fixture.run(3);
          EXPECT_LE(relative_error(fixture, reference(world, fixture, 3)), tolerance);
        }
}

TEST(Oracle, ZeroFilledAllReduceOverHolders) {
  World world = World::from(MPI_COMM_WORLD);
  compare_with_all_reduce<float>(world, 1e-6);
  compare_with_all_reduce<double>(world, 1e-13);
}

/// The averages by logical position, on every rank: those of the owners, moved there as new
/// weights. Every element that is stored here is compared with them.
template <class G>
std::vector<double> merged_averages(World const& world, Fixture<G>& fixture) {
  std::vector<double> merged(static_cast<std::size_t>(fixture.logical_size()), 0.0);
  for (OwnedRange const& range : fixture.exchange.owned())
    for (index_t i = range.gradients.begin; i < range.gradients.end; ++i) {
      const auto at = static_cast<std::size_t>(i);
      merged[static_cast<std::size_t>(fixture.positions()[at])] =
          static_cast<double>(fixture.gradients(at));
    }
  world.sum_in_place(merged);
  return merged;
}

TEST(Oracle, FullCoverageIsBitIdenticalToTheDenseLayout) {
  World world = World::from(MPI_COMM_WORLD);
  const int n = world.workers();
  const auto dense = dense_layout(test::awkward_table(), n);
  // Everybody holds every unit, in spans that are cut by unit, with a table for each subnetwork.
  const auto tensors = test::awkward_tensors();
  ExchangeLayout full;
  for (int table = 0; table < n; ++table) {
    std::vector<std::vector<Span>> held(tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t)
      for (index_t row = 0; row < tensors[t].rows; row += 3)
        held[t].push_back({static_cast<int>(t), row, std::min<index_t>(3, tensors[t].rows - row), 0,
                           static_cast<int>(row / 3)});
    full.gradients.emplace_back(tensors, held);
    full.table_of_worker.push_back(table);
  }
  for (index_t bytes : {700, 1 << 30})
    for (GradientReturn mode : k_returns) {
      Fixture<float> expected(world, dense, bytes, mode);
      Fixture<float> actual(world, full, bytes, mode);
      expected.run(5);
      actual.run(5);
      EXPECT_EQ(merged_averages(world, actual), merged_averages(world, expected));
      for (std::size_t i = 0; i < expected.gradients.extent(0); ++i)
        ASSERT_EQ(actual.gradients(i), expected.gradients(i));
      auto const& traffic = expected.exchange.schedule().traffic;
      EXPECT_EQ(actual.exchange.schedule().traffic.gradients_sent, traffic.gradients_sent);
      EXPECT_EQ(actual.exchange.schedule().traffic.messages_sent, traffic.messages_sent);
    }
}

TEST(Oracle, ShardedAndUnshardedAreBitIdentical) {
  World world = World::from(MPI_COMM_WORLD);
  for (bool full_weights : {false, true})
    for (ExchangeLayout const& layout : random_layouts(world.workers(), full_weights))
      for (int ranks_per_node : {1, 2}) {
        Fixture<float> unsharded(world, layout, 3000, GradientReturn::holders, {}, ranks_per_node);
        Fixture<float> sharded(world, layout, 9000, GradientReturn::none, {}, ranks_per_node);
        unsharded.run(6);
        sharded.run(6);
        const auto merged = merged_averages(world, sharded);
        EXPECT_EQ(merged, merged_averages(world, unsharded));
        for (std::size_t i = 0; i < unsharded.positions().size(); ++i)
          ASSERT_EQ(static_cast<double>(unsharded.gradients(i)),
                    merged[static_cast<std::size_t>(unsharded.positions()[i])])
              << "every holder has the average";
        // The averages as new weights: sharded, from the owners; unsharded, from every holder to
        // those that store without holding.
        Kokkos::deep_copy(sharded.weights, std::nanf(""));
        for (OwnedRange const& range : sharded.exchange.owned())
          for (index_t i = 0; i < range.gradients.size(); ++i)
            sharded.weights(static_cast<std::size_t>(range.weight_begin + i)) =
                sharded.gradients(static_cast<std::size_t>(range.gradients.begin + i));
        sharded.exchange.return_weights(sharded.weights);
        Kokkos::deep_copy(unsharded.weights, std::nanf(""));
        for (std::size_t i = 0; i < unsharded.weights.extent(0); ++i) {
          const index_t logical = unsharded.weight_positions()[i];
          if ((unsharded.holders(logical) >> world.worker() & 1u) != 0)
            unsharded.weights(i) = static_cast<float>(merged[static_cast<std::size_t>(logical)]);
        }
        unsharded.exchange.return_weights(unsharded.weights);
        for (std::size_t i = 0; i < sharded.weights.extent(0); ++i) {
          const auto logical = static_cast<std::size_t>(sharded.weight_positions()[i]);
          ASSERT_EQ(static_cast<double>(sharded.weights(i)), merged[logical]);
          ASSERT_EQ(static_cast<double>(unsharded.weights(i)), merged[logical]);
        }
      }
}

/// Bytes that this rank gave to MPI in one step and in the return of its weights.
struct Sent {
  std::int64_t gradients;
  std::int64_t weights;
};

template <class G, class W>
Sent sent_in_a_step(Fixture<G, W>& fixture) {
  const std::int64_t before = test::pmpi_counts().sent_bytes;
  fixture.run(0);
  const std::int64_t between = test::pmpi_counts().sent_bytes;
  fixture.check_weights(0);
  return {between - before, test::pmpi_counts().sent_bytes - between};
}

// Sums over N ranks, so the formulas stand without their (1 - 1/N) and (C - 1/N), C N = k.
TEST(Oracle, ElementsSentFollowTheFormulas) {
  World world = World::from(MPI_COMM_WORLD);
  const std::int64_t n = world.workers();
  const auto tensors = test::awkward_tensors();
  const std::int64_t p = test::awkward_table().logical_size();
  const std::int64_t b = tensors[2].size() + tensors[3].size();  // "down" and "gate"
  const std::int64_t s = p - b;
  for (std::int64_t k : std::set<std::int64_t>{1, std::max<std::int64_t>(1, n / 2), n})
    for (bool backward : {false, true})
      for (GradientReturn mode : k_returns)
        for (int ranks_per_node : {1, 2}) {
          const auto layout = test::random_masks(static_cast<int>(n), static_cast<int>(n),
                                                 static_cast<int>(k), 51, backward);
          Fixture<float, bf16> fixture(world, layout, 4096, mode, {}, ranks_per_node);
          const Sent sent = sent_in_a_step(fixture);
          const std::int64_t gradients = world.sum(sent.gradients);
          const std::int64_t weights = world.sum(sent.weights);
          const std::int64_t reduce = (n - 1) * s + (k - 1) * b;
          EXPECT_EQ(gradients / 4 + weights / 2, backward ? reduce + (n - 1) * p : 2 * reduce);
          if (mode == GradientReturn::none) {
            EXPECT_EQ(gradients, 4 * reduce);
          } else {
            EXPECT_EQ(gradients, 4 * 2 * reduce);
          }
          if (k == n) {
            EXPECT_EQ(gradients / 4 + weights / 2, 2 * (n - 1) * p) << "as the dense model";
          }
        }
}

/// Slices are cut at rows, so ranks differ by little where there are many rows.
TEST(Oracle, RanksSendAboutTheSame) {
  World world = World::from(MPI_COMM_WORLD);
  const int n = world.workers();
  if (n < 2) GTEST_SKIP() << "nothing is sent";
  const auto layout = dense_layout(ParameterTable({test::tensor("w", 640, 24)}), n);
  for (GradientReturn mode : k_returns) {
    Fixture<float, bf16> fixture(world, layout, 10000, mode);
    const Sent sent = sent_in_a_step(fixture);
    const double elements =
        static_cast<double>(sent.gradients) / 4.0 + static_cast<double>(sent.weights) / 2.0;
    EXPECT_NEAR(elements, 2.0 * (1.0 - 1.0 / n) * 640 * 24, 24.0 * n * 2);
  }
}

}  // namespace
}  // namespace sdp
