// SPDX-License-Identifier: Apache-2.0
#include "subnet/dealing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>
#include <tuple>

#include "kernels/random/philox.hpp"
#include "subnet/random_sets.hpp"

namespace sdp {

namespace {

constexpr int k_cost_bits = 26;  // of the sum of all costs
constexpr int k_draws = 16;      // of an order to choose sets in; the evenest choice is taken
constexpr int k_rounds = 8;      // of improvement
constexpr int k_most_visits = 100'000;           // in the search for a covering choice of sets
constexpr std::size_t k_most_exchanged = 1'000;  // units of a class whose exchanges are tried

template <class F>
void for_each_member(HolderSet set, F&& f) {
  for (; set != 0; set &= set - 1) f(static_cast<std::size_t>(std::countr_zero(set)));
}

/// 0 ... count-1 in the order of a Philox stream.
std::vector<std::size_t> drawn_order(std::size_t count, std::uint64_t seed,
                                     std::string const& name) {
  const std::uint64_t stream = kernels::stream_key(name);
  std::vector<std::pair<std::uint64_t, std::size_t>> keys;
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = kernels::stream_bits(seed, stream, i);
    keys.emplace_back(std::uint64_t{bits[1]} << 32 | bits[0], i);
  }
  std::sort(keys.begin(), keys.end());
  std::vector<std::size_t> order;
  for (auto const& key : keys) order.push_back(key.second);
  return order;
}

/// One class while it is dealt: its sets, how often each is used, and by which units.
struct ClassDeal {
  std::string name;
  std::vector<std::size_t> units;  ///< into UnitSet::units
  std::vector<HolderSet> sets;
  std::vector<index_t> uses;             ///< of each set
  std::vector<std::size_t> set_of_unit;  ///< of each of `units`, into `sets`
  std::vector<index_t> held;             ///< units on each subnetwork
};

class Dealer {
 public:
  Dealer(UnitSet const& units, int subnetworks, int holders, std::uint64_t seed)
      : m_units(units),
        m_subnetworks(subnetworks),
        m_holders(holders),
        m_seed(seed),
        m_load(static_cast<std::size_t>(subnetworks), 0) {
    std::int64_t sum = 0;
    for (Unit const& unit : units.units) sum += unit.cost;
    const int width = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(sum)));
    for (Unit const& unit : units.units)
      m_cost.push_back(unit.cost >> std::max(0, width - k_cost_bits));
  }

  Dealing run(std::vector<HolderSet> const& family) {
    RandomSets random(m_subnetworks, m_holders, m_seed);
    for (std::size_t c = 0; c < m_units.classes.size(); ++c) {
      ClassDeal& deal = m_classes.emplace_back();
      deal.name = m_units.classes[c];
      for (std::size_t u = 0; u < m_units.units.size(); ++u)
        if (m_units.units[u].unit_class == static_cast<int>(c)) deal.units.push_back(u);
      deal.held.assign(static_cast<std::size_t>(m_subnetworks), 0);
      if (deal.units.empty()) continue;
      if (family.empty()) {
        random.draw(deal.name, deal.units.size(), deal.sets, deal.uses);
      } else {
        choose_uses(deal, family);
      }
      assign(deal);
    }
    for (int round = 0; round < k_rounds; ++round) {
      bool improved = false;
      for (ClassDeal& deal : m_classes) {
        if (!family.empty()) improved |= improve_by_moves(deal);
        improved |= improve_by_exchanges(deal);
      }
      if (!improved) break;
    }
    m_dealing.holders.resize(m_units.units.size());
    for (ClassDeal const& deal : m_classes)
      for (std::size_t i = 0; i < deal.units.size(); ++i)
        m_dealing.holders[deal.units[i]] = deal.sets[deal.set_of_unit[i]];
    return std::move(m_dealing);
  }

 private:
  std::int64_t cost(ClassDeal const& deal, std::size_t i) const { return m_cost[deal.units[i]]; }

  bool equal_costs(ClassDeal const& deal) const {
    return std::all_of(deal.units.begin(), deal.units.end(),
                       [&](std::size_t u) { return m_cost[u] == m_cost[deal.units[0]]; });
  }

  /// Change of the sum of squared loads when `set` takes `cost` more.
  std::int64_t growth(HolderSet set, std::int64_t cost) const {
    std::int64_t change = 0;
    for_each_member(set, [&](std::size_t i) { change += cost * (2 * m_load[i] + cost); });
    return change;
  }

  /// Change when `cost` moves from one set to the other.
  std::int64_t moved(HolderSet from, HolderSet to, std::int64_t cost) const {
    std::int64_t change = 0;
    for_each_member(from & ~to, [&](std::size_t i) { change += cost * (cost - 2 * m_load[i]); });
    for_each_member(to & ~from, [&](std::size_t i) { change += cost * (cost + 2 * m_load[i]); });
    return change;
  }

  void load(HolderSet set, std::int64_t cost) {
    for_each_member(set, [&](std::size_t i) { m_load[i] += cost; });
  }

  /// How often a class uses each set: floor(units / sets) times, and once more for sets that reach
  /// subnetworks that have nothing yet, balance the loads, and are used least by other classes.
  void choose_uses(ClassDeal& deal, std::vector<HolderSet> const& family) {
    const auto u = deal.units.size();
    deal.sets = family;
    deal.uses.assign(family.size(), static_cast<index_t>(u / family.size()));
    const HolderSet all = all_subnetworks(m_subnetworks);
    const HolderSet reached = u >= family.size() ? all : 0;
    Choice best;
    for (int draw = 0; draw < k_draws; ++draw) {
      Choice choice = greedy(deal, draw, u % family.size(), reached, {});
      if (draw == 0 || choice.key < best.key) best = std::move(choice);
    }
    const bool can_reach_all =
        u * static_cast<std::size_t>(m_holders) >= static_cast<std::size_t>(m_subnetworks);
    if (best.key.first > 0 && can_reach_all) {
      std::vector<std::size_t> cover;
      int visits = 0;
      if (find_cover(deal.sets, all, u, cover, visits))
        best = greedy(deal, 0, u, 0, cover);
      else
        use_windows(deal, best);
    }
    for (std::size_t s : best.sets) ++deal.uses[s];
    for (std::size_t s = 0; s < deal.sets.size(); ++s) m_used[deal.sets[s]] += deal.uses[s];
  }

  /// Different sets of a class, with how many subnetworks they leave out and the sum of squared
  /// loads with a unit of mean cost in each.
  struct Choice {
    std::vector<std::size_t> sets;
    std::pair<int, std::int64_t> key;
  };

  /// `count` different sets, those of `first` among them, one by one; equal ones in the order of a
  /// draw.
  Choice greedy(ClassDeal const& deal, int draw, std::size_t count, HolderSet reached,
                std::vector<std::size_t> const& first) {
    const auto order =
        drawn_order(deal.sets.size(), m_seed, fmt::format("sdp.mask.sets.{}.{}", deal.name, draw));
    std::int64_t mean = 0;
    for (std::size_t u : deal.units) mean += m_cost[u];
    mean /= static_cast<std::int64_t>(deal.units.size());
    const auto before = m_load;
    std::vector<bool> taken(deal.sets.size(), false);
    Choice choice;
    const auto take = [&](std::size_t s) {
      taken[s] = true;
      choice.sets.push_back(s);
      reached |= deal.sets[s];
      load(deal.sets[s], mean);
    };
    for (std::size_t s : first) take(s);
    while (choice.sets.size() < count) {
      std::size_t best = deal.sets.size();
      std::tuple<int, std::int64_t, index_t> best_key;
      for (std::size_t s : order) {
        if (taken[s]) continue;
        const auto used = m_used.find(deal.sets[s]);
        const std::tuple key{-std::popcount(deal.sets[s] & ~reached), growth(deal.sets[s], mean),
                             used == m_used.end() ? 0 : used->second};
        if (best < deal.sets.size() && key >= best_key) continue;
        best = s;
        best_key = key;
      }
      take(best);
    }
    choice.key.first = m_subnetworks - std::popcount(reached);
    for (std::int64_t sum : m_load) choice.key.second += sum * sum;
    m_load = before;
    return choice;
  }

  /// At most `count` sets that together contain `open`: depth first, always the sets that have the
  /// least subnetwork still missing.
  bool find_cover(std::vector<HolderSet> const& sets, HolderSet open, std::size_t count,
                  std::vector<std::size_t>& chosen, int& visits) const {
    if (open == 0) return true;
    const auto missing = static_cast<std::size_t>(std::popcount(open));
    if (missing > (count - chosen.size()) * static_cast<std::size_t>(m_holders)) return false;
    const HolderSet least = open & (~open + 1);
    for (std::size_t s = 0; s < sets.size(); ++s) {
      if ((sets[s] & least) == 0) continue;
      if (++visits > k_most_visits) return false;
      chosen.push_back(s);
      if (find_cover(sets, open & ~sets[s], count, chosen, visits)) return true;
      chosen.pop_back();
    }
    return false;
  }

  /// Sets of consecutive subnetworks instead of the family's, as many as there are units, which
  /// reach all subnetworks.
  void use_windows(ClassDeal& deal, Choice& choice) {
    const auto u = deal.units.size();
    const auto windows = rotations(all_subnetworks(m_holders), m_subnetworks);
    deal.sets.clear();
    for (std::size_t i = 0; i < u; ++i)
      deal.sets.push_back(windows[i * static_cast<std::size_t>(m_subnetworks) / u]);
    deal.uses.assign(u, 1);
    choice.sets.clear();
    m_dealing.warnings.push_back(
        fmt::format("no {} holder sets of the design reach all {} subnetworks, so the units of "
                    "class \"{}\" get consecutive subnetworks instead",
                    u, m_subnetworks, deal.name));
  }

  /// Gives the sets to the units: by cost, dearest first, the set that keeps the loads most even;
  /// drawn where all cost the same.
  void assign(ClassDeal& deal) {
    const std::size_t count = deal.units.size();
    const auto order = drawn_order(count, m_seed, "sdp.mask.units." + deal.name);
    deal.set_of_unit.resize(count);
    auto left = deal.uses;
    const auto give = [&](std::size_t unit, std::size_t s) {
      deal.set_of_unit[unit] = s;
      --left[s];
      load(deal.sets[s], cost(deal, unit));
      for_each_member(deal.sets[s], [&](std::size_t i) { ++deal.held[i]; });
    };
    if (equal_costs(deal)) {
      std::size_t next = 0;
      for (std::size_t s = 0; s < deal.sets.size(); ++s)
        while (left[s] > 0) give(order[next++], s);
      return;
    }
    auto by_cost = order;
    std::stable_sort(by_cost.begin(), by_cost.end(),
                     [&](std::size_t a, std::size_t b) { return cost(deal, a) > cost(deal, b); });
    for (std::size_t unit : by_cost) {
      std::size_t best = deal.sets.size();
      std::int64_t least = 0;
      for (std::size_t s = 0; s < deal.sets.size(); ++s) {
        if (left[s] == 0) continue;
        const std::int64_t change = growth(deal.sets[s], cost(deal, unit));
        if (best < deal.sets.size() && change >= least) continue;
        best = s;
        least = change;
      }
      give(unit, best);
    }
  }

  /// Whether a unit may leave `from` for `to` without a subnetwork losing its last of the class.
  bool keeps_cover(ClassDeal const& deal, HolderSet from, HolderSet to) const {
    bool keeps = true;
    for_each_member(from & ~to, [&](std::size_t i) { keeps &= deal.held[i] > 1; });
    return keeps;
  }

  void put(ClassDeal& deal, std::size_t unit, std::size_t s) {
    const HolderSet from = deal.sets[deal.set_of_unit[unit]];
    load(from, -cost(deal, unit));
    load(deal.sets[s], cost(deal, unit));
    for_each_member(from, [&](std::size_t i) { --deal.held[i]; });
    for_each_member(deal.sets[s], [&](std::size_t i) { ++deal.held[i]; });
    deal.set_of_unit[unit] = s;
  }

  /// Moves units from sets used once more to sets used once less.
  bool improve_by_moves(ClassDeal& deal) {
    if (deal.units.empty()) return false;
    const bool equal = equal_costs(deal);
    bool improved = false;
    const index_t most = *std::max_element(deal.uses.begin(), deal.uses.end());
    std::vector<bool> tried(deal.sets.size(), false);  // equal units of a set need one trial
    for (std::size_t unit = 0; unit < deal.units.size(); ++unit) {
      const std::size_t from = deal.set_of_unit[unit];
      if (deal.uses[from] != most || (equal && tried[from])) continue;
      tried[from] = true;
      std::size_t best = from;
      std::int64_t least = 0;
      for (std::size_t to = 0; to < deal.sets.size(); ++to) {
        if (deal.uses[to] != most - 1) continue;
        const std::int64_t change = moved(deal.sets[from], deal.sets[to], cost(deal, unit));
        if (change >= least || !keeps_cover(deal, deal.sets[from], deal.sets[to])) continue;
        best = to;
        least = change;
      }
      if (best == from) continue;
      put(deal, unit, best);
      --deal.uses[from];
      ++deal.uses[best];
      improved = true;
    }
    return improved;
  }

  /// Exchanges the sets of two units of different cost.
  bool improve_by_exchanges(ClassDeal& deal) {
    if (deal.units.empty() || equal_costs(deal)) return false;
    bool improved = false;
    const std::size_t count = std::min(deal.units.size(), k_most_exchanged);
    for (std::size_t a = 0; a < count; ++a)
      for (std::size_t b = a + 1; b < count; ++b) {
        const std::int64_t difference = cost(deal, a) - cost(deal, b);
        const std::size_t set_a = deal.set_of_unit[a], set_b = deal.set_of_unit[b];
        if (difference == 0 || set_a == set_b ||
            moved(deal.sets[set_a], deal.sets[set_b], difference) >= 0)
          continue;
        put(deal, a, set_b);
        put(deal, b, set_a);
        improved = true;
      }
    return improved;
  }

  UnitSet const& m_units;
  int m_subnetworks;
  int m_holders;
  std::uint64_t m_seed;
  std::vector<std::int64_t> m_cost;
  std::vector<std::int64_t> m_load;  ///< of each subnetwork, over the classes dealt so far
  std::map<HolderSet, index_t> m_used;
  std::vector<ClassDeal> m_classes;
  Dealing m_dealing;
};

}  // namespace

Dealing deal(UnitSet const& units, int subnetworks, int holders,
             std::vector<HolderSet> const& family, std::uint64_t seed) {
  return Dealer(units, subnetworks, holders, seed).run(family);
}

}  // namespace sdp
