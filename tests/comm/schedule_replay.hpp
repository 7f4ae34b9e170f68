// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "comm/schedule.hpp"
#include "layouts.hpp"

namespace sdp::test {

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
      m_gradients.push_back(logical_positions(layout.gradients[t]));
      m_weights.push_back(
          logical_positions(layout.weights.empty() ? layout.gradients[t] : layout.weights[t]));
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

}  // namespace sdp::test
