// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <optional>
#include <thread>

#include "comm/exchange.hpp"
#include "comm/node_memory.hpp"
#include "layouts.hpp"

namespace sdp::test {

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
          GradientReturn gradient_return, ExchangeOptions options = {}, int ranks_per_node = 1,
          index_t part_elements = k_part_elements, bool node_memory = false)
      : m_world(world),
        m_layout(layout),
        m_returns(gradient_return == GradientReturn::holders),
        m_rounded(options.bf16_wire),
        gradients(allocate_gradients(node_memory)),
        exchange(world,
                 make_schedule(layout, make_buckets(layout.gradients[0], bucket_bytes, sizeof(G)),
                               world.worker(), gradient_return, ranks_per_node, part_elements),
                 in_node(options)),
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

  /// As a message carries it, where it is one of several contributions.
  G on_wire(G value) const {
    return m_rounded ? static_cast<G>(kernels::bf16(static_cast<float>(value))) : value;
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

  index_t logical_size() const { return m_layout.gradients[0].logical_size(); }
  /// Logical position of every element of the buffers.
  std::vector<index_t> const& positions() const { return m_positions; }
  std::vector<index_t> const& weight_positions() const { return m_weight_positions; }

  int leaves() const {
    return static_cast<int>(std::bit_ceil(static_cast<unsigned>(m_layout.workers())));
  }
  unsigned holders(index_t logical) const { return m_holders[static_cast<std::size_t>(logical)]; }

  /// Sum over the holders among workers [begin, end).
  std::optional<G> sum_of(index_t logical, int step, int begin, int end) const {
    auto leaf = [&](int id) -> std::optional<G> {
      if (id < begin || id >= end || (holders(logical) >> id & 1u) == 0) return std::nullopt;
      return on_wire(gradient<G>(id, logical, step));
    };
    const std::optional<G> sum = tree<G>(leaf, 0, leaves());
    return sum && end - begin < m_layout.workers() ? on_wire(*sum) : sum;
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
    const int count = std::popcount(holders(logical));
    if (count == 1) return gradient<G>(std::countr_zero(holders(logical)), logical, step);
    return on_wire(*sum * static_cast<G>(1.0 / count));
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
  View1<G> allocate_gradients(bool node_memory) {
    const auto table = m_layout.table_of_worker[static_cast<std::size_t>(m_world.worker())];
    const index_t size = m_layout.gradients[static_cast<std::size_t>(table)].size();
    if (node_memory)
      m_memory = NodeMemory::allocate(m_world, MemoryCategory::gradients,
                                      size * static_cast<index_t>(sizeof(G)));
    return m_memory ? m_memory->template view<G>(size)
                    : View1<G>("gradients", static_cast<std::size_t>(size));
  }
  ExchangeOptions in_node(ExchangeOptions options) const {
    if (m_memory) options.node_gradients = m_memory->of_ranks();
    return options;
  }

  World const& m_world;
  ExchangeLayout const& m_layout;
  bool m_returns;
  bool m_rounded;
  std::unique_ptr<NodeMemory> m_memory;
  std::vector<index_t> m_positions;
  std::vector<index_t> m_weight_positions;
  std::vector<unsigned> m_holders;  ///< bits of workers, by logical position

 public:
  View1<G> gradients;
  Exchange<G, W> exchange;
  View1<W> weights;
};

}  // namespace sdp::test
