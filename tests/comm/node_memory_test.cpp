// SPDX-License-Identifier: Apache-2.0
#include "comm/node_memory.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

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
  for (auto const& entry : std::filesystem::directory_iterator("/dev/shm"))
    count += entry.path().filename().string().rfind(own, 0) == 0 ? 1 : 0;
  return count;
}

TEST(NodeMemory, RanksOfANodeSeeEachOthersMemory) {
  if (!has_place()) GTEST_SKIP() << "no /dev/shm";
  const World world = World::from(MPI_COMM_WORLD);
  const auto before = memory_ledger::usage(MemoryCategory::gradients).current;
  {
    const index_t count = 1000 + world.rank();
    const auto memory = NodeMemory::allocate(world, MemoryCategory::gradients, count * 4);
    if (world.size() == 1) {
      EXPECT_EQ(memory, nullptr) << "nobody to share with";
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
  if (!has_place()) GTEST_SKIP() << "no /dev/shm";
  const World world = World::from(MPI_COMM_WORLD, 1);
  EXPECT_EQ(NodeMemory::allocate(world, MemoryCategory::gradients, 64), nullptr);
  if (world.size() % 2 != 0) return;
  const World pairs = World::from(MPI_COMM_WORLD, 2);
  const auto memory = NodeMemory::allocate(pairs, MemoryCategory::gradients, 64);
  ASSERT_NE(memory, nullptr);
  const auto all = memory->of_ranks();
  for (int rank = 0; rank < pairs.size(); ++rank)
    EXPECT_EQ(all[static_cast<std::size_t>(rank)] != nullptr, rank / 2 == pairs.rank() / 2);
}

TEST(NodeMemory, NullOnEveryRankWhereThereIsNoRoomOnOne) {
  if (!has_place()) GTEST_SKIP() << "no /dev/shm";
  const World world = World::from(MPI_COMM_WORLD);
  const index_t bytes = world.rank() == world.size() - 1 ? index_t{1} << 60 : 64;
  EXPECT_EQ(NodeMemory::allocate(world, MemoryCategory::gradients, bytes), nullptr);
  world.barrier();
  EXPECT_EQ(named_objects(), 0);
}

/// What an exchange makes of gradients that a node addresses is what messages make of them.
class NodeGradients : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!has_place()) GTEST_SKIP() << "no /dev/shm";
  }
};

TEST_P(NodeGradients, AverageAsMessagesDo) {
  if (World::from(MPI_COMM_WORLD).size() % GetParam() != 0) GTEST_SKIP() << "no such nodes";
  const World world = World::from(MPI_COMM_WORLD, GetParam());
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

TEST_P(NodeGradients, CrossNoMessageInsideTheNode) {
  if (World::from(MPI_COMM_WORLD).size() % GetParam() != 0) GTEST_SKIP() << "no such nodes";
  const World world = World::from(MPI_COMM_WORLD, GetParam());
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
    EXPECT_EQ(sent, 8 * fixture.exchange.schedule().traffic.gradients_sent_to_other_nodes);
    world.barrier();
  }
}

TEST_P(NodeGradients, HaveToBeTheOnesThatAreAddressed) {
  if (World::from(MPI_COMM_WORLD).size() % GetParam() != 0) GTEST_SKIP() << "no such nodes";
  const World world = World::from(MPI_COMM_WORLD, GetParam());
  if (GetParam() < 2) return;
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<float> fixture(world, layout, 5000, GradientReturn::holders, {}, world.node_size(),
                         k_part_elements, true);
  const View1<float> other("other", fixture.gradients.extent(0));
  EXPECT_THROW(fixture.exchange.begin(other), std::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(RanksPerNode, NodeGradients, testing::Values(1, 2, 4, 8));

}  // namespace
}  // namespace sdp
