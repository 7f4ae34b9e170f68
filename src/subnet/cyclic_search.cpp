// SPDX-License-Identifier: Apache-2.0
#include "subnet/cyclic_search.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/random/philox.hpp"

namespace sdp {

namespace {

constexpr long long k_most_subsets = 200'000;  // for a search through all bases
constexpr std::size_t k_most_bases = 2'000;    // for a search through all pairs
constexpr int k_random_starts = 24;
constexpr int k_most_exchanges = 200;  // of one start
constexpr double k_tie = 1e-9;         // gaps that differ by less are equal

HolderSet bit(int member) {
  return HolderSet{1} << member;
}

int period(HolderSet base, int n) {
  int by = 1;
  while (rotate(base, by, n) != base) ++by;
  return by;
}

/// cos and sin of 2 pi j / n.
struct Roots {
  explicit Roots(int n) {
    for (int j = 0; j < n; ++j) {
      cosine.push_back(std::cos(2.0 * M_PI * j / n));
      sine.push_back(std::sin(2.0 * M_PI * j / n));
    }
  }
  std::vector<double> cosine;
  std::vector<double> sine;
};

/// |sum over s of exp(2 pi i f s / n)|^2 for f = 1 ... n/2, by the counts of differences.
std::vector<double> power_spectrum(HolderSet set, int n, Roots const& roots) {
  std::vector<int> differences;
  for (int d = 0; d < n; ++d) differences.push_back(std::popcount(set & rotate(set, d, n)));
  std::vector<double> power;
  for (int f = 1; f <= n / 2; ++f) {
    double sum = 0.0;
    for (int d = 0; d < n; ++d)
      sum += differences[static_cast<std::size_t>(d)] *
             roots.cosine[static_cast<std::size_t>(f * d % n)];
    power.push_back(sum);
  }
  return power;
}

/// One or two bases with the gap of all their rotations.
struct Candidate {
  std::vector<HolderSet> bases;
  double gap = -1.0;
};

bool comes_first(Candidate const& a, Candidate const& b) {
  for (std::size_t i = 0; i < a.bases.size(); ++i)
    if (a.bases[i] != b.bases[i]) return lexicographically_less(a.bases[i], b.bases[i]);
  return false;
}

void keep_better(Candidate& best, Candidate const& other) {
  const bool better =
      other.gap > best.gap + k_tie || (other.gap > best.gap - k_tie && comes_first(other, best));
  if (best.bases.empty() || better) best = other;
}

std::vector<HolderSet> all_bases(int n, int k) {
  std::vector<HolderSet> bases;
  for (HolderSet rest : all_subsets(n - 1, k - 1)) {
    const HolderSet set = rest << 1 | 1;
    if (canonical_base(set, n) == set) bases.push_back(set);
  }
  return bases;
}

Candidate best_of_all_pairs(std::vector<HolderSet> const& bases, int n, int k) {
  const Roots roots(n);
  std::vector<std::vector<double>> weighted;  // power spectrum times period
  std::vector<int> periods;
  for (HolderSet base : bases) {
    periods.push_back(period(base, n));
    weighted.push_back(power_spectrum(base, n, roots));
    for (double& power : weighted.back()) power *= periods.back();
  }
  Candidate best;
  for (std::size_t a = 0; a < bases.size(); ++a)
    for (std::size_t b = a + 1; b < bases.size(); ++b) {
      double largest = 0.0;
      for (std::size_t f = 0; f < weighted[a].size(); ++f)
        largest = std::max(largest, weighted[a][f] + weighted[b][f]);
      const double gap = 1.0 - largest / ((periods[a] + periods[b]) * static_cast<double>(k * k));
      if (gap > best.gap + k_tie) best = {{bases[a], bases[b]}, gap};
    }
  return best;
}

/// Improves sets by exchanging one member of one of them at a time for another subnetwork, always
/// the exchange that lowers the largest power most. The sets count as of full period.
class Exchanges {
 public:
  Exchanges(std::vector<HolderSet> sets, int n) : m_n(n), m_roots(n), m_sets(std::move(sets)) {
    for (HolderSet set : m_sets) {
      m_real.emplace_back(n / 2, 0.0);
      m_imaginary.emplace_back(n / 2, 0.0);
      for (int s = 0; s < n; ++s)
        if ((set & bit(s)) != 0) add(m_real.size() - 1, s, 1.0);
    }
  }

  std::vector<HolderSet> run() {
    double largest = largest_power(0, 0, 0, std::numeric_limits<double>::max());
    for (int step = 0; step < k_most_exchanges; ++step) {
      std::size_t best_set = 0;
      int best_out = -1, best_in = -1;
      for (std::size_t i = 0; i < m_sets.size(); ++i)
        for (int out = 0; out < m_n; ++out) {
          if ((m_sets[i] & bit(out)) == 0) continue;
          for (int in = 0; in < m_n; ++in) {
            if ((m_sets[i] & bit(in)) != 0) continue;
            const double power = largest_power(i, out, in, largest - k_tie);
            if (power >= largest - k_tie) continue;
            largest = power;
            best_set = i;
            best_out = out;
            best_in = in;
          }
        }
      if (best_out < 0) break;
      m_sets[best_set] ^= bit(best_out) | bit(best_in);
      add(best_set, best_out, -1.0);
      add(best_set, best_in, 1.0);
    }
    return m_sets;
  }

 private:
  std::size_t turn(int f, int s) const { return static_cast<std::size_t>(f * s % m_n); }

  void add(std::size_t i, int s, double factor) {
    for (int f = 1; f <= m_n / 2; ++f) {
      m_real[i][static_cast<std::size_t>(f - 1)] += factor * m_roots.cosine[turn(f, s)];
      m_imaginary[i][static_cast<std::size_t>(f - 1)] += factor * m_roots.sine[turn(f, s)];
    }
  }

  /// The largest sum of powers with `in` instead of `out` in set i; some power not below `limit`
  /// where there is one.
  double largest_power(std::size_t i, int out, int in, double limit) const {
    double largest = 0.0;
    for (int f = 1; f <= m_n / 2 && largest < limit; ++f) {
      double power = 0.0;
      for (std::size_t j = 0; j < m_sets.size(); ++j) {
        double real = m_real[j][static_cast<std::size_t>(f - 1)];
        double imaginary = m_imaginary[j][static_cast<std::size_t>(f - 1)];
        if (j == i) {
          real += m_roots.cosine[turn(f, in)] - m_roots.cosine[turn(f, out)];
          imaginary += m_roots.sine[turn(f, in)] - m_roots.sine[turn(f, out)];
        }
        power += real * real + imaginary * imaginary;
      }
      largest = std::max(largest, power);
    }
    return largest;
  }

  int m_n;
  Roots m_roots;
  std::vector<HolderSet> m_sets;
  std::vector<std::vector<double>> m_real;
  std::vector<std::vector<double>> m_imaginary;
};

/// A set of k out of n from the Philox stream of its number.
HolderSet random_set(int n, int k, int number) {
  const std::uint64_t stream = kernels::stream_key("sdp.mask.cyclic");
  std::vector<std::pair<std::uint32_t, int>> keys;
  for (int s = 0; s < n; ++s)
    keys.emplace_back(kernels::stream_bits(static_cast<std::uint64_t>(number), stream,
                                           static_cast<std::uint64_t>(s))[0],
                      s);
  std::sort(keys.begin(), keys.end());
  HolderSet set = 0;
  for (int i = 0; i < k; ++i) set |= bit(keys[static_cast<std::size_t>(i)].second);
  return set;
}

/// The best of what exchanges make of a fixed list of starts, `bases` sets each.
Candidate best_by_exchanges(int bases, int n, int k) {
  std::vector<std::vector<HolderSet>> starts;
  std::vector<HolderSet> windows;  // the last member moved on by 0, 1, ...
  for (int b = 0; b < bases; ++b) windows.push_back(all_subnetworks(k - 1) | bit(k - 1 + b));
  starts.push_back(windows);
  for (int number = 0; number < k_random_starts; ++number) {
    std::vector<HolderSet> sets;
    for (int b = 0; b < bases; ++b) sets.push_back(random_set(n, k, number * bases + b));
    starts.push_back(sets);
  }
  Candidate best;
  for (auto const& start : starts) {
    Candidate found;
    for (HolderSet set : Exchanges(start, n).run()) found.bases.push_back(canonical_base(set, n));
    std::sort(found.bases.begin(), found.bases.end(), lexicographically_less);
    if (std::adjacent_find(found.bases.begin(), found.bases.end()) != found.bases.end()) continue;
    found.gap = cyclic_gap(found.bases, n, k);
    keep_better(best, found);
  }
  return best;
}

}  // namespace

HolderSet rotate(HolderSet set, int by, int subnetworks) {
  by %= subnetworks;
  if (by == 0) return set;
  return (set << by | set >> (subnetworks - by)) & all_subnetworks(subnetworks);
}

bool lexicographically_less(HolderSet a, HolderSet b) {
  const HolderSet differs = a ^ b;
  return (a & differs & (~differs + 1)) != 0;
}

HolderSet canonical_base(HolderSet set, int subnetworks) {
  HolderSet least = set;
  for (int by = 1; by < subnetworks; ++by) {
    const HolderSet turned = rotate(set, by, subnetworks);
    if (lexicographically_less(turned, least)) least = turned;
  }
  return least;
}

std::vector<HolderSet> all_subsets(int subnetworks, int holders) {
  std::vector<HolderSet> sets;
  std::vector<int> members(static_cast<std::size_t>(holders));
  std::iota(members.begin(), members.end(), 0);
  if (holders > subnetworks) return sets;
  while (true) {
    HolderSet set = 0;
    for (int member : members) set |= bit(member);
    sets.push_back(set);
    int i = holders - 1;
    while (i >= 0 && members[static_cast<std::size_t>(i)] == subnetworks - holders + i) --i;
    if (i < 0) return sets;
    ++members[static_cast<std::size_t>(i)];
    for (int j = i + 1; j < holders; ++j)
      members[static_cast<std::size_t>(j)] = members[static_cast<std::size_t>(j - 1)] + 1;
  }
}

long long binomial(int subnetworks, int holders, long long limit) {
  holders = std::min(holders, subnetworks - holders);
  long long value = 1;
  for (int i = 1; i <= holders; ++i) {
    value = value * (subnetworks - holders + i) / i;
    if (value >= limit) return limit;
  }
  return value;
}

double cyclic_gap(std::vector<HolderSet> const& bases, int subnetworks, int holders) {
  const Roots roots(subnetworks);
  std::vector<double> sum(static_cast<std::size_t>(subnetworks / 2), 0.0);
  int sets = 0;
  for (HolderSet base : bases) {
    const int turns = period(base, subnetworks);
    const auto power = power_spectrum(base, subnetworks, roots);
    for (std::size_t f = 0; f < sum.size(); ++f) sum[f] += turns * power[f];
    sets += turns;
  }
  double largest = 0.0;
  for (const double power : sum) largest = std::max(largest, power);
  return 1.0 - largest / (static_cast<double>(sets) * holders * holders);
}

HolderSet best_base(int subnetworks, int holders) {
  if (binomial(subnetworks - 1, holders - 1, k_most_subsets + 1) > k_most_subsets)
    return best_by_exchanges(1, subnetworks, holders).bases[0];
  Candidate best;
  for (HolderSet base : all_bases(subnetworks, holders))
    keep_better(best, {{base}, cyclic_gap({base}, subnetworks, holders)});
  return best.bases[0];
}

std::pair<HolderSet, HolderSet> best_base_pair(int subnetworks, int holders) {
  Candidate best;
  if (binomial(subnetworks - 1, holders - 1, k_most_subsets + 1) <= k_most_subsets) {
    const auto bases = all_bases(subnetworks, holders);
    if (bases.size() <= k_most_bases) best = best_of_all_pairs(bases, subnetworks, holders);
  }
  if (best.bases.empty()) best = best_by_exchanges(2, subnetworks, holders);
  return {best.bases[0], best.bases[1]};
}

}  // namespace sdp
