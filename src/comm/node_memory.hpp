// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "base/memory_ledger.hpp"
#include "base/types.hpp"
#include "comm/world.hpp"

namespace sdp {

/// Host memory of this rank that the other ranks of its node address as well: a POSIX shared memory
/// object (shm_overview(7)) that has no name any more once everybody has mapped it, so nothing of
/// it outlives the run.
class NodeMemory {
 public:
  /// Collective. `bytes` of this rank, all zero and counted in `category`. Null on every rank where
  /// it cannot be done on all of them: on a single rank to a node, without room in the file system
  /// of shared memory (/dev/shm), or where processes of a node cannot see each other's.
  static std::unique_ptr<NodeMemory> allocate(World const& world, MemoryCategory category,
                                              index_t bytes);

  /// Rank-local. The other ranks keep what they have mapped.
  ~NodeMemory();
  NodeMemory(NodeMemory const&) = delete;
  NodeMemory& operator=(NodeMemory const&) = delete;

  void* data() const { return m_own.data; }
  /// Its first `size` elements.
  template <class T>
  View1<T> view(index_t size) const {
    return View1<T>(static_cast<T*>(m_own.data), static_cast<std::size_t>(size));
  }
  /// By rank: its memory, null for ranks of other nodes.
  std::vector<void*> of_ranks() const;

 private:
  struct Mapping {
    void* data = nullptr;
    std::size_t bytes = 0;
  };

  NodeMemory() = default;
  static bool map(int file, std::size_t bytes, Mapping& mapping);

  Mapping m_own;
  std::vector<Mapping> m_others;  ///< by rank
  int m_rank = 0;
  MemoryCategory m_category = MemoryCategory::other;
  index_t m_counted = 0;
};

}  // namespace sdp
