// SPDX-License-Identifier: Apache-2.0
#include "comm/world.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace sdp {
namespace {

TEST(World, KnowsItsPlace) {
  World world = World::from(MPI_COMM_WORLD);
  int rank = -1;
  int size = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  EXPECT_EQ(world.rank(), rank);
  EXPECT_EQ(world.size(), size);
  EXPECT_EQ(world.worker(), rank);
  EXPECT_EQ(world.workers(), size);
  EXPECT_EQ(world.ranks_per_node(), size) << "all ranks of the test share a machine";
  EXPECT_EQ(world.node_rank(), rank);
  EXPECT_EQ(world.node_size(), size);
  int same = MPI_UNEQUAL;
  MPI_Comm_compare(world.comm(), MPI_COMM_WORLD, &same);
  EXPECT_EQ(same, MPI_CONGRUENT);
}

TEST(World, TakesDeclaredRanksPerNode) {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int declared = size % 2 == 0 ? 2 : 1;
  World world = World::from(MPI_COMM_WORLD, declared);
  EXPECT_EQ(world.ranks_per_node(), declared);
  EXPECT_EQ(world.node_size(), declared);
  EXPECT_EQ(world.node_rank(), world.rank() % declared);
  EXPECT_THROW(World::from(MPI_COMM_WORLD, size + 1), ConfigError);
}

TEST(World, MovesItsCommunicator) {
  World first = World::from(MPI_COMM_WORLD);
  const MPI_Comm comm = first.comm();
  World second = std::move(first);
  EXPECT_EQ(second.comm(), comm);
  EXPECT_EQ(first.comm(), MPI_COMM_NULL);
  second.barrier();
}

TEST(World, Reduces) {
  World world = World::from(MPI_COMM_WORLD);
  const int n = world.size();
  const double value = world.rank() + 0.5;
  EXPECT_EQ(world.sum(value), n * (n - 1) / 2.0 + 0.5 * n);
  EXPECT_EQ(world.min(value), 0.5);
  EXPECT_EQ(world.max(value), n - 0.5);
  const std::int64_t large = (std::int64_t{1} << 60) + world.rank();
  EXPECT_EQ(world.max(large), (std::int64_t{1} << 60) + n - 1);
  EXPECT_EQ(world.min(large), std::int64_t{1} << 60);
  EXPECT_EQ(world.sum(std::int64_t{3}), 3 * n);
  const MinMeanMax three = world.min_mean_max(value);
  EXPECT_EQ(three.min, 0.5);
  EXPECT_EQ(three.mean, n / 2.0);
  EXPECT_EQ(three.max, n - 0.5);
  EXPECT_TRUE(world.any(world.rank() == n - 1));
  EXPECT_FALSE(world.any(false));
  EXPECT_TRUE(world.all(true));
  EXPECT_FALSE(world.all(world.rank() != n - 1));
}

TEST(World, SumsDisjointElementsExactly) {
  World world = World::from(MPI_COMM_WORLD);
  std::vector<double> values(37, 0.0);
  for (std::size_t i = 0; i < values.size(); ++i)
    if (static_cast<int>(i) % world.size() == world.rank())
      values[i] = 0.1 * static_cast<double>(i);
  world.sum_in_place(values);
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(values[i], 0.1 * static_cast<double>(i));
  std::vector<double> empty;
  world.sum_in_place(empty);
}

TEST(World, SumsIntegersExactly) {
  World world = World::from(MPI_COMM_WORLD);
  const std::int64_t n = world.size();
  std::vector<std::int64_t> values(29);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = (std::int64_t{1} << 58) + static_cast<std::int64_t>(i) - world.rank();
  values[3] = -7 * world.rank();
  world.sum_in_place(values);
  for (std::size_t i = 0; i < values.size(); ++i)
    if (i != 3) {
      EXPECT_EQ(values[i],
                n * ((std::int64_t{1} << 58) + static_cast<std::int64_t>(i)) - n * (n - 1) / 2);
    }
  EXPECT_EQ(values[3], -7 * n * (n - 1) / 2);
  std::vector<std::int64_t> empty;
  world.sum_in_place(empty);
}

TEST(World, BroadcastsTextAndVectors) {
  World world = World::from(MPI_COMM_WORLD);
  for (int root = 0; root < world.size(); ++root) {
    const std::string sent = "from rank " + std::to_string(root) + std::string("\0tail", 5);
    std::string text = world.rank() == root ? sent : "something longer that must be replaced....";
    world.broadcast(text, root);
    EXPECT_EQ(text, sent);
    std::vector<char> bytes;
    if (world.rank() == root) bytes = {'a', 'b', '\0'};
    world.broadcast(bytes, root);
    EXPECT_THAT(bytes, ::testing::ElementsAre('a', 'b', '\0'));
    std::vector<double> none(world.rank() == root ? 0 : 3);
    world.broadcast(none, root);
    EXPECT_TRUE(none.empty());
  }
}

TEST(World, GathersTextInRankOrder) {
  World world = World::from(MPI_COMM_WORLD);
  auto text_of = [](int rank) { return std::string(static_cast<std::size_t>(rank % 3), 'x'); };
  for (int root : {0, world.size() - 1}) {
    const auto texts = world.gather(text_of(world.rank()), root);
    if (world.rank() != root) {
      EXPECT_TRUE(texts.empty());
      continue;
    }
    ASSERT_EQ(static_cast<int>(texts.size()), world.size());
    for (int rank = 0; rank < world.size(); ++rank)
      EXPECT_EQ(texts[static_cast<std::size_t>(rank)], text_of(rank));
  }
  const auto values = world.all_gather(2.0 * world.rank());
  ASSERT_EQ(static_cast<int>(values.size()), world.size());
  for (int rank = 0; rank < world.size(); ++rank)
    EXPECT_EQ(values[static_cast<std::size_t>(rank)], 2.0 * rank);
}

TEST(World, CollectivelyReturnsTheResult) {
  World world = World::from(MPI_COMM_WORLD);
  EXPECT_EQ(world.collectively([&] { return world.rank() * 2; }), world.rank() * 2);
  int runs = 0;
  world.collectively([&] { ++runs; });
  EXPECT_EQ(runs, 1);
}

TEST(World, CollectivelyThrowsTheSameErrorEverywhere) {
  World world = World::from(MPI_COMM_WORLD);
  for (int failing = 0; failing < world.size(); ++failing) {
    try {
      world.collectively([&] {
        if (world.rank() >= failing)
          throw DataError("shard of rank " + std::to_string(world.rank()));
      });
      FAIL() << "no exception on rank " << world.rank();
    } catch (DataError const& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_EQ(std::string(error.what()), "shard of rank " + std::to_string(failing));
    }
    EXPECT_THROW(world.collectively([&]() -> int {
      if (world.rank() == failing) throw ConfigError("one rank only");
      return 1;
    }),
                 ConfigError);
  }
  try {
    world.collectively([&] { throw std::runtime_error("plain " + std::to_string(world.rank())); });
    FAIL() << "no exception on rank " << world.rank();
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_EQ(std::string(error.what()), "plain 0");
  }
  EXPECT_THROW(world.collectively([&] { throw Error(ExitCode::stopped, "stop"); }), Error);
  world.barrier();  // nothing is left behind in the communicator
}

TEST(World, MpiErrorsBecomeExceptions) {
  World world = World::from(MPI_COMM_WORLD);
  try {
    std::string text = "x";
    world.broadcast(text, world.size() + 5);
    FAIL() << "no exception";
  } catch (CommunicationError const& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("MPI_Bcast failed: MPI_ERR_ROOT"));
  }
}

}  // namespace
}  // namespace sdp
