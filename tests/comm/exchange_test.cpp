// SPDX-License-Identifier: Apache-2.0
#include "comm/exchange.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/memory_ledger.hpp"
#include "base/timer.hpp"
#include "exchange_fixture.hpp"
#include "tests/support/pmpi_counter.hpp"

namespace sdp {
namespace {

using kernels::bf16;
using test::Fixture;

constexpr index_t k_bucket_bytes[] = {64, 5000, 1 << 20, 1 << 30};

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

TEST(Exchange, GradientsCrossAsBf16) {
  World world = World::from(MPI_COMM_WORLD);
  for (int slots : {1, 3}) {
    const ExchangeOptions options{.staging_slots = slots, .bf16_wire = true};
    const auto dense = dense_layout(test::awkward_table(), world.workers());
    for (index_t bytes : k_bucket_bytes)
      for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none}) {
        Fixture<float> fixture(world, dense, bytes, mode, options);
        for (int step = 0; step < 2; ++step) {
          fixture.run(step, static_cast<unsigned>(step));
          fixture.check(step);
          fixture.check_weights(step);
        }
        const std::int64_t narrow = fixture.exchange.statistics().gradient_sent_bytes;
        Fixture<float> wide(world, dense, bytes, mode);
        wide.run(0);
        EXPECT_EQ(2 * narrow, wide.exchange.statistics().gradient_sent_bytes);
      }
    for (bool full_weights : {false, true})
      for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none}) {
        const auto layout = test::random_layout(world.workers(), 5, full_weights);
        Fixture<float, bf16> fixture(world, layout, 900, mode, options);
        fixture.run(1, 3);
        fixture.check(1);
        fixture.check_weights(1);
      }
  }
  EXPECT_THROW(Fixture<double>(world, dense_layout(test::awkward_table(), world.workers()), 900,
                               GradientReturn::holders, {.bf16_wire = true}),
               std::invalid_argument);
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

TEST(Exchange, LongPartsTravelByThemselves) {
  World world = World::from(MPI_COMM_WORLD);
  for (GradientReturn mode : {GradientReturn::holders, GradientReturn::none})
    for (int ranks_per_node : {1, 2})
      for (index_t part_elements : {1, 100, 1 << 30}) {
        const auto layout = test::random_layout(world.workers(), 61, true);
        Fixture<float, bf16> fixture(world, layout, 9000, mode, {.max_message_bytes = 999},
                                     ranks_per_node, part_elements);
        for (int step = 0; step < 2; ++step) {
          fixture.run(step, 2);
          fixture.check(step);
          fixture.check_weights(step);
        }
        auto const& traffic = fixture.exchange.schedule().traffic;
        EXPECT_EQ(fixture.exchange.statistics().messages_sent, traffic.messages_sent);
        EXPECT_EQ(fixture.exchange.statistics().gradient_sent_bytes, 4 * traffic.gradients_sent);
      }
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
  index_t lists = 0;
  for (auto const& of : fixture.exchange.schedule().buckets) lists += sum_list_bytes(of);
  EXPECT_LE(staging, 2 * (bucket * (world.workers() - 1) / world.workers() + 64 * 8) + lists + 1024)
      << "two slots of the contributions to one's own slice, and the lists of sums";
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
