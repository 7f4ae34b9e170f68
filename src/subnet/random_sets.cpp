// SPDX-License-Identifier: Apache-2.0
#include "subnet/random_sets.hpp"

#include <algorithm>
#include <tuple>
#include <unordered_set>

#include "kernels/random/philox.hpp"
#include "subnet/cyclic_search.hpp"

namespace sdp {

namespace {

constexpr long long k_longest_list = 5'000;  // of all sets, to choose from
constexpr int k_draws = 16;                  // from that list
constexpr long long k_many = 1LL << 40;
constexpr int k_even_attempts = 32;  // to draw a new set that keeps the counts even
constexpr int k_new_attempts = 64;   // to draw a set that no class has yet
constexpr int k_attempts = 1'000;    // to draw a new set of the class

}  // namespace

RandomSets::RandomSets(int subnetworks, int holders, std::uint64_t seed)
    : m_subnetworks(subnetworks), m_holders(holders), m_seed(seed) {}

std::uint64_t RandomSets::key(std::uint64_t stream, std::uint64_t index) const {
  const auto bits = kernels::stream_bits(m_seed, stream, index);
  return std::uint64_t{bits[1]} << 32 | bits[0];
}

void RandomSets::draw(std::string const& class_name, std::size_t count,
                      std::vector<HolderSet>& sets, std::vector<index_t>& uses) {
  const long long exist = binomial(m_subnetworks, m_holders, k_many);
  const auto each = static_cast<index_t>(static_cast<long long>(count) / exist);
  const auto rest = static_cast<std::size_t>(static_cast<long long>(count) % exist);
  const std::uint64_t stream = kernels::stream_key("sdp.mask.random." + class_name);
  std::vector<HolderSet> drawn;
  if (exist <= k_longest_list)
    draw_from_list(stream, rest, drawn);
  else
    draw_members(stream, rest, drawn);
  if (each > 0) {
    sets = all_subsets(m_subnetworks, m_holders);
    uses.assign(sets.size(), each);
    const std::unordered_set<HolderSet> again(drawn.begin(), drawn.end());
    for (std::size_t s = 0; s < sets.size(); ++s)
      if (again.count(sets[s]) != 0) ++uses[s];
  } else {
    sets = drawn;
    uses.assign(sets.size(), 1);
  }
  for (std::size_t s = 0; s < sets.size(); ++s) m_used[sets[s]] += uses[s];
}

/// Each time the set whose members are in fewest sets so far, then the least used, then by key; of
/// several such draws the first of the evenest ones.
void RandomSets::draw_from_list(std::uint64_t stream, std::size_t count,
                                std::vector<HolderSet>& drawn) {
  struct Choice {
    HolderSet set;
    index_t used;
    std::uint64_t key;
  };
  const auto all = all_subsets(m_subnetworks, m_holders);
  index_t least_spread = 0;
  for (int draw = 0; draw < k_draws; ++draw) {
    std::vector<Choice> open;
    for (HolderSet set : all)
      open.push_back({set, m_used[set],
                      key(stream, open.size() + all.size() * static_cast<std::size_t>(draw))});
    std::vector<HolderSet> sets;
    std::vector<index_t> held(static_cast<std::size_t>(m_subnetworks), 0);
    const auto rank = [&](Choice const& choice) {
      index_t members = 0;
      for (std::size_t i = 0; i < held.size(); ++i)
        if ((choice.set >> i & 1) != 0) members += held[i];
      return std::tuple{members, choice.used, choice.key, choice.set};
    };
    while (sets.size() < count) {
      auto best = open.begin();
      auto best_rank = rank(*best);
      for (auto choice = open.begin() + 1; choice != open.end(); ++choice)
        if (const auto other = rank(*choice); other < best_rank) {
          best = choice;
          best_rank = other;
        }
      sets.push_back(best->set);
      for (std::size_t i = 0; i < held.size(); ++i) held[i] += best->set >> i & 1;
      *best = open.back();
      open.pop_back();
    }
    const auto [least, most] = std::minmax_element(held.begin(), held.end());
    const index_t spread = *most - *least;
    if (draw == 0 || spread < least_spread) {
      drawn = std::move(sets);
      least_spread = spread;
    }
    if (least_spread <= 1) break;
  }
}

/// Each time the k subnetworks that are in fewest sets so far, equal ones by key. Keys are drawn
/// anew for a set that exists already; after some such attempts the counts no longer matter, and
/// then not the other classes.
void RandomSets::draw_members(std::uint64_t stream, std::size_t count,
                              std::vector<HolderSet>& drawn) {
  std::vector<index_t> held(static_cast<std::size_t>(m_subnetworks), 0);
  std::unordered_set<HolderSet> taken;
  std::uint64_t next_key = 0;
  for (; count > 0; --count) {
    HolderSet set = 0;
    for (int attempt = 0; attempt < k_attempts; ++attempt) {
      std::vector<std::tuple<index_t, std::uint64_t, int>> order;
      for (int i = 0; i < m_subnetworks; ++i)
        order.emplace_back(attempt < k_even_attempts ? held[static_cast<std::size_t>(i)] : 0,
                           key(stream, next_key++), i);
      std::sort(order.begin(), order.end());
      set = 0;
      for (int i = 0; i < m_holders; ++i)
        set |= HolderSet{1} << std::get<2>(order[static_cast<std::size_t>(i)]);
      if (taken.count(set) == 0 && (attempt >= k_new_attempts || m_used.count(set) == 0)) break;
    }
    taken.insert(set);
    drawn.push_back(set);
    for (std::size_t i = 0; i < held.size(); ++i) held[i] += set >> i & 1;
  }
}

}  // namespace sdp
