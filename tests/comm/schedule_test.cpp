// SPDX-License-Identifier: Apache-2.0
#include "comm/schedule.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>
#include <stdexcept>

#include "layouts.hpp"

namespace sdp {
namespace {

using test::tensor;

constexpr GradientReturn k_returns[] = {GradientReturn::holders, GradientReturn::none};

TEST(Buckets, CoverTheModelInOrder) {
  const ParameterTable table = test::awkward_table();
  for (index_t bytes : {1, 4, 100, 1000, 4096, 8000, 20000, 1 << 30}) {
    const auto buckets = make_buckets(table, bytes, 4);
    index_t next = 0;
    for (IndexRange const& bucket : buckets) {
      EXPECT_EQ(bucket.begin, next);
      EXPECT_GT(bucket.end, bucket.begin);
      next = bucket.end;
    }
    EXPECT_EQ(next, table.logical_size()) << bytes;
  }
  EXPECT_EQ(make_buckets(table, 1 << 30, 4).size(), 1u);
}

TEST(Buckets, CutAtTensorsAndRows) {
  const ParameterTable table({tensor("a", 4, 10), tensor("b", 2, 10), tensor("c", 10, 10),
                              tensor("d", 1, 50), tensor("e", 1, 5), tensor("f", 0, 3)});
  // 40 elements: a fills one; b alone, since c does not fit beside it; c in three parts by rows,
  // the last of which (40) has no room for d; the single row d is larger than a bucket.
  const std::vector<IndexRange> expected{{0, 40},    {40, 60},   {60, 90},  {90, 120},
                                         {120, 160}, {160, 210}, {210, 215}};
  EXPECT_EQ(make_buckets(table, 160, 4), expected);
  EXPECT_EQ(make_buckets(table, 320, 8), expected);
}

/// All workers' schedules of one layout, replayed on the logical positions of the elements.
class Replay {
 public:
  Replay(ExchangeLayout const& layout, index_t bucket_bytes, GradientReturn gradient_return)
      : m_layout(layout), m_gradient_return(gradient_return) {
    const auto buckets = make_buckets(layout.gradients[0], bucket_bytes, 4);
    for (int worker = 0; worker < layout.workers(); ++worker) {
      schedules.push_back(make_schedule(layout, buckets, worker, gradient_return));
      const auto t =
          static_cast<std::size_t>(layout.table_of_worker[static_cast<std::size_t>(worker)]);
      m_gradients.push_back(test::logical_positions(layout.gradients[t]));
      m_weights.push_back(test::logical_positions(layout.weights.empty() ? layout.gradients[t]
                                                                         : layout.weights[t]));
    }
    m_holders.resize(static_cast<std::size_t>(layout.gradients[0].logical_size()));
    for (int worker = 0; worker < layout.workers(); ++worker)
      for (index_t logical : m_gradients[static_cast<std::size_t>(worker)])
        m_holders[static_cast<std::size_t>(logical)].insert(worker);
  }

  void check() {
    check_owners();
    check_messages();
    check_results();
  }

  std::vector<ExchangeSchedule> schedules;

 private:
  std::vector<index_t> logical(std::vector<std::vector<index_t>> const& positions, int worker,
                               std::vector<IndexRange> const& runs) const {
    std::vector<index_t> list;
    for (IndexRange const& run : runs)
      for (index_t i = run.begin; i < run.end; ++i)
        list.push_back(positions[static_cast<std::size_t>(worker)][static_cast<std::size_t>(i)]);
    return list;
  }

  void check_owners() {
    owner.assign(m_holders.size(), -1);
    for (ExchangeSchedule const& schedule : schedules) {
      index_t in_runs = 0;
      for (BucketSchedule const& bucket : schedule.buckets)
        for (OwnedRun const& run : bucket.owned) {
          in_runs += run.gradients.size();
          EXPECT_GE(run.gradients.begin, bucket.gradients.begin);
          EXPECT_LE(run.gradients.end, bucket.gradients.end);
        }
      index_t in_ranges = 0;
      index_t last = -1;
      for (OwnedRange const& range : schedule.owned) {
        EXPECT_GE(range.gradients.begin, last);
        last = range.gradients.end;
        in_ranges += range.gradients.size();
        for (index_t i = 0; i < range.gradients.size(); ++i) {
          const auto w = static_cast<std::size_t>(schedule.worker);
          const index_t element =
              m_gradients[w][static_cast<std::size_t>(range.gradients.begin + i)];
          EXPECT_EQ(m_weights[w][static_cast<std::size_t>(range.weight_begin + i)], element);
          ASSERT_EQ(owner[static_cast<std::size_t>(element)], -1) << "two owners of " << element;
          owner[static_cast<std::size_t>(element)] = schedule.worker;
        }
      }
      EXPECT_EQ(in_runs, in_ranges);
    }
    for (std::size_t element = 0; element < owner.size(); ++element)
      ASSERT_TRUE(m_holders[element].count(owner[element]) == 1)
          << "element " << element << " has owner " << owner[element];
    // Rows have one owner.
    index_t begin = 0;
    for (TensorSpec const& spec : m_layout.gradients[0].tensors())
      for (index_t row = 0; row < spec.rows; ++row, begin += spec.cols)
        for (index_t i = 0; i < spec.cols; ++i)
          ASSERT_EQ(owner[static_cast<std::size_t>(begin + i)],
                    owner[static_cast<std::size_t>(begin)])
              << spec.name << " row " << row;
  }

  using Messages = std::vector<ExchangeMessage> BucketSchedule::*;

  /// Both sides have the same messages, and what is sent is what is expected there.
  void check_phase(Messages sends, Messages receives,
                   std::vector<std::vector<index_t>> const* positions) {
    const std::size_t count = schedules[0].buckets.size();
    for (std::size_t b = 0; b < count; ++b) {
      std::map<std::pair<int, int>, ExchangeMessage const*> sent;
      for (ExchangeSchedule const& schedule : schedules) {
        ASSERT_EQ(schedule.buckets.size(), count);
        for (ExchangeMessage const& message : schedule.buckets[b].*sends) {
          EXPECT_NE(message.peer, schedule.worker);
          EXPECT_GT(message.elements, 0);
          EXPECT_TRUE(sent.try_emplace({schedule.worker, message.peer}, &message).second)
              << "two messages to one peer";
        }
      }
      for (ExchangeSchedule const& schedule : schedules)
        for (ExchangeMessage const& message : schedule.buckets[b].*receives) {
          const auto found = sent.find({message.peer, schedule.worker});
          ASSERT_NE(found, sent.end());
          EXPECT_EQ(found->second->elements, message.elements);
          index_t carried = 0;
          for (IndexRange const& run : found->second->runs) carried += run.size();
          EXPECT_EQ(carried, message.elements);
          if (positions != nullptr) {
            EXPECT_EQ(logical(*positions, message.peer, found->second->runs),
                      logical(*positions, schedule.worker, message.runs));
          }
          sent.erase(found);
        }
      EXPECT_TRUE(sent.empty()) << "a message that nobody receives";
    }
  }

  void check_messages() {
    check_phase(&BucketSchedule::reduce_sends, &BucketSchedule::reduce_receives, nullptr);
    check_phase(&BucketSchedule::return_sends, &BucketSchedule::return_receives, &m_gradients);
    check_phase(&BucketSchedule::weight_sends, &BucketSchedule::weight_receives, &m_weights);
  }

  /// Every owned element finds the contributions of exactly its holders, each the right element.
  void check_results() {
    const bool returns = m_gradient_return == GradientReturn::holders;
    for (ExchangeSchedule const& schedule : schedules) {
      const auto w = static_cast<std::size_t>(schedule.worker);
      std::set<index_t> averaged;
      std::set<index_t> updated;
      for (std::size_t b = 0; b < schedule.buckets.size(); ++b) {
        BucketSchedule const& bucket = schedule.buckets[b];
        std::vector<std::vector<index_t>> contents;
        for (ExchangeMessage const& message : bucket.reduce_receives)
          for (ExchangeMessage const& sent :
               schedules[static_cast<std::size_t>(message.peer)].buckets[b].reduce_sends)
            if (sent.peer == schedule.worker)
              contents.push_back(logical(m_gradients, message.peer, sent.runs));
        for (OwnedRun const& run : bucket.owned)
          for (index_t i = 0; i < run.gradients.size(); ++i) {
            const index_t element =
                m_gradients[w][static_cast<std::size_t>(run.gradients.begin + i)];
            averaged.insert(element);
            updated.insert(element);
            std::vector<int> workers;
            for (Contribution const& term : run.contributions) {
              workers.push_back(term.worker);
              if (term.worker == schedule.worker) {
                EXPECT_EQ(term.message, -1);
                continue;
              }
              const auto m = static_cast<std::size_t>(term.message);
              EXPECT_EQ(bucket.reduce_receives[m].peer, term.worker);
              ASSERT_EQ(contents[m][static_cast<std::size_t>(term.offset + i)], element);
            }
            auto const& holders = m_holders[static_cast<std::size_t>(element)];
            ASSERT_EQ(workers, std::vector<int>(holders.begin(), holders.end()));
          }
        for (ExchangeMessage const& message : bucket.return_receives)
          for (index_t element : logical(m_gradients, schedule.worker, message.runs))
            EXPECT_TRUE(averaged.insert(element).second);
        for (ExchangeMessage const& message : bucket.weight_receives) {
          for (index_t element : logical(m_weights, schedule.worker, message.runs))
            EXPECT_TRUE(updated.insert(element).second);
          EXPECT_GE(message.runs.front().begin, bucket.weights.begin);
          EXPECT_LE(message.runs.back().end, bucket.weights.end);
        }
        EXPECT_EQ(bucket.weights.begin, b == 0 ? 0 : schedule.buckets[b - 1].weights.end);
      }
      EXPECT_EQ(schedule.buckets.back().weights.end, schedule.weight_size);
      const std::set<index_t> held(m_gradients[w].begin(), m_gradients[w].end());
      const std::set<index_t> stored(m_weights[w].begin(), m_weights[w].end());
      if (returns) {
        EXPECT_EQ(averaged, held);
        updated.insert(averaged.begin(), averaged.end());
      }
      EXPECT_EQ(updated, stored) << "weights that worker " << w << " gets or makes";
    }
  }

  ExchangeLayout const& m_layout;
  GradientReturn m_gradient_return;
  std::vector<std::vector<index_t>> m_gradients;  // logical position of each flat element
  std::vector<std::vector<index_t>> m_weights;
  std::vector<std::set<int>> m_holders;
  std::vector<int> owner;
};

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
