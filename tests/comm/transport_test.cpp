// SPDX-License-Identifier: Apache-2.0
#include "comm/transport.hpp"

#include <gtest/gtest.h>

#include "base/memory_ledger.hpp"
#include "base/timer.hpp"
#include "comm/delivery.hpp"
#include "comm/grouped_queue.hpp"
#include "comm/pinned_pool.hpp"
#include "exchange_fixture.hpp"

namespace sdp {
namespace {

using kernels::bf16;
using test::Fixture;

/// What NCCL does, over MPI: a group ends before the next one begins, and a send only when its
/// receiver is there. Ranks whose groups stand in different orders would wait for ever.
class OneGroupAtATime : public GroupedQueue {
 public:
  OneGroupAtATime(World const& world, MessagePlan const& plan) : GroupedQueue(world, plan) {
    MPI_Comm_dup(world.comm(), &m_comm);
  }
  ~OneGroupAtATime() override { MPI_Comm_free(&m_comm); }

  ExecSpace const* stream() const override { return &m_exec; }
  void sum(std::int64_t* data, index_t count) override {
    MPI_Allreduce(MPI_IN_PLACE, data, static_cast<int>(count), MPI_INT64_T, MPI_SUM, m_comm);
  }

 protected:
  void issue(std::vector<Post> const& posts) override {
    std::vector<MPI_Request> requests(posts.size());
    for (std::size_t i = 0; i < posts.size(); ++i) {
      Post const& post = posts[i];
      const auto count = static_cast<int>(post.count);
      if (post.kind == Kind::send)
        MPI_Issend(post.data, count, MPI_BYTE, post.rank, 0, m_comm, &requests[i]);
      else if (post.kind == Kind::receive)
        MPI_Irecv(post.data, count, MPI_BYTE, post.rank, 0, m_comm, &requests[i]);
      else
        MPI_Iallreduce(MPI_IN_PLACE, post.data, count,
                       post.kind == Kind::all_reduce_float ? MPI_FLOAT : MPI_DOUBLE, MPI_SUM,
                       m_comm, &requests[i]);
    }
    const Timer timer;
    for (int done = 0; done == 0;) {
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
      std::this_thread::yield();
      if (timer.seconds() > 60.0) throw CommunicationError("the groups of ranks do not meet");
    }
  }

 private:
  MPI_Comm m_comm = MPI_COMM_NULL;
  ExecSpace m_exec;
};

QueueFactory one_group_at_a_time() {
  return [](World const& world, MessagePlan const& plan) {
    return std::make_unique<OneGroupAtATime>(world, plan);
  };
}

/// Steps of exchanges of every kind; the fixture compares every bit.
void check_exchanges(World const& world, QueueFactory const& queue) {
  for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none})
    for (bool full_weights : {false, true}) {
      const int slots = full_weights ? 1 : 3;
      const auto layout = test::random_layout(world.workers(), 12, full_weights);
      for (int ranks_per_node : {1, 2}) {
        if (world.workers() % ranks_per_node != 0) continue;
        Fixture<float> fixture(world, layout, 900, mode, {.staging_slots = slots, .queue = queue},
                               ranks_per_node, 64);
        for (int step = 0; step < 2; ++step) {
          fixture.run(step, static_cast<unsigned>(step));
          fixture.check(step);
          fixture.check_weights_in_parts(step, 3);
        }
        Fixture<float, bf16> small(world, layout, 5000, mode, {.queue = queue}, ranks_per_node);
        small.run(0, 2);
        small.check_weights(0);
      }
    }
  const auto dense = dense_layout(test::awkward_table(), world.workers());
  Fixture<double> pieces(world, dense, 3000, GradientReturn::holders,
                         {.max_message_bytes = 1000, .queue = queue});
  pieces.run(1, 4);
  pieces.check(1);
}

/// The largest difference, by elements, between an all-reduce and the exchange.
template <class G>
void check_all_reduce(World const& world, QueueFactory const& queue) {
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<G> fixture(world, layout, 3000, GradientReturn::holders,
                     {.method = ReductionMethod::allreduce, .queue = queue});
  fixture.run(0, 1);
  const auto host = Kokkos::create_mirror_view_and_copy(HostSpace(), fixture.gradients);
  for (std::size_t i = 0; i < fixture.positions().size(); ++i)
    ASSERT_NEAR(host(i), fixture.expected(fixture.positions()[i], 0), 1e-5 * (1 << 24));
}

TEST(Transport, ThroughHostMemory) {
  const World world = World::from(MPI_COMM_WORLD);
  check_exchanges(world, mpi_queue(true));
  check_all_reduce<float>(world, mpi_queue(true));
  check_all_reduce<double>(world, mpi_queue(true));
}

TEST(Transport, ThroughHostMemoryInDeliveries) {
  const World world = World::from(MPI_COMM_WORLD);
  const auto layout = test::random_layout(world.workers(), 3, true);
  const auto buckets = make_buckets(layout.gradients[0], 2000, sizeof(float));
  const IndexRange all{0, layout.gradients[0].logical_size()};
  const DeliveryPlan plan = make_delivery_plan(owned_source(layout, buckets, BufferLayout::weights),
                                               whole_target(world.workers(), all), world.worker());
  const auto size = static_cast<std::size_t>(plan.source_size);
  View1<float> source("source", size);
  auto host = Kokkos::create_mirror_view(source);
  for (std::size_t i = 0; i < size; ++i)
    host(i) = static_cast<float>(i) + 1000.0f * static_cast<float>(world.rank());
  Kokkos::deep_copy(source, host);
  const auto delivered = [&](bool through_host) {
    View1<float> target("target", static_cast<std::size_t>(all.size()));
    Delivery<float> delivery(
        world, {.message_bytes = 3000, .window = 2, .queue = mpi_queue(through_host)});
    delivery.run(plan, source, target);
    return Kokkos::create_mirror_view_and_copy(HostSpace(), target);
  };
  const auto through = delivered(true);
  if (!k_host_memory) return;
  const auto direct = delivered(false);
  for (std::size_t i = 0; i < direct.extent(0); ++i) ASSERT_EQ(through(i), direct(i)) << i;
}

TEST(Transport, HostMemoryIsUsedAgain) {
  const World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<float> fixture(world, layout, 3000, GradientReturn::holders, {.queue = mpi_queue(true)});
  memory_ledger::install();
  const auto used = [] { return memory_ledger::usage(MemoryCategory::communication).current; };
  for (int step = 0; step < 3; ++step) fixture.run(step);
  const std::int64_t before = used();
  for (int step = 3; step < 40; ++step) fixture.run(step);
  fixture.check(39);
  // What is under way at a time depends on timing; what was allocated in 40 steps does not add up.
  EXPECT_LE(used() - before, 4 * fixture.logical_size() * static_cast<index_t>(sizeof(float)));
}

TEST(Transport, OrderedGroups) {
  if (!k_host_memory) GTEST_SKIP() << "the stand-in needs memory that MPI can address";
  const World world = World::from(MPI_COMM_WORLD);
  check_exchanges(world, one_group_at_a_time());
  check_all_reduce<float>(world, one_group_at_a_time());
  check_all_reduce<double>(world, one_group_at_a_time());
}

TEST(Transport, SumsIntegers) {
  const World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  for (QueueFactory const& queue : {mpi_queue(true), one_group_at_a_time()}) {
    if (!k_host_memory) GTEST_SKIP() << "the stand-in needs memory that MPI can address";
    Fixture<float> fixture(world, layout, 3000, GradientReturn::holders, {.queue = queue});
    View1<std::int64_t> values("values", 3);
    auto host = Kokkos::create_mirror_view(values);
    for (int i = 0; i < 3; ++i)
      host(static_cast<std::size_t>(i)) = (std::int64_t{1} << 56) + i * world.rank();
    Kokkos::deep_copy(values, host);
    fixture.exchange.sum(values);
    const auto sums = Kokkos::create_mirror_view_and_copy(HostSpace(), values);
    const std::int64_t ranks = world.size();
    for (int i = 0; i < 3; ++i)
      EXPECT_EQ(sums(static_cast<std::size_t>(i)),
                ranks * (std::int64_t{1} << 56) + i * ranks * (ranks - 1) / 2);
  }
}

TEST(Transport, DeliveriesRefuseStreams) {
  const World world = World::from(MPI_COMM_WORLD);
  EXPECT_THROW(Delivery<float>(world, {.queue = one_group_at_a_time()}), std::invalid_argument);
}

TEST(GroupedQueue, RefusesWhatIsNotInThePlan) {
  const World world = World::from(MPI_COMM_WORLD);
  MessagePlan plan;
  plan.messages = 2;
  plan.passes = {{{3, 1}, {1, 1}}};
  OneGroupAtATime queue(world, plan);
  queue.begin_pass(0);
  char byte = 0;
  queue.send(0, &byte, 1, world.worker(), 2);
  EXPECT_TRUE(queue.test().empty());  // group 3 comes before group 1
  EXPECT_FALSE(queue.idle());
  EXPECT_THROW(queue.send(1, &byte, 1, world.worker(), 3), std::logic_error);
  EXPECT_THROW(queue.send(1, &byte, 1, world.worker(), 8), std::logic_error);
  EXPECT_THROW(queue.begin_pass(0), std::logic_error);
  plan.passes = {{{1, 1}, {1, 1}}};
  EXPECT_THROW(OneGroupAtATime(world, plan), std::invalid_argument);
}

TEST(PinnedPool, GivesBlocksOutAgain) {
  PinnedPool pool;
  const auto first = pool.take(1000);
  const auto second = pool.take(1000);
  EXPECT_NE(first.data, second.data);
  EXPECT_EQ(pool.bytes(), 2000);
  pool.give_back(first);
  EXPECT_EQ(pool.take(600).data, first.data);
  pool.give_back(second);
  EXPECT_NE(pool.take(400).data, second.data);  // too large for that
  EXPECT_EQ(pool.bytes(), 2400);
}

}  // namespace
}  // namespace sdp
