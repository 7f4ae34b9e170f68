// SPDX-License-Identifier: Apache-2.0
#include "comm/exchange.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <thread>

#include "base/memory_ledger.hpp"
#include "base/timer.hpp"
#include "layouts.hpp"
#include "tests/support/pmpi_counter.hpp"

namespace sdp {
namespace {

using kernels::bf16;

constexpr index_t k_bucket_bytes[] = {64, 5000, 1 << 20, 1 << 30};

/// The gradient of one worker, of widely different magnitudes, so that the order of a sum shows.
template <class G>
G gradient(int worker, index_t logical, int step) {
  auto bits = static_cast<std::uint64_t>(logical) * 1000003u +
              static_cast<std::uint64_t>(worker) * 7919u +
              static_cast<std::uint64_t>(step) * 104729u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  bits ^= bits >> 31;
  const double mantissa = static_cast<double>(bits >> 11) * 0x1p-53 - 0.5;
  return static_cast<G>(std::ldexp(mantissa, static_cast<int>(bits % 24)));
}

/// Sum over the leaves [low, low + size) of the binary tree over ids, by its definition: leaf(id)
/// is a contribution or nothing.
template <class G, class Leaf>
std::optional<G> tree(Leaf const& leaf, int low, int size) {
  if (size == 1) return leaf(low);
  const std::optional<G> left = tree<G>(leaf, low, size / 2);
  const std::optional<G> right = tree<G>(leaf, low + size / 2, size / 2);
  if (left && right) return *left + *right;
  return left ? left : right;
}

/// One exchange over a layout, with what must come out of it.
template <class G, class W = G>
class Fixture {
 public:
  Fixture(World const& world, ExchangeLayout const& layout, index_t bucket_bytes,
          GradientReturn gradient_return, ExchangeOptions options = {}, int ranks_per_node = 1)
      : m_world(world),
        m_layout(layout),
        m_returns(gradient_return == GradientReturn::holders),
        exchange(world,
                 make_schedule(layout, make_buckets(layout.gradients[0], bucket_bytes, sizeof(G)),
                               world.worker(), gradient_return, ranks_per_node),
                 options),
        gradients("gradients", static_cast<std::size_t>(exchange.schedule().gradient_size)),
        weights("weights", static_cast<std::size_t>(exchange.schedule().weight_size)) {
    const auto table =
        static_cast<std::size_t>(layout.table_of_worker[static_cast<std::size_t>(world.worker())]);
    m_positions = test::logical_positions(layout.gradients[table]);
    m_weight_positions = test::logical_positions(layout.weights.empty() ? layout.gradients[table]
                                                                        : layout.weights[table]);
    m_holders.assign(static_cast<std::size_t>(layout.gradients[0].logical_size()), 0u);
    for (int worker = 0; worker < layout.workers(); ++worker) {
      const auto t =
          static_cast<std::size_t>(layout.table_of_worker[static_cast<std::size_t>(worker)]);
      for (index_t logical : test::logical_positions(layout.gradients[t]))
        m_holders[static_cast<std::size_t>(logical)] |= 1u << worker;
    }
  }

  void fill(int step) {
    auto host = Kokkos::create_mirror_view(gradients);
    for (std::size_t i = 0; i < m_positions.size(); ++i)
      host(i) = gradient<G>(m_world.worker(), m_positions[i], step);
    Kokkos::deep_copy(gradients, host);
  }

  /// begin ... finish with gradients becoming ready in random portions at random times.
  void run(int step, unsigned timing = 0) {
    fill(step);
    exchange.begin(gradients);
    if (timing != 0) {
      std::mt19937 random(timing * 100 + static_cast<unsigned>(m_world.rank()));
      index_t end = 0;
      while (end < static_cast<index_t>(gradients.extent(0))) {
        end += static_cast<index_t>(random() % (gradients.extent(0) / 3 + 1));
        if (random() % 2 == 0)
          std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
        exchange.ready(std::min(end, static_cast<index_t>(gradients.extent(0))));
        if (random() % 3 == 0) exchange.poll();
      }
    }
    exchange.finish();
  }

  int leaves() const {
    return static_cast<int>(std::bit_ceil(static_cast<unsigned>(m_layout.workers())));
  }
  unsigned holders(index_t logical) const { return m_holders[static_cast<std::size_t>(logical)]; }

  /// Sum over the holders among workers [begin, end).
  std::optional<G> sum_of(index_t logical, int step, int begin, int end) const {
    auto leaf = [&](int id) -> std::optional<G> {
      if (id < begin || id >= end || (holders(logical) >> id & 1u) == 0) return std::nullopt;
      return gradient<G>(id, logical, step);
    };
    return tree<G>(leaf, 0, leaves());
  }

  /// The average: a tree over workers, or over nodes of trees over their workers.
  G expected(index_t logical, int step) const {
    const int size = exchange.schedule().node_size;
    const auto sum =
        size == 1
            ? sum_of(logical, step, 0, m_layout.workers())
            : tree<G>(
                  [&](int node) { return sum_of(logical, step, node * size, (node + 1) * size); },
                  0, leaves());
    return *sum * static_cast<G>(1.0 / std::popcount(holders(logical)));
  }

  /// Averages where they belong; elsewhere own gradients, or sums that this worker made of those of
  /// its node.
  void check(int step) const {
    const int size = exchange.schedule().node_size;
    const int node = m_world.worker() / size;
    auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), gradients);
    enum What : char { own, node_sum, average };
    std::vector<char> what(m_positions.size(), own);
    auto mark = [&](IndexRange const& range, char as) {
      for (index_t i = range.begin; i < range.end; ++i) what[static_cast<std::size_t>(i)] = as;
    };
    for (BucketSchedule const& bucket : exchange.schedule().buckets)
      for (NodeRun const& run : bucket.node_sums) mark(run.gradients, node_sum);
    for (OwnedRange const& range : exchange.owned()) mark(range.gradients, average);
    for (std::size_t i = 0; i < m_positions.size(); ++i) {
      G value = gradient<G>(m_world.worker(), m_positions[i], step);
      if (m_returns || what[i] == average)
        value = expected(m_positions[i], step);
      else if (what[i] == node_sum)
        value = *sum_of(m_positions[i], step, node * size, (node + 1) * size);
      ASSERT_EQ(host(i), value) << "rank " << m_world.rank() << ", element " << i;
    }
  }

  static W updated(index_t logical, int step) { return W(gradient<float>(77, logical, step)); }

  /// Updates what this worker updates, and spoils the rest.
  void update_weights(int step) {
    auto host = Kokkos::create_mirror_view(weights);
    Kokkos::deep_copy(host, W(std::nanf("")));
    if (m_returns) {
      for (std::size_t i = 0; i < m_weight_positions.size(); ++i)
        if ((m_holders[static_cast<std::size_t>(m_weight_positions[i])] >> m_world.worker() & 1u) !=
            0)
          host(i) = updated(m_weight_positions[i], step);
    } else {
      for (OwnedRange const& range : exchange.owned())
        for (index_t i = 0; i < range.gradients.size(); ++i) {
          const auto at = static_cast<std::size_t>(range.weight_begin + i);
          host(at) = updated(m_weight_positions[at], step);
        }
    }
    Kokkos::deep_copy(weights, host);
  }

  /// All weights from `begin` on are the updated ones.
  void check_arrived(int step, index_t begin) const {
    const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), weights);
    for (auto i = static_cast<std::size_t>(begin); i < m_weight_positions.size(); ++i)
      ASSERT_EQ(static_cast<double>(host(i)),
                static_cast<double>(updated(m_weight_positions[i], step)))
          << "rank " << m_world.rank() << ", weight " << i;
  }

  /// What return_weights makes of it.
  void check_weights(int step) {
    update_weights(step);
    exchange.return_weights(weights);
    check_arrived(step, 0);
  }

  /// The return as forward sees it, from the end of the buffer to its beginning.
  void check_weights_in_parts(int step, unsigned timing) {
    update_weights(step);
    std::mt19937 random(timing * 100 + static_cast<unsigned>(m_world.rank()));
    exchange.begin_return(weights);
    auto begin = static_cast<index_t>(weights.extent(0));
    while (begin > 0) {
      begin -= static_cast<index_t>(random() % (weights.extent(0) / 3 + 1));
      begin = std::max<index_t>(begin, 0);
      if (random() % 2 == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
      exchange.wait_weights(begin);
      check_arrived(step, begin);
      if (random() % 3 == 0) exchange.poll();
    }
    exchange.finish_return();
    check_arrived(step, 0);
  }

 private:
  World const& m_world;
  ExchangeLayout const& m_layout;
  bool m_returns;
  std::vector<index_t> m_positions;
  std::vector<index_t> m_weight_positions;
  std::vector<unsigned> m_holders;  ///< bits of workers, by logical position

 public:
  Exchange<G, W> exchange;
  View1<G> gradients;
  View1<W> weights;
};

TEST(Exchange, AveragesForAnyBuckets) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  for (index_t bytes : k_bucket_bytes) {
    Fixture<float> single(world, layout, bytes, GradientReturn::holders);
    single.run(0);
    single.check(0);
    Fixture<double> fine(world, layout, bytes, GradientReturn::holders);
    fine.run(1);
    fine.check(1);
  }
}

TEST(Exchange, AveragesForAnyTiming) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<float> fixture(world, layout, 3000, GradientReturn::holders, {.staging_slots = 2});
  for (int step = 0; step < 8; ++step) {
    fixture.run(step, static_cast<unsigned>(step));
    fixture.check(step);
  }
}

TEST(Exchange, OneSlotIsEnough) {
  World world = World::from(MPI_COMM_WORLD);
  for (unsigned seed : {1u, 2u}) {
    const auto layout = test::random_layout(world.workers(), seed, true);
    Fixture<float> fixture(world, layout, 700, GradientReturn::holders, {.staging_slots = 1});
    for (int step = 0; step < 3; ++step) {
      fixture.run(step, seed + static_cast<unsigned>(step));
      fixture.check(step);
      fixture.check_weights(step);
    }
  }
}

TEST(Exchange, AveragesInsideHolderSets) {
  World world = World::from(MPI_COMM_WORLD);
  for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none})
    for (bool full_weights : {false, true})
      for (index_t bytes : {index_t{900}, index_t{1} << 30}) {
        const auto layout = test::random_layout(world.workers(), 5, full_weights);
        Fixture<float> fixture(world, layout, bytes, mode);
        fixture.run(1, 3);
        fixture.check(1);
        fixture.check_weights(1);
        if (world.workers() < 2) continue;
        const auto masked = test::masked_layout(world.workers(), 2, 1, full_weights);
        Fixture<double> half(world, masked, bytes, mode);
        half.run(2);
        half.check(2);
        half.check_weights(2);
      }
}

TEST(Exchange, OwnersReturnWeights) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  for (index_t bytes : k_bucket_bytes) {
    Fixture<float, bf16> fixture(world, layout, bytes, GradientReturn::none);
    for (int step = 0; step < 2; ++step) {
      fixture.run(step);
      fixture.check(step);
      fixture.check_weights(step);
    }
  }
}

TEST(Exchange, WeightsReturnDuringForward) {
  World world = World::from(MPI_COMM_WORLD);
  for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none})
    for (bool full_weights : {false, true})
      for (int slots : {1, 3}) {
        const auto layout =
            test::random_layout(world.workers(), 7 + static_cast<unsigned>(slots), full_weights);
        Fixture<float> fixture(world, layout, 700, mode, {.staging_slots = slots});
        for (int step = 0; step < 3; ++step) {
          fixture.run(step, 1);
          fixture.check(step);
          fixture.check_weights_in_parts(step, static_cast<unsigned>(step));
        }
        Fixture<float, bf16> small(world, layout, 5000, mode, {.staging_slots = slots});
        small.run(0);
        small.check_weights_in_parts(0, 5);
      }
}

TEST(Exchange, WaitingForSomeWeightsDoesNotNeedTheRest) {
  World world = World::from(MPI_COMM_WORLD);
  if (world.workers() < 2) GTEST_SKIP() << "nobody to wait for";
  // Single rows: "early", at the end of the buffer, goes to one of the workers and "late" to
  // another, which begins its return only when all have what they need of "early".
  const ParameterTable table({test::tensor("late", 1, 64), test::tensor("early", 1, 64)});
  const auto layout = dense_layout(table, world.workers());
  Fixture<float> fixture(world, layout, 256, GradientReturn::none, {.timeout_seconds = 30.0});
  ASSERT_EQ(fixture.exchange.schedule().buckets.size(), 2u);
  const bool owns_late =
      !fixture.exchange.owned().empty() && fixture.exchange.owned()[0].weight_begin == 0;
  EXPECT_EQ(world.sum(std::int64_t{owns_late}), 1);
  EXPECT_LE(world.max(static_cast<std::int64_t>(fixture.exchange.owned().size())), 1);
  fixture.run(0);
  fixture.update_weights(0);
  if (!owns_late) {
    fixture.exchange.begin_return(fixture.weights);
    fixture.exchange.wait_weights(64);
    fixture.check_arrived(0, 64);
    EXPECT_THROW(fixture.exchange.begin(fixture.gradients), std::logic_error);
  }
  world.barrier();
  if (owns_late) fixture.exchange.begin_return(fixture.weights);
  fixture.exchange.wait_weights(0);
  fixture.check_arrived(0, 0);
  fixture.exchange.finish_return();
  fixture.run(1);
  fixture.check(1);
}

TEST(Exchange, OnlyWaitingForWeightsIsBlocked) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<float> fixture(world, layout, 5000, GradientReturn::none);
  fixture.run(0);
  fixture.update_weights(0);
  const double before = fixture.exchange.statistics().blocked_ms;
  fixture.exchange.begin_return(fixture.weights);
  const Timer timer;
  while (timer.milliseconds() < 30.0) fixture.exchange.poll();
  EXPECT_EQ(fixture.exchange.statistics().blocked_ms, before);
  world.barrier();
  fixture.exchange.finish_return();
  EXPECT_LT(fixture.exchange.statistics().blocked_ms, before + 30.0);
  EXPECT_EQ(fixture.exchange.statistics().weight_sent_bytes,
            4 * fixture.exchange.schedule().traffic.weights_sent);
  fixture.check_arrived(0, 0);
}

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
        const std::vector<ExchangeLayout> layouts = {
            test::random_layout(world.workers(), 11 + static_cast<unsigned>(size), full_weights),
            test::masked_layout(world.workers(), 4, 2, full_weights),
            dense_layout(test::awkward_table(), world.workers())};
        for (ExchangeLayout const& layout : layouts) {
          Fixture<float> fixture(world, layout, 1500, mode, {.staging_slots = 2}, size);
          EXPECT_EQ(fixture.exchange.schedule().node_size, size);
          for (int step = 0; step < 3; ++step) {
            fixture.run(step, static_cast<unsigned>(step));
            fixture.check(step);
            fixture.check_weights_in_parts(step, static_cast<unsigned>(step));
          }
          Fixture<double, double> fine(world, layout, 1 << 30, mode, {}, size);
          fine.run(1);
          fine.check(1);
          fine.check_weights(1);
        }
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

TEST(Exchange, CutsLongMessages) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  for (ReductionMethod method : {ReductionMethod::exchange, ReductionMethod::allreduce}) {
    Fixture<double> fixture(world, layout, 1 << 20, GradientReturn::none,
                            {.method = method, .max_message_bytes = 1001});
    fixture.run(4);
    if (method == ReductionMethod::exchange) fixture.check(4);
    fixture.check_weights(4);
  }
}

TEST(Exchange, ManyLargeBuckets) {
  World world = World::from(MPI_COMM_WORLD);
  std::vector<TensorSpec> tensors;
  for (int i = 0; i < 6; ++i) tensors.push_back(test::tensor(test::numbered("w", i), 97, 211 + i));
  const auto layout = dense_layout(ParameterTable(tensors), world.workers());
  Fixture<float> fixture(world, layout, 1 << 16, GradientReturn::holders);
  for (int step = 0; step < 2; ++step) {
    fixture.run(step, static_cast<unsigned>(step));
    fixture.check(step);
  }
}

TEST(Exchange, AllReduceIsAReference) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  for (index_t bytes : k_bucket_bytes) {
    Fixture<float> fixture(world, layout, bytes, GradientReturn::holders,
                           {.method = ReductionMethod::allreduce});
    fixture.run(2, 1);
    auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), fixture.gradients);
    double error = 0.0;
    double norm = 0.0;
    for (std::size_t i = 0; i < host.extent(0); ++i) {  // dense: flat and logical are the same
      const double value = fixture.expected(static_cast<index_t>(i), 2);
      error += (host(i) - value) * (host(i) - value);
      norm += value * value;
    }
    EXPECT_LE(std::sqrt(error), 1e-6 * std::sqrt(norm));
    EXPECT_GT(norm, 0.0);
  }
  if (world.workers() > 1) {
    const auto masked = test::masked_layout(world.workers(), 2, 1);
    EXPECT_THROW(Fixture<float>(world, masked, 900, GradientReturn::holders,
                                {.method = ReductionMethod::allreduce}),
                 ConfigError);
  }
}

TEST(Exchange, BytesFollowTheFormula) {
  World world = World::from(MPI_COMM_WORLD);
  const std::int64_t n = world.workers();
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  const std::int64_t p = layout.gradients[0].size();
  for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none}) {
    Fixture<float, bf16> fixture(world, layout, 5000, mode);
    std::vector<std::int64_t> sent;  // after 1, 2, 3 steps, in front of MPI
    ExchangeStatistics own;
    for (int step = 0; step < 3; ++step) {
      fixture.run(step, 1);
      fixture.check_weights(step);
      own = fixture.exchange.statistics();
      sent.push_back(test::pmpi_counts().sent_bytes);
    }
    auto const& traffic = fixture.exchange.schedule().traffic;
    EXPECT_EQ(own.gradient_sent_bytes, 4 * traffic.gradients_sent);
    EXPECT_EQ(own.gradient_received_bytes, 4 * traffic.gradients_received);
    EXPECT_EQ(own.weight_sent_bytes, 2 * traffic.weights_sent);
    EXPECT_EQ(own.weight_received_bytes, 2 * traffic.weights_received);
    EXPECT_EQ(own.messages_sent, traffic.messages_sent);
    EXPECT_EQ(sent[1] - sent[0], own.gradient_sent_bytes + own.weight_sent_bytes);
    EXPECT_EQ(sent[2] - sent[1], sent[1] - sent[0]);
    const std::int64_t gradients = world.sum(own.gradient_sent_bytes);
    const std::int64_t weights = world.sum(own.weight_sent_bytes);
    const bool returns = mode == GradientReturn::holders;
    EXPECT_EQ(gradients, 4 * (returns ? 2 : 1) * (n - 1) * p);
    EXPECT_EQ(weights, returns ? 0 : 2 * (n - 1) * p);
    EXPECT_EQ(world.sum(own.gradient_received_bytes), gradients);
    EXPECT_GT(own.blocked_ms, 0.0);
  }
}

TEST(Exchange, StagingIsBoundedAndAllocatedOnce) {
  World world = World::from(MPI_COMM_WORLD);
  memory_ledger::install();
  if (!memory_ledger::installed()) GTEST_SKIP() << "a profiling tool has taken the callbacks";
  std::vector<TensorSpec> tensors;
  for (int i = 0; i < 40; ++i) tensors.push_back(test::tensor(test::numbered("w", i), 64, 64));
  const auto layout = dense_layout(ParameterTable(tensors), world.workers());
  const index_t bucket = 64 * 64 * 4;
  const auto before = memory_ledger::usage(MemoryCategory::communication).current;
  Fixture<float> fixture(world, layout, bucket, GradientReturn::holders, {.staging_slots = 2});
  const auto staging = memory_ledger::usage(MemoryCategory::communication).current - before;
  EXPECT_LE(staging, 2 * (bucket * (world.workers() - 1) / world.workers() + 64 * 8) + 1024)
      << "two slots of the contributions to one's own slice";
  EXPECT_EQ(staging > 1024, world.workers() > 1);
  fixture.fill(0);
  memory_ledger::reset_peaks();
  const auto total = memory_ledger::total().current;
  fixture.exchange.begin(fixture.gradients);
  fixture.exchange.finish();
  EXPECT_EQ(memory_ledger::total().peak, total) << "a step allocates nothing";
  fixture.check(0);
}

TEST(Exchange, SaysWhatItWaitsFor) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<float> fixture(world, layout, 1 << 30, GradientReturn::holders, {.timeout_seconds = 0.2});
  EXPECT_EQ(fixture.exchange.describe(), "no exchange is under way");
  fixture.fill(0);
  fixture.exchange.begin(fixture.gradients);
  EXPECT_THAT(fixture.exchange.describe(), ::testing::HasSubstr("this rank's own gradients"));
  const int late = world.size() - 1;
  if (world.rank() != late) {
    // The late rank's gradients do not come: an error names it, and the exchange is intact.
    try {
      fixture.exchange.finish();
      ADD_FAILURE() << "no exception";
    } catch (CommunicationError const& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("has not moved for"));
      EXPECT_THAT(error.what(), ::testing::HasSubstr("gradients, bucket 0 of 1 waits for"));
      EXPECT_THAT(error.what(),
                  ::testing::MatchesRegex(".*ranks.* " + std::to_string(late) + ".*"));
    }
  }
  world.barrier();
  fixture.exchange.finish();
  fixture.check(0);
}

TEST(Exchange, RefusesWrongCalls) {
  World world = World::from(MPI_COMM_WORLD);
  const auto layout = dense_layout(test::awkward_table(), world.workers());
  Fixture<float> fixture(world, layout, 4096, GradientReturn::holders);
  EXPECT_THROW(fixture.exchange.ready(1), std::logic_error);
  EXPECT_THROW(fixture.exchange.begin(View1<float>("short", 3)), std::invalid_argument);
  EXPECT_THROW(fixture.exchange.return_weights(View1<float>("short", 3)), std::invalid_argument);
  fixture.exchange.begin(fixture.gradients);
  EXPECT_THROW(fixture.exchange.begin(fixture.gradients), std::logic_error);
  EXPECT_THROW(fixture.exchange.return_weights(fixture.weights), std::logic_error);
  fixture.exchange.finish();
  fixture.exchange.begin_return(fixture.weights);
  EXPECT_THROW(fixture.exchange.begin_return(fixture.weights), std::logic_error);
  EXPECT_THROW(fixture.exchange.begin(fixture.gradients), std::logic_error);
  fixture.exchange.finish_return();
  fixture.exchange.wait_weights(0);
  fixture.exchange.finish_return();
  auto other =
      make_schedule(dense_layout(test::awkward_table(), world.workers() + 1),
                    make_buckets(test::awkward_table(), 4096, 4), 0, GradientReturn::holders);
  EXPECT_THROW(Exchange<float>(world, other), std::invalid_argument);
}

}  // namespace
}  // namespace sdp
