// SPDX-License-Identifier: Apache-2.0
#include "comm/schedule.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <numeric>
#include <set>
#include <stdexcept>

#include "comm/exchange_legs.hpp"
#include "comm/traffic.hpp"
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
  Replay(ExchangeLayout const& layout, index_t bucket_bytes, GradientReturn gradient_return,
         int ranks_per_node = 1, index_t part_elements = k_part_elements)
      : m_layout(layout),
        m_gradient_return(gradient_return),
        m_ranks_per_node(ranks_per_node),
        m_part_elements(part_elements) {
    const auto buckets = make_buckets(layout.gradients[0], bucket_bytes, 4);
    for (int worker = 0; worker < layout.workers(); ++worker) {
      schedules.push_back(
          make_schedule(layout, buckets, worker, gradient_return, ranks_per_node, part_elements));
      const auto t =
          static_cast<std::size_t>(layout.table_of_worker[static_cast<std::size_t>(worker)]);
      m_gradients.push_back(test::logical_positions(layout.gradients[t]));
      m_weights.push_back(test::logical_positions(layout.weights.empty() ? layout.gradients[t]
                                                                         : layout.weights[t]));
    }
    for (std::size_t w = 0; w < m_gradients.size(); ++w)
      m_gradient_state.emplace_back(m_gradients[w].size(), 1u << w);
    m_holders.resize(static_cast<std::size_t>(layout.gradients[0].logical_size()));
    for (int worker = 0; worker < layout.workers(); ++worker)
      for (index_t logical : m_gradients[static_cast<std::size_t>(worker)])
        m_holders[static_cast<std::size_t>(logical)].insert(worker);
  }

  void check() {
    check_owners();
    for (std::size_t b = 0; b < schedules[0].buckets.size(); ++b) run_gradients(b);
    check_averages();
    for (std::size_t b = schedules[0].buckets.size(); b-- > 0;) run_weights(b);
    check_weights();
    check_traffic();
  }

  std::vector<ExchangeSchedule> schedules;
  int divided = 0;            ///< messages that travel in parts
  index_t between_nodes = 0;  ///< elements that crossed, gradients and weights

 private:
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

  /// An element on its way: its logical position and whose gradients are in it, a bit each.
  struct Token {
    index_t element;
    unsigned workers;
  };
  static constexpr unsigned k_average = 1u << 31;
  static constexpr unsigned k_updated = 1u << 30;

  /// Both sides have the same messages. Returns the contents of the messages that every worker
  /// receives, by the number of the message.
  std::vector<std::vector<std::vector<Token>>> run_phase(
      std::size_t b, Messages sends, Messages receives,
      std::vector<std::vector<index_t>> const& positions,
      std::vector<std::vector<unsigned>> const& state) {
    struct Sent {
      std::vector<Token> tokens;
      std::vector<index_t> parts;
    };
    std::map<std::pair<int, int>, std::deque<Sent>> sent;
    for (ExchangeSchedule const& schedule : schedules)
      for (ExchangeMessage const& message : schedule.buckets[b].*sends) {
        EXPECT_NE(message.peer, schedule.worker);
        EXPECT_GT(message.elements, 0);
        auto& list = sent[{schedule.worker, message.peer}];
        list.push_back({{}, message.parts});
        EXPECT_LE(list.size(), 2u) << "what is packed, and what is not";
        const auto w = static_cast<std::size_t>(schedule.worker);
        for (IndexRange const& run : message.runs)
          for (auto i = static_cast<std::size_t>(run.begin); i < static_cast<std::size_t>(run.end);
               ++i)
            list.back().tokens.push_back({positions[w][i], state[w][i]});
        EXPECT_EQ(static_cast<index_t>(list.back().tokens.size()), message.elements);
        if (message.peer / m_ranks_per_node != schedule.worker / m_ranks_per_node)
          between_nodes += message.elements;
      }
    std::vector<std::vector<std::vector<Token>>> contents(schedules.size());
    for (ExchangeSchedule const& schedule : schedules)
      for (ExchangeMessage const& message : schedule.buckets[b].*receives) {
        const auto found = sent.find({message.peer, schedule.worker});
        if (found == sent.end()) {
          ADD_FAILURE() << "a message that nobody sends";
          continue;
        }
        Sent first = std::move(found->second.front());
        found->second.pop_front();
        if (found->second.empty()) sent.erase(found);
        EXPECT_EQ(static_cast<index_t>(first.tokens.size()), message.elements);
        EXPECT_EQ(first.parts, message.parts);
        check_parts(schedule.worker, message, positions, first.tokens);
        contents[static_cast<std::size_t>(schedule.worker)].push_back(std::move(first.tokens));
      }
    EXPECT_TRUE(sent.empty()) << "a message that nobody receives";
    return contents;
  }

  /// Parts make up the message and are contiguous in the receiver's buffer.
  void check_parts(int worker, ExchangeMessage const& message,
                   std::vector<std::vector<index_t>> const& positions,
                   std::vector<Token> const& contents) {
    if (message.parts.empty()) return;
    ++divided;
    EXPECT_GT(message.parts.size(), 1u);
    EXPECT_EQ(std::accumulate(message.parts.begin(), message.parts.end(), index_t{0}),
              message.elements);
    for (index_t part : message.parts) EXPECT_GE(part, m_part_elements);
    auto const& buffer = positions[static_cast<std::size_t>(worker)];
    std::size_t next = 0;
    for (index_t part : message.parts) {
      const auto first =
          std::lower_bound(buffer.begin(), buffer.end(), contents[next].element) - buffer.begin();
      for (index_t i = 0; i < part; ++i, ++next)
        ASSERT_EQ(buffer[static_cast<std::size_t>(first + i)], contents[next].element);
    }
  }

  /// What a phase puts into the buffers of its receivers.
  void run_return(std::size_t b, Messages sends, Messages receives,
                  std::vector<std::vector<index_t>> const& positions,
                  std::vector<std::vector<unsigned>>& state, unsigned expected) {
    const auto contents = run_phase(b, sends, receives, positions, state);
    for (ExchangeSchedule const& schedule : schedules) {
      const auto w = static_cast<std::size_t>(schedule.worker);
      for (std::size_t m = 0; m < contents[w].size(); ++m) {
        std::size_t next = 0;
        for (IndexRange const& run : (schedule.buckets[b].*receives)[m].runs)
          for (auto i = static_cast<std::size_t>(run.begin); i < static_cast<std::size_t>(run.end);
               ++i, ++next) {
            ASSERT_EQ(contents[w][m][next].element, positions[w][i]);
            ASSERT_EQ(contents[w][m][next].workers, expected) << "sent before it was there";
            ASSERT_NE(state[w][i], expected) << "received twice";
            state[w][i] = expected;
          }
      }
    }
  }

  /// The sum over the contributions of a run, element by element.
  void run_sum(std::size_t w, IndexRange const& run, std::vector<Contribution> const& contributions,
               std::vector<ExchangeMessage> const& messages,
               std::vector<std::vector<Token>> const& contents, bool by_node) {
    int last = -1;
    for (Contribution const& term : contributions) {
      EXPECT_GT(term.leaf, last) << "ascending";
      last = term.leaf;
      const int peer = term.message < 0 ? static_cast<int>(w)
                                        : messages[static_cast<std::size_t>(term.message)].peer;
      EXPECT_EQ(term.leaf, by_node ? peer / m_ranks_per_node : peer);
    }
    for (index_t i = 0; i < run.size(); ++i) {
      const auto at = static_cast<std::size_t>(run.begin + i);
      unsigned sum = 0;
      for (Contribution const& term : contributions) {
        Token token{m_gradients[w][at], m_gradient_state[w][at]};
        if (term.message >= 0)
          token = contents[static_cast<std::size_t>(term.message)]
                          [static_cast<std::size_t>(term.offset + i)];
        ASSERT_EQ(token.element, m_gradients[w][at]);
        ASSERT_EQ(sum & token.workers, 0u) << "summed twice";
        sum |= token.workers;
      }
      m_gradient_state[w][at] = sum;
    }
  }

  unsigned holder_bits(index_t element) const {
    unsigned bits = 0;
    for (int worker : m_holders[static_cast<std::size_t>(element)]) bits |= 1u << worker;
    return bits;
  }

  void run_gradients(std::size_t b) {
    const bool two_levels = schedules[0].node_size > 1;
    const auto in_node = run_phase(b, &BucketSchedule::node_sends, &BucketSchedule::node_receives,
                                   m_gradients, m_gradient_state);
    for (ExchangeSchedule const& schedule : schedules) {
      BucketSchedule const& bucket = schedule.buckets[b];
      const auto w = static_cast<std::size_t>(schedule.worker);
      for (ExchangeMessage const& message : bucket.node_sends)
        EXPECT_EQ(message.peer / m_ranks_per_node, schedule.worker / m_ranks_per_node);
      for (NodeRun const& run : bucket.node_sums)
        run_sum(w, run.gradients, run.contributions, bucket.node_receives, in_node[w], false);
      if (!two_levels) {
        EXPECT_TRUE(bucket.node_sends.empty() && bucket.node_sums.empty());
      }
    }
    const auto to_owner =
        run_phase(b, &BucketSchedule::reduce_sends, &BucketSchedule::reduce_receives, m_gradients,
                  m_gradient_state);
    for (ExchangeSchedule const& schedule : schedules) {
      BucketSchedule const& bucket = schedule.buckets[b];
      const auto w = static_cast<std::size_t>(schedule.worker);
      for (OwnedRun const& run : bucket.owned) {
        run_sum(w, run.gradients, run.contributions, bucket.reduce_receives, to_owner[w],
                two_levels);
        for (auto i = static_cast<std::size_t>(run.gradients.begin);
             i < static_cast<std::size_t>(run.gradients.end); ++i) {
          const index_t element = m_gradients[w][i];
          ASSERT_EQ(m_gradient_state[w][i], holder_bits(element)) << "all holders, once each";
          ASSERT_EQ(run.holders,
                    static_cast<int>(m_holders[static_cast<std::size_t>(element)].size()));
          m_gradient_state[w][i] = k_average;
        }
      }
    }
    run_return(b, &BucketSchedule::return_sends, &BucketSchedule::return_receives, m_gradients,
               m_gradient_state, k_average);
    run_return(b, &BucketSchedule::node_return_sends, &BucketSchedule::node_return_receives,
               m_gradients, m_gradient_state, k_average);
  }

  void check_averages() {
    for (ExchangeSchedule const& schedule : schedules) {
      const auto w = static_cast<std::size_t>(schedule.worker);
      std::map<index_t, bool> averaged;
      for (std::size_t i = 0; i < m_gradients[w].size(); ++i) {
        averaged[m_gradients[w][i]] = m_gradient_state[w][i] == k_average;
        EXPECT_EQ(m_gradient_state[w][i] == k_average,
                  m_gradient_return == GradientReturn::holders ||
                      owner[static_cast<std::size_t>(m_gradients[w][i])] == schedule.worker);
      }
      // Who has the average updates its weight.
      m_weight_state.emplace_back(m_weights[w].size(), 0u);
      for (std::size_t i = 0; i < m_weights[w].size(); ++i) {
        const auto found = averaged.find(m_weights[w][i]);
        if (found != averaged.end() && found->second) m_weight_state[w][i] = k_updated;
      }
    }
  }

  void run_weights(std::size_t b) {
    run_return(b, &BucketSchedule::weight_sends, &BucketSchedule::weight_receives, m_weights,
               m_weight_state, k_updated);
    run_return(b, &BucketSchedule::node_weight_sends, &BucketSchedule::node_weight_receives,
               m_weights, m_weight_state, k_updated);
  }

  void check_weights() {
    for (ExchangeSchedule const& schedule : schedules) {
      const auto w = static_cast<std::size_t>(schedule.worker);
      for (std::size_t i = 0; i < m_weights[w].size(); ++i)
        ASSERT_EQ(m_weight_state[w][i], k_updated) << "weight " << i << " of worker " << w;
      index_t end = 0;
      for (BucketSchedule const& bucket : schedule.buckets) {
        EXPECT_EQ(bucket.weights.begin, end);
        end = bucket.weights.end;
        for (auto const* messages : {&bucket.weight_receives, &bucket.node_weight_receives})
          for (ExchangeMessage const& message : *messages) {
            EXPECT_GE(message.runs.front().begin, bucket.weights.begin);
            EXPECT_LE(message.runs.back().end, bucket.weights.end);
          }
      }
      EXPECT_EQ(end, schedule.weight_size);
    }
  }

  /// What is sent, element by element: a gradient once by every holder but the owner, and back; a
  /// weight once to everyone who stores it and has not updated it. Between nodes: once for each
  /// node but the owner's where there are two levels.
  void check_traffic() {
    const bool returns = m_gradient_return == GradientReturn::holders;
    std::vector<std::set<int>> storers(m_holders.size());
    for (std::size_t w = 0; w < m_weights.size(); ++w)
      for (index_t element : m_weights[w])
        storers[static_cast<std::size_t>(element)].insert(static_cast<int>(w));
    ExchangeTraffic expected;
    for (std::size_t e = 0; e < m_holders.size(); ++e) {
      const int home = owner[e] / m_ranks_per_node;
      std::set<int> holder_nodes;
      for (int worker : m_holders[e]) holder_nodes.insert(worker / m_ranks_per_node);
      std::set<int> updated = returns ? m_holders[e] : std::set<int>{owner[e]};
      std::set<int> updated_nodes = returns ? holder_nodes : std::set<int>{home};
      std::set<int> needing_nodes;
      for (int worker : storers[e]) {
        if (updated.count(worker) == 1) continue;
        ++expected.weights_sent;
        if (updated_nodes.count(worker / m_ranks_per_node) == 0)
          needing_nodes.insert(worker / m_ranks_per_node);
      }
      const auto ways = returns ? 2 : 1;
      expected.gradients_sent += ways * static_cast<index_t>(m_holders[e].size() - 1);
      expected.gradients_sent_to_other_nodes +=
          ways * static_cast<index_t>(holder_nodes.size() - 1);
      expected.weights_sent_to_other_nodes += static_cast<index_t>(needing_nodes.size());
    }
    ExchangeTraffic sum;
    for (ExchangeSchedule const& schedule : schedules) {
      sum.gradients_sent += schedule.traffic.gradients_sent;
      sum.gradients_received += schedule.traffic.gradients_received;
      sum.weights_sent += schedule.traffic.weights_sent;
      sum.weights_received += schedule.traffic.weights_received;
      sum.gradients_sent_to_other_nodes += schedule.traffic.gradients_sent_to_other_nodes;
      sum.weights_sent_to_other_nodes += schedule.traffic.weights_sent_to_other_nodes;
    }
    EXPECT_EQ(sum.gradients_sent, expected.gradients_sent);
    EXPECT_EQ(sum.gradients_received, expected.gradients_sent);
    EXPECT_EQ(sum.weights_sent, expected.weights_sent);
    EXPECT_EQ(sum.weights_received, expected.weights_sent);
    EXPECT_EQ(sum.gradients_sent_to_other_nodes, expected.gradients_sent_to_other_nodes);
    EXPECT_EQ(sum.weights_sent_to_other_nodes, expected.weights_sent_to_other_nodes);
    EXPECT_EQ(between_nodes,
              expected.gradients_sent_to_other_nodes + expected.weights_sent_to_other_nodes);
  }

  ExchangeLayout const& m_layout;
  GradientReturn m_gradient_return;
  int m_ranks_per_node;
  index_t m_part_elements;
  std::vector<std::vector<unsigned>> m_gradient_state;  // Token::workers, by flat element
  std::vector<std::vector<unsigned>> m_weight_state;
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
          ASSERT_EQ(all.size(), workers.size());
          for (WorkerTraffic const& found : all) {
            const auto schedule =
                make_schedule(layout, buckets, found.worker, mode, ranks_per_node);
            EXPECT_EQ(found.traffic, schedule.traffic);
            index_t owned = 0;
            for (OwnedRange const& range : schedule.owned) owned += range.gradients.size();
            EXPECT_EQ(found.owned, owned);
            const ExchangeLegs legs(schedule, 4, 2, false);
            EXPECT_EQ(found.exchange_bytes,
                      std::min<index_t>(3, legs.slot_users()) * legs.slot_bytes() +
                          static_cast<index_t>(legs.spans().size() * sizeof(kernels::CopySpan)));
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
