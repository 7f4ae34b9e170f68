// SPDX-License-Identifier: Apache-2.0
// Exchanges that sum inside the nodes first, with declared nodes of 2, 3 and 4 ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/memory_ledger.hpp"
#include "exchange_fixture.hpp"
#include "tests/support/pmpi_counter.hpp"

namespace sdp {
namespace {

using kernels::bf16;
using test::Fixture;

std::vector<int> node_sizes(World const& world) {
  std::vector<int> sizes;
  for (int size : {2, 3, 4})
    if (size < world.workers()) sizes.push_back(size);
  return sizes;
}

TEST(TwoLevelExchange, AveragesAndReturnsWeights) {
  World world = World::from(MPI_COMM_WORLD);
  for (int size : node_sizes(world))
    for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none})
      for (bool full_weights : {false, true}) {
        const auto seed = 11 + static_cast<unsigned>(size);
        const auto layout = test::random_layout(world.workers(), seed, full_weights);
        Fixture<float> fixture(world, layout, 1500, mode, {.staging_slots = 2}, size);
        EXPECT_EQ(fixture.exchange.schedule().node_size, size);
        for (int step = 0; step < 2; ++step) {
          fixture.run(step, static_cast<unsigned>(step));
          fixture.check(step);
          fixture.check_weights_in_parts(step, static_cast<unsigned>(step));
        }
        const auto other = full_weights ? test::masked_layout(world.workers(), 4, 2, full_weights)
                                        : dense_layout(test::awkward_table(), world.workers());
        Fixture<double> fine(world, other, 1 << 30, mode, {}, size);
        fine.run(1);
        fine.check(1);
        fine.check_weights(1);
      }
}

TEST(TwoLevelExchange, OneSlotAndShortMessagesAreEnough) {
  World world = World::from(MPI_COMM_WORLD);
  for (int size : node_sizes(world)) {
    const auto layout = test::random_layout(world.workers(), 4, true);
    Fixture<float, bf16> fixture(world, layout, 700, GradientReturn::none,
                                 {.staging_slots = 1, .max_message_bytes = 500}, size);
    for (int step = 0; step < 3; ++step) {
      fixture.run(step, 3 + static_cast<unsigned>(step));
      fixture.check(step);
      fixture.check_weights(step);
    }
  }
}

TEST(TwoLevelExchange, GradientsCrossAsBf16) {
  World world = World::from(MPI_COMM_WORLD);
  for (int size : node_sizes(world))
    for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none})
      for (bool full_weights : {false, true}) {
        const auto seed = 31 + static_cast<unsigned>(size);
        const auto layout = test::random_layout(world.workers(), seed, full_weights);
        const ExchangeOptions options{.staging_slots = 2, .bf16_wire = true};
        Fixture<float, bf16> fixture(world, layout, 1500, mode, options, size);
        for (int step = 0; step < 2; ++step) {
          fixture.run(step, static_cast<unsigned>(step));
          fixture.check(step);
          fixture.check_weights(step);
        }
      }
}

TEST(TwoLevelExchange, BitsAreThoseOfOneLevelForPowersOfTwo) {
  World world = World::from(MPI_COMM_WORLD);
  for (int size : node_sizes(world)) {
    const auto layout = test::random_layout(world.workers(), 21);
    Fixture<float> flat(world, layout, 5000, GradientReturn::holders);
    Fixture<float> nodes(world, layout, 5000, GradientReturn::holders, {}, size);
    flat.run(0);
    nodes.run(0);
    std::int64_t different = 0;
    for (std::size_t i = 0; i < flat.gradients.extent(0); ++i)
      different += flat.gradients(i) != nodes.gradients(i) ? 1 : 0;
    different = world.sum(different);
    if (std::has_single_bit(static_cast<unsigned>(size)))
      EXPECT_EQ(different, 0);
    else
      EXPECT_GT(different, 0) << "another order";
  }
}

TEST(TwoLevelExchange, BytesBetweenNodesAreAsPredicted) {
  int ranks = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  for (int size : {2, 4}) {
    if (ranks % size != 0 || ranks <= size) continue;
    World world = World::from(MPI_COMM_WORLD, size);
    for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none}) {
      const auto layout = test::random_layout(world.workers(), 31, true);
      Fixture<float> fixture(world, layout, 5000, mode, {}, world.node_size());
      auto away = [&] {
        std::int64_t bytes = 0;
        for (int rank = 0; rank < world.size(); ++rank)
          if (rank / size != world.rank() / size)
            bytes += test::pmpi_counts().sent_bytes_to[static_cast<std::size_t>(rank)];
        return bytes;
      };
      fixture.run(0);
      fixture.check_weights(0);
      const std::int64_t before = away();
      const std::int64_t all = test::pmpi_counts().sent_bytes;
      fixture.run(1);
      fixture.check_weights(1);
      auto const& traffic = fixture.exchange.schedule().traffic;
      EXPECT_EQ(away() - before,
                4 * (traffic.gradients_sent_to_other_nodes + traffic.weights_sent_to_other_nodes));
      EXPECT_EQ(test::pmpi_counts().sent_bytes - all,
                4 * (traffic.gradients_sent + traffic.weights_sent));
      std::int64_t predicted = 0;  // nodes with holders but the owner's, there (and back)
      const int nodes = world.size() / size;
      for (index_t e = 0; e < layout.gradients[0].logical_size(); ++e) {
        std::int64_t with_holders = 0;
        for (int node = 0; node < nodes; ++node)
          with_holders += (fixture.holders(e) >> (node * size) & ((1u << size) - 1u)) != 0 ? 1 : 0;
        predicted += 4 * (with_holders - 1) * (mode == GradientReturn::holders ? 2 : 1);
        predicted += 4 * (mode == GradientReturn::holders ? nodes - with_holders : nodes - 1);
      }
      EXPECT_EQ(world.sum(away() - before), predicted);
    }
  }
}

TEST(TwoLevelExchange, StagingIsBoundedAndAllocatedOnce) {
  World world = World::from(MPI_COMM_WORLD);
  if (world.workers() < 4) GTEST_SKIP() << "one node";
  memory_ledger::install();
  if (!memory_ledger::installed()) GTEST_SKIP() << "a profiling tool has taken the callbacks";
  std::vector<TensorSpec> tensors;
  for (int i = 0; i < 40; ++i) tensors.push_back(test::tensor(test::numbered("w", i), 64, 64));
  const auto layout = dense_layout(ParameterTable(tensors), world.workers());
  const index_t bucket = 64 * 64 * 4;
  const auto before = memory_ledger::usage(MemoryCategory::communication).current;
  Fixture<float> fixture(world, layout, bucket, GradientReturn::holders, {.staging_slots = 2}, 2);
  const auto staging = memory_ledger::usage(MemoryCategory::communication).current - before;
  // In a slot: half of the bucket to the other rank of the node and back, half of it from there,
  // the sums of the other nodes, and what is packed of the node's sums there and back.
  const index_t descriptions = 40 * 64 * static_cast<index_t>(sizeof(kernels::CopySpan));
  EXPECT_LE(staging, 2 * (bucket * 7 / 2 + 64 * 32) + descriptions);
  fixture.fill(0);
  memory_ledger::reset_peaks();
  const auto total = memory_ledger::total().current;
  fixture.exchange.begin(fixture.gradients);
  fixture.exchange.finish();
  EXPECT_EQ(memory_ledger::total().peak, total) << "a step allocates nothing";
  fixture.check(0);
}

TEST(TwoLevelExchange, SaysWhatItWaitsFor) {
  World world = World::from(MPI_COMM_WORLD);
  if (world.workers() < 4) GTEST_SKIP() << "one node";
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<float> fixture(world, layout, 1 << 30, GradientReturn::holders, {.timeout_seconds = 0.2},
                         2);
  fixture.fill(0);
  fixture.exchange.begin(fixture.gradients);
  if (world.rank() != 1) {
    try {
      fixture.exchange.finish();
      ADD_FAILURE() << "no exception";
    } catch (CommunicationError const& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("has not moved for"));
      if (world.rank() == 0) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("gradients inside the node of ranks 1"));
      }
    }
  }
  world.barrier();
  fixture.exchange.finish();
  fixture.check(0);
}

}  // namespace
}  // namespace sdp
