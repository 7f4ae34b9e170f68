// SPDX-License-Identifier: Apache-2.0
#include "comm/holder_set_reduce.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "exchange_fixture.hpp"

namespace sdp {
namespace {

using test::Fixture;

/// What all-reduce by holder set leaves must be what the exchange does, to the order of sums.
template <class G>
void check(World const& world, ExchangeLayout const& layout) {
  Fixture<G> fixture(world, layout, 3000, GradientReturn::holders);
  HolderSetReduce<G> reduce(world, layout);
  for (int step = 0; step < 2; ++step) {
    fixture.fill(step);
    reduce.average(fixture.gradients);
    const auto host = Kokkos::create_mirror_view_and_copy(HostSpace(), fixture.gradients);
    for (std::size_t i = 0; i < fixture.positions().size(); ++i) {
      const index_t logical = fixture.positions()[i];
      const double expected = fixture.expected(logical, step);
      // Terms are up to 2^23.
      ASSERT_NEAR(host(i), expected, 4.0 * 8388608.0 * std::numeric_limits<G>::epsilon())
          << logical;
    }
  }
}

TEST(HolderSetReduce, AveragesLikeTheExchange) {
  World world = World::from(MPI_COMM_WORLD);
  const auto dense = dense_layout(test::awkward_table(), world.workers());
  check<float>(world, dense);
  check<double>(world, dense);
  EXPECT_EQ(HolderSetReduce<float>::count_sets(dense), 1);
  for (int tables = 1; tables <= world.workers(); ++tables)
    for (int keep = 1; keep <= tables; ++keep)
      check<double>(world, test::masked_layout(world.workers(), tables, keep));
  for (unsigned seed : {1u, 2u})
    check<float>(world, test::random_layout(world.workers(), seed, true));
}

TEST(HolderSetReduce, CountsDistinctSets) {
  for (int workers : {2, 4}) {
    // Every set of consecutive workers is used, and the set of all.
    EXPECT_EQ(HolderSetReduce<float>::count_sets(test::masked_layout(workers, workers, 1)),
              workers + 1);
    EXPECT_EQ(HolderSetReduce<float>::count_sets(test::masked_layout(workers, workers, workers)),
              1);
  }
}

TEST(LoneWorld, HasOneRankAndManyWorkers) {
  World all = World::from(MPI_COMM_WORLD);
  const World world = World::lone(5, 7);
  EXPECT_EQ(world.size(), 1);
  EXPECT_EQ(world.worker(), 5);
  EXPECT_EQ(world.workers(), 7);
  EXPECT_TRUE(world.is_lone());
  EXPECT_FALSE(all.is_lone());
  EXPECT_EQ(world.sum(2.0), 2.0);
}

TEST(LoneWorld, AnExchangeWithoutPeersChangesNothing) {
  const auto layout = test::masked_layout(4, 4, 2, true);
  for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none})
    for (int worker = 0; worker < 4; ++worker) {
      const World world = World::lone(worker, 4);
      const auto buckets = make_buckets(layout.gradients[0], 700, sizeof(float));
      const ExchangeSchedule whole = make_schedule(layout, buckets, worker, mode);
      Exchange<float> exchange(world, without_peers(whole));
      EXPECT_EQ(exchange.schedule().owned.size(), whole.owned.size());
      EXPECT_EQ(exchange.schedule().gradient_size, whole.gradient_size);
      EXPECT_EQ(exchange.schedule().traffic, ExchangeTraffic{});
      const View1<float> gradients("gradients", static_cast<std::size_t>(whole.gradient_size));
      const View1<float> weights("weights", static_cast<std::size_t>(whole.weight_size));
      Kokkos::deep_copy(gradients, 3.0f);
      Kokkos::deep_copy(weights, 5.0f);
      for (int step = 0; step < 2; ++step) {
        exchange.begin(gradients);
        exchange.ready(whole.gradient_size / 2);
        exchange.finish();
        exchange.return_weights(weights);
      }
      const auto left = Kokkos::create_mirror_view_and_copy(HostSpace(), gradients);
      for (std::size_t i = 0; i < left.size(); ++i) ASSERT_EQ(left(i), 3.0f);
      const auto kept = Kokkos::create_mirror_view_and_copy(HostSpace(), weights);
      for (std::size_t i = 0; i < kept.size(); ++i) ASSERT_EQ(kept(i), 5.0f);
      EXPECT_EQ(exchange.statistics().messages_sent, 0);
    }
}

TEST(SplitWorld, RanksOfAGroupKeepTheirOrder) {
  World world = World::from(MPI_COMM_WORLD);
  const World part = world.split(world.rank() % 2);
  EXPECT_EQ(part.rank(), world.rank() / 2);
  EXPECT_EQ(part.worker(), part.rank());
  EXPECT_EQ(part.size(), (world.size() + 1 - world.rank() % 2) / 2);
  EXPECT_EQ(part.sum(1.0), part.size());
}

}  // namespace
}  // namespace sdp
