// SPDX-License-Identifier: Apache-2.0
#include "subnet/design.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "subnet/cyclic_search.hpp"

namespace sdp {

namespace {

constexpr Design k_all[] = {Design::windows, Design::cyclic, Design::orbits, Design::plane,
                            Design::random};

/// "\"windows\", \"cyclic\" and \"random\"": the designs that exist.
std::string existing_designs(int n, int k) {
  std::vector<std::string> names;
  for (Design design : k_all)
    if (design_exists(design, n, k)) names.push_back(fmt::format("\"{}\"", design_name(design)));
  std::string text = names[0];
  for (std::size_t i = 1; i < names.size(); ++i)
    text += (i + 1 == names.size() ? " and " : ", ") + names[i];
  return text;
}

std::vector<HolderSet> planes() {
  std::vector<HolderSet> sets;
  for (HolderSet set : all_subsets(8, 4)) {
    int sum = 0;
    for (int member = 0; member < 8; ++member)
      if ((set >> member & 1) != 0) sum ^= member;
    if (sum == 0) sets.push_back(set);
  }
  return sets;
}

}  // namespace

std::string_view design_name(Design design) {
  return k_design_names.at(static_cast<std::size_t>(design));
}

int holders_per_unit(double coverage, int subnetworks) {
  if (subnetworks < 1 || subnetworks > k_max_subnetworks)
    throw ConfigError(fmt::format("sdp.subnetworks is {}, but it must be from 1 to {}", subnetworks,
                                  k_max_subnetworks));
  const double n = subnetworks;
  const double holders = coverage * n;
  const double whole = std::round(holders);
  if (std::abs(holders - whole) <= 1e-9 * n && whole >= 1.0 && whole <= n)
    return static_cast<int>(whole);
  if (subnetworks == 1)
    throw ConfigError(
        fmt::format("sdp.coverage is {}, but one subnetwork holds everything: it must "
                    "be 1, or sdp.subnetworks at least 2",
                    coverage));
  throw ConfigError(
      fmt::format("sdp.coverage {} x sdp.subnetworks {} is {:.6g}, but it must be a whole number "
                  "from 1 to {}; the nearest coverage is {}",
                  coverage, subnetworks, holders, subnetworks,
                  (std::isnan(whole) ? n : std::clamp(whole, 1.0, n)) / n));
}

bool design_exists(Design design, int subnetworks, int holders) {
  switch (design) {
    case Design::orbits:
      return holders >= 2 && holders <= subnetworks - 2;
    case Design::plane:
      return subnetworks == 8 && holders == 4;
    default:
      return true;
  }
}

std::vector<HolderSet> holder_sets(Design design, int subnetworks, int holders) {
  if (!design_exists(design, subnetworks, holders))
    throw ConfigError(fmt::format(
        "sdp.design is \"{}\", which does not exist for {} subnetworks and coverage {}; {} do",
        design_name(design), subnetworks, static_cast<double>(holders) / subnetworks,
        existing_designs(subnetworks, holders)));
  if (holders == subnetworks) return {all_subnetworks(subnetworks)};
  switch (design) {
    case Design::windows:
      return rotations(all_subnetworks(holders), subnetworks);
    case Design::cyclic:
      return rotations(best_base(subnetworks, holders), subnetworks);
    case Design::plane:
      return planes();
    case Design::orbits:
      break;
    default:
      throw std::invalid_argument("holder_sets: the design has no sets of its own");
  }
  const auto [first, second] = best_base_pair(subnetworks, holders);
  auto sets = rotations(first, subnetworks);
  const auto more = rotations(second, subnetworks);
  sets.insert(sets.end(), more.begin(), more.end());
  return sets;
}

std::vector<HolderSet> rotations(HolderSet base, int subnetworks) {
  std::vector<HolderSet> sets{base};
  for (HolderSet set = rotate(base, 1, subnetworks); set != base; set = rotate(set, 1, subnetworks))
    sets.push_back(set);
  return sets;
}

std::string to_text(HolderSet set) {
  std::string text = "{";
  for (int member = 0; member < k_max_subnetworks; ++member)
    if ((set >> member & 1) != 0) text += fmt::format("{}{}", text.size() > 1 ? "," : "", member);
  return text + "}";
}

}  // namespace sdp
