// SPDX-License-Identifier: Apache-2.0
#include "comm/schedule.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>

#include "comm/contribution_sum.hpp"
#include "comm/exchange_legs.hpp"
#include "comm/traffic.hpp"
#include "layouts.hpp"
#include "schedule_replay.hpp"

namespace sdp {
namespace {

using test::Replay;
using test::tensor;

constexpr GradientReturn k_returns[] = {GradientReturn::holders, GradientReturn::none};

TEST(Schedule, DenseOwnersAndMessages) {
  for (int workers : {1, 2, 3, 4, 8, 13})
    for (index_t bytes : {64, 4096, 1 << 30})
      for (GradientReturn mode : k_returns) {
        const auto layout = dense_layout(test::awkward_table(), workers);
        Replay replay(layout, bytes, mode);
        replay.check();
        const index_t p = layout.gradients[0].size();
        index_t sent = 0;
        for (ExchangeSchedule const& schedule : replay.schedules) {
          EXPECT_TRUE(schedule.dense);
          sent += schedule.traffic.gradients_sent + schedule.traffic.weights_sent;
          if (mode == GradientReturn::holders) {
            EXPECT_EQ(schedule.traffic.weights_sent, 0);
          }
        }
        EXPECT_EQ(sent, 2 * (workers - 1) * p) << "sum of 2 (1 - 1/N) P over ranks";
      }
}

TEST(Schedule, DenseSlicesAreContiguousAndBalanced) {
  std::vector<TensorSpec> tensors;
  for (int layer = 0; layer < 6; ++layer) {
    tensors.push_back(tensor(test::numbered("w", layer), 64, 32));
    tensors.push_back(tensor(test::numbered("norm", layer), 1, 32));
  }
  const auto layout = dense_layout(ParameterTable(tensors), 8);
  Replay replay(layout, 9000, GradientReturn::holders);
  index_t least = layout.gradients[0].size();
  index_t most = 0;
  for (ExchangeSchedule const& schedule : replay.schedules) {
    index_t owned = 0;
    for (OwnedRange const& range : schedule.owned) owned += range.gradients.size();
    least = std::min(least, owned);
    most = std::max(most, owned);
    for (BucketSchedule const& bucket : schedule.buckets) {
      EXPECT_EQ(bucket.owned.size(), 1u);
      for (ExchangeMessage const& message : bucket.reduce_sends)
        EXPECT_EQ(message.runs.size(), 1u) << "sent from the gradient buffer itself";
    }
  }
  EXPECT_LE(most - least, 32) << "at most a row";
}

TEST(Schedule, ShortUnitsAreNotDivided) {
  // 1024 units of 16 rows, each a 128th of what a worker owns on average, on random halves.
  constexpr index_t k_unit = 16 * 8;
  std::vector<TensorSpec> tensors;
  for (int i = 0; i < 64; ++i) tensors.push_back(tensor(test::numbered("w", i), 16 * 16, 8));
  std::mt19937 generator(7);
  std::vector<int> order(8);
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::set<int>> holders;
  while (holders.size() < 1024) {
    std::shuffle(order.begin(), order.end(), generator);
    const std::set<int> half(order.begin(), order.begin() + 4);
    if (holders.empty() || half != holders.back()) holders.push_back(half);  // units of their own
  }
  ExchangeLayout layout;
  for (int worker = 0; worker < 8; ++worker) {
    layout.table_of_worker.push_back(worker);
    layout.gradients.push_back(test::table_holding(tensors, [&](int t, index_t row) {
      return holders[static_cast<std::size_t>(16 * t + row / 16)].contains(worker);
    }));
  }
  Replay replay(layout, 1 << 16, GradientReturn::none);
  replay.check();
  for (ExchangeSchedule const& schedule : replay.schedules) {
    index_t owned = 0;
    for (OwnedRange const& range : schedule.owned) {
      EXPECT_EQ(range.gradients.begin % k_unit, 0);
      EXPECT_EQ(range.gradients.size() % k_unit, 0);
      owned += range.gradients.size();
    }
    EXPECT_NEAR(static_cast<double>(owned), 1024 / 8 * k_unit, 2 * k_unit);
  }
}

TEST(Schedule, SingleRowsGoRoundTheOwners) {
  std::vector<TensorSpec> tensors;
  for (int i = 0; i < 12; ++i) tensors.push_back(tensor(test::numbered("norm", i), 1, 16));
  const auto layout = dense_layout(ParameterTable(tensors), 4);
  Replay replay(layout, 64, GradientReturn::none);  // a bucket for each
  replay.check();
  for (ExchangeSchedule const& schedule : replay.schedules) {
    index_t owned = 0;
    for (OwnedRange const& range : schedule.owned) owned += range.gradients.size();
    EXPECT_EQ(owned, 3 * 16);
  }
}

TEST(Schedule, HolderSetsOfAnySize) {
  for (unsigned seed = 0; seed < 6; ++seed)
    for (int workers : {2, 5, 8})
      for (bool full_weights : {false, true})
        for (GradientReturn mode : k_returns) {
          const auto layout = test::random_layout(workers, seed, full_weights);
          Replay replay(layout, seed % 2 == 0 ? 4096 : 1 << 30, mode);
          replay.check();
        }
}

TEST(Schedule, TrafficOfMaskedModels) {
  // k of N subnetworks hold each droppable element; N workers.
  const int n = 8;
  for (int k : {2, 4, 8})
    for (bool backward : {false, true})
      for (GradientReturn mode : k_returns) {
        const auto layout = test::masked_layout(n, n, k, backward);
        Replay replay(layout, 4096, mode);
        replay.check();
        const auto tensors = test::awkward_tensors();
        const index_t p = layout.gradients[0].logical_size();
        const index_t b = tensors[2].size() + tensors[3].size();
        const index_t s = p - b;
        index_t gradients = 0;
        index_t weights = 0;
        index_t received = 0;
        for (ExchangeSchedule const& schedule : replay.schedules) {
          EXPECT_EQ(schedule.dense, k == n);
          gradients += schedule.traffic.gradients_sent;
          weights += schedule.traffic.weights_sent;
          received += schedule.traffic.gradients_received + schedule.traffic.weights_received;
        }
        EXPECT_EQ(received, gradients + weights);
        const index_t reduce = (n - 1) * s + (k - 1) * b;
        if (!backward) {
          EXPECT_EQ(gradients + weights, 2 * reduce);
        } else {
          EXPECT_EQ(gradients + weights, reduce + (n - 1) * p);
          EXPECT_EQ(weights, mode == GradientReturn::none ? (n - 1) * p : (n - k) * b);
        }
      }
}

TEST(Schedule, MoreWorkersThanSubnetworks) {
  for (int workers : {6, 7}) {
    const auto layout = test::masked_layout(workers, 3, 2);
    Replay(layout, 4096, GradientReturn::holders).check();
    Replay(layout, 4096, GradientReturn::none).check();
  }
}

TEST(Schedule, TwoLevels) {
  for (auto [workers, ranks_per_node] :
       {std::pair{4, 2}, {6, 2}, {6, 3}, {8, 2}, {8, 3}, {8, 4}, {8, 5}, {13, 4}})
    for (GradientReturn mode : k_returns) {
      Replay(dense_layout(test::awkward_table(), workers), 4096, mode, ranks_per_node).check();
      for (bool full_weights : {false, true}) {
        for (unsigned seed : {1u, 2u})
          Replay(test::random_layout(workers, seed, full_weights), seed == 1 ? 4096 : 1 << 30, mode,
                 ranks_per_node)
              .check();
        Replay(test::masked_layout(workers, 4, 2, full_weights), 9000, mode, ranks_per_node)
            .check();
      }
    }
}

TEST(Schedule, LongPartsTravelByThemselves) {
  for (bool full_weights : {false, true}) {
    const auto layout = test::random_layout(6, 8, full_weights);
    for (GradientReturn mode : k_returns) {
      for (int ranks_per_node : {1, 2, 3})
        for (index_t part_elements : {1, 60}) {
          Replay replay(layout, 9000, mode, ranks_per_node, part_elements);
          replay.check();
          EXPECT_GT(replay.divided, 0);
        }
      Replay whole(layout, 9000, mode, 1, 1 << 30);
      whole.check();
      EXPECT_EQ(whole.divided, 0);
    }
  }
}

TEST(Schedule, OneNodeIsOneLevel) {
  const auto layout = test::random_layout(6, 3, true);
  const auto buckets = make_buckets(layout.gradients[0], 4096, 4);
  for (int ranks_per_node : {1, 6, 8}) {
    const auto schedule =
        make_schedule(layout, buckets, 2, GradientReturn::holders, ranks_per_node);
    EXPECT_EQ(schedule.node_size, 1);
    EXPECT_EQ(schedule.traffic.gradients_sent_to_other_nodes,
              ranks_per_node == 1 ? schedule.traffic.gradients_sent : 0);
    EXPECT_EQ(schedule.traffic.weights_sent_to_other_nodes,
              ranks_per_node == 1 ? schedule.traffic.weights_sent : 0);
  }
  EXPECT_THROW(make_schedule(layout, buckets, 0, GradientReturn::none, 0), std::invalid_argument);
}

TEST(Schedule, DelegatesAreBalanced) {
  std::vector<TensorSpec> tensors;
  for (int i = 0; i < 8; ++i) tensors.push_back(tensor(test::numbered("w", i), 96, 16));
  auto sums = [](ExchangeSchedule const& schedule) {
    index_t elements = 0;
    for (BucketSchedule const& bucket : schedule.buckets)
      for (NodeRun const& run : bucket.node_sums) elements += run.gradients.size();
    return elements;
  };
  const auto dense = dense_layout(ParameterTable(tensors), 8);
  const index_t size = dense.gradients[0].size();
  for (ExchangeSchedule const& schedule :
       Replay(dense, 8000, GradientReturn::holders, 4).schedules) {
    EXPECT_EQ(sums(schedule), size / 4) << "an equal part of the node's sums";
    for (BucketSchedule const& bucket : schedule.buckets)
      for (ExchangeMessage const& message : bucket.reduce_sends)
        EXPECT_EQ(message.peer % 4, schedule.worker % 4) << "to the same place of another node";
  }
  // Two holders on each of two nodes, never at the same places: the holders take turns.
  ExchangeLayout masked;
  for (int worker = 0; worker < 8; ++worker) {
    masked.gradients.push_back(test::table_holding(
        tensors, [&](int, index_t row) { return (row % 2 == 0) == (worker < 2 || worker > 5); }));
    masked.table_of_worker.push_back(worker);
  }
  for (ExchangeSchedule const& schedule :
       Replay(masked, 1 << 30, GradientReturn::holders, 4).schedules)
    EXPECT_NEAR(static_cast<double>(sums(schedule)), size / 4.0, size / 20.0);
}

TEST(Schedule, TrafficOfSomeWorkersIsThatOfTheirSchedules) {
  for (bool full_weights : {false, true})
    for (GradientReturn mode : k_returns)
      for (int ranks_per_node : {1, 2, 3, 8})
        for (auto const& layout :
             {test::random_layout(6, 5, full_weights), test::masked_layout(11, 4, 2, full_weights),
              dense_layout(test::awkward_table(), 8)}) {
          const auto buckets = make_buckets(layout.gradients[0], 9000, 4);
          std::vector<int> workers;
          for (int worker = layout.workers() - 1; worker >= 0; --worker) workers.push_back(worker);
          const auto all = exchange_traffic(layout, buckets, workers, mode, ranks_per_node, 4, 2);
          const auto narrow =
              exchange_traffic(layout, buckets, workers, mode, ranks_per_node, 2, 2, true);
          ASSERT_EQ(all.size(), workers.size());
          for (std::size_t i = 0; i < all.size(); ++i) {
            WorkerTraffic const& found = all[i];
            const auto schedule =
                make_schedule(layout, buckets, found.worker, mode, ranks_per_node);
            EXPECT_EQ(found.traffic, schedule.traffic);
            index_t owned = 0;
            for (OwnedRange const& range : schedule.owned) owned += range.gradients.size();
            EXPECT_EQ(found.owned, owned);
            index_t sums = 0;
            for (BucketSchedule const& bucket : schedule.buckets) sums += sum_list_bytes(bucket);
            const auto bytes = [sums](ExchangeLegs const& legs) {
              return std::min<index_t>(3, legs.slot_users()) * legs.slot_bytes() +
                     static_cast<index_t>(legs.spans().size() * sizeof(kernels::CopySpan)) + sums;
            };
            EXPECT_EQ(found.exchange_bytes, bytes(ExchangeLegs(schedule, 4, 2, false)));
            EXPECT_EQ(narrow[i].traffic, found.traffic);
            EXPECT_EQ(narrow[i].exchange_bytes, bytes(ExchangeLegs(schedule, 2, 2, false, true)));
          }
          const auto one = exchange_traffic(layout, buckets, {3}, mode, ranks_per_node, 4, 2);
          EXPECT_EQ(one[0].traffic, all[workers.size() - 4].traffic);
        }
}

TEST(Schedule, RefusesImpossibleLayouts) {
  const auto tensors = test::awkward_tensors();
  const auto buckets = make_buckets(test::awkward_table(), 4096, 4);
  auto message = [&](ExchangeLayout const& layout) -> std::string {
    try {
      make_schedule(layout, buckets, 0, GradientReturn::holders);
    } catch (std::invalid_argument const& error) {
      return error.what();
    }
    return "";
  };
  auto without_gate_row = [&] {
    return test::table_holding(tensors, [&](int t, index_t row) { return t != 3 || row != 5; });
  };
  ExchangeLayout orphan{{without_gate_row()}, {}, {0, 0}};
  EXPECT_THAT(message(orphan), ::testing::HasSubstr("part of gate is held by no worker"));
  ExchangeLayout unused{{without_gate_row(), test::awkward_table()}, {}, {0, 0}};
  EXPECT_THAT(message(unused), ::testing::HasSubstr("part of gate is held by no worker"));
  ExchangeLayout weightless{{test::awkward_table()}, {without_gate_row()}, {0}};
  EXPECT_THAT(message(weightless), ::testing::HasSubstr("gradient of gate without the weight"));
  ExchangeLayout different{
      {test::awkward_table(), ParameterTable({tensor("a", 2, 2)})}, {}, {0, 1}};
  EXPECT_THAT(message(different), ::testing::HasSubstr("table 1 is not over the same tensors"));
  ExchangeLayout unknown{{test::awkward_table()}, {}, {0, 1}};
  EXPECT_THAT(message(unknown), ::testing::HasSubstr("has table 1 of 1"));
}

}  // namespace
}  // namespace sdp
