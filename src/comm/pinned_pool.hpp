// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/types.hpp"
#include "comm/stream.hpp"

namespace sdp {

/// Blocks of PinnedSpace; those that come back are given out again.
class PinnedPool {
 public:
  struct Block {
    char* data = nullptr;
    std::size_t number = 0;
  };

  /// The smallest free block of at least `bytes` and at most twice as many, or a new one.
  Block take(index_t bytes);
  void give_back(Block const& block);
  /// Of all blocks.
  index_t bytes() const { return m_bytes; }

 private:
  struct Owned {
    Kokkos::View<char*, Kokkos::LayoutRight, PinnedSpace> memory;
    bool free = false;
  };

  std::vector<Owned> m_blocks;
  index_t m_bytes = 0;
};

}  // namespace sdp
