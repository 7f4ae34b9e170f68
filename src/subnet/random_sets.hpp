// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/types.hpp"
#include "subnet/design.hpp"

namespace sdp {

/// The sets of the random design, class by class.
class RandomSets {
 public:
  RandomSets(int subnetworks, int holders, std::uint64_t seed);

  /// Sets for `count` units of a class, and how often each is used: floor(count / (N over k)) times
  /// every set of k, and once more for different ones that are drawn. Each drawn set takes the
  /// subnetworks that are in fewest so far, where that gives a new one; sets that no class before
  /// has used come first.
  void draw(std::string const& class_name, std::size_t count, std::vector<HolderSet>& sets,
            std::vector<index_t>& uses);

 private:
  void draw_from_list(std::uint64_t stream, std::size_t count, std::vector<HolderSet>& drawn);
  void draw_members(std::uint64_t stream, std::size_t count, std::vector<HolderSet>& drawn);
  std::uint64_t key(std::uint64_t stream, std::uint64_t index) const;

  int m_subnetworks;
  int m_holders;
  std::uint64_t m_seed;
  std::unordered_map<HolderSet, index_t> m_used;  ///< by classes before this one
};

}  // namespace sdp
