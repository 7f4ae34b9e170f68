// SPDX-License-Identifier: Apache-2.0
#include "comm/node_memory.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/memory_ledger.hpp"
#include "exchange_fixture.hpp"
#include "tests/support/pmpi_counter.hpp"

namespace sdp {
namespace {

using kernels::bf16;
using test::Fixture;

/// Whether the machine has a place for shared memory at all.
bool has_place() {
  return access("/dev/shm", W_OK) == 0;
}

/// Shared memory objects of this process that have a name.
int named_objects() {
  const std::string own = "sdp-" + std::to_string(getpid()) + "-";
  int count = 0;
  if (!has_place()) return count;
  for (auto const& entry : std::filesystem::directory_iterator("/dev/shm"))
    count += entry.path().filename().string().rfind(own, 0) == 0 ? 1 : 0;
  return count;
}

TEST(NodeMemory, RanksOfANodeSeeEachOthersMemory) {
  const World world = World::from(MPI_COMM_WORLD);
  const auto before = memory_ledger::usage(MemoryCategory::gradients).current;
  {
    const index_t count = 1000 + world.rank();
    const auto memory = NodeMemory::allocate(world, MemoryCategory::gradients, count * 4);
    if (world.size() == 1 || !has_place()) {
      EXPECT_EQ(memory, nullptr) << "nobody to share with, or nowhere";
      return;
    }
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(memory_ledger::usage(MemoryCategory::gradients).current - before, count * 4);
    auto* const own = static_cast<int*>(memory->data());
    EXPECT_EQ(own[count - 1], 0);
    own[count - 1] = world.rank();
    world.barrier();
    const auto all = memory->of_ranks();
    for (int rank = 0; rank < world.size(); ++rank)
      EXPECT_EQ(static_cast<int*>(all[static_cast<std::size_t>(rank)])[1000 + rank - 1], rank);
    world.barrier();
    EXPECT_EQ(named_objects(), 0) << "its name is gone while it is in use";
  }
  EXPECT_EQ(memory_ledger::usage(MemoryCategory::gradients).current, before);
}

TEST(NodeMemory, OnlyInsideDeclaredNodes) {
  const World world = World::from(MPI_COMM_WORLD, 1);
  EXPECT_EQ(NodeMemory::allocate(world, MemoryCategory::gradients, 64), nullptr);
  if (world.size() % 2 != 0) return;
  const World pairs = World::from(MPI_COMM_WORLD, 2);
  const auto memory = NodeMemory::allocate(pairs, MemoryCategory::gradients, 64);
  ASSERT_EQ(memory != nullptr, has_place());
  if (!memory) return;
  const auto all = memory->of_ranks();
  for (int rank = 0; rank < pairs.size(); ++rank)
    EXPECT_EQ(all[static_cast<std::size_t>(rank)] != nullptr, rank / 2 == pairs.rank() / 2);
}

TEST(NodeMemory, NullOnEveryRankWhereThereIsNoRoomOnOne) {
  const World world = World::from(MPI_COMM_WORLD);
  const index_t bytes = world.rank() == world.size() - 1 ? index_t{1} << 60 : 64;
  EXPECT_EQ(NodeMemory::allocate(world, MemoryCategory::gradients, bytes), nullptr);
  world.barrier();
  EXPECT_EQ(named_objects(), 0);
}

/// The world in nodes of one rank, of two, ... as far as they divide it. Collective.
std::vector<World> divided_worlds() {
  std::vector<World> worlds;
  const int ranks = World::from(MPI_COMM_WORLD).size();
  for (int ranks_per_node = 1; ranks_per_node <= ranks; ++ranks_per_node)
    if (ranks % ranks_per_node == 0) worlds.push_back(World::from(MPI_COMM_WORLD, ranks_per_node));
  return worlds;
}

/// What an exchange makes of gradients that a node addresses is what messages make of them.
void expect_averages(World const& world) {
  const int levels = world.node_size();
  for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none})
    for (bool full_weights : {false, true})
      for (index_t bytes : {index_t{900}, index_t{1} << 30}) {
        const auto layout = test::random_layout(world.workers(), 5, full_weights);
        Fixture<float> fixture(world, layout, bytes, mode, {.staging_slots = 1}, levels, 100, true);
        Fixture<float, bf16> wide(world, layout, bytes, mode, {}, levels, k_part_elements, true);
        for (int step = 0; step < 4; ++step) {
          fixture.run(step, static_cast<unsigned>(step));
          fixture.check(step);
          fixture.check_weights_in_parts(step, 5);
          wide.run(step, 3);
          wide.check(step);
          const View1<std::int64_t> values("values", 1);  // whatever is summed
          wide.exchange.sum(values);
        }
        auto const& traffic = fixture.exchange.schedule().traffic;
        fixture.run(9);
        EXPECT_EQ(fixture.exchange.statistics().gradient_sent_bytes, 4 * traffic.gradients_sent)
            << "counted as if it had been sent";
      }
}

TEST(NodeGradients, AverageAsMessagesDo) {
  for (World const& world : divided_worlds()) {
    SCOPED_TRACE(world.ranks_per_node());
    expect_averages(world);
  }
}

void expect_no_message_inside_a_node(World const& world) {
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none}) {
    Fixture<double> fixture(world, layout, 5000, mode, {}, world.node_size(), k_part_elements,
                            true);
    fixture.fill(1);
    world.barrier();
    const auto before = test::pmpi_counts().sent_bytes;
    fixture.exchange.begin(fixture.gradients);
    fixture.exchange.finish();
    const auto sent = test::pmpi_counts().sent_bytes - before;
    fixture.check(1);
    auto const& traffic = fixture.exchange.schedule().traffic;
    EXPECT_EQ(sent,
              8 * (has_place() ? traffic.gradients_sent_to_other_nodes : traffic.gradients_sent));
    world.barrier();
  }
}

TEST(NodeGradients, CrossNoMessageInsideTheNode) {
  for (World const& world : divided_worlds()) {
    SCOPED_TRACE(world.ranks_per_node());
    expect_no_message_inside_a_node(world);
  }
}

TEST(NodeGradients, HaveToBeTheOnesThatAreAddressed) {
  const World world = World::from(MPI_COMM_WORLD);
  if (world.size() == 1 || !has_place()) return;  // then none are addressed
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<float> fixture(world, layout, 5000, GradientReturn::holders, {}, world.node_size(),
                         k_part_elements, true);
  const View1<float> other("other", fixture.gradients.extent(0));
  EXPECT_THROW(fixture.exchange.begin(other), std::invalid_argument);
}

}  // namespace
}  // namespace sdp
