// SPDX-License-Identifier: Apache-2.0
#include "comm/pinned_pool.hpp"

#include <string>

#include "base/memory_ledger.hpp"

namespace sdp {

PinnedPool::Block PinnedPool::take(index_t bytes) {
  const auto wanted = static_cast<std::size_t>(bytes);
  std::size_t best = m_blocks.size();
  for (std::size_t b = 0; b < m_blocks.size(); ++b) {
    const std::size_t size = m_blocks[b].memory.extent(0);
    if (m_blocks[b].free && size >= wanted && size <= 2 * wanted &&
        (best == m_blocks.size() || size < m_blocks[best].memory.extent(0)))
      best = b;
  }
  if (best == m_blocks.size()) {
    const MemoryScope scope(MemoryCategory::communication);
    m_blocks.push_back({Kokkos::View<char*, Kokkos::LayoutRight, PinnedSpace>(
                            Kokkos::view_alloc(Kokkos::WithoutInitializing,
                                               std::string("sdp::comm::host_staging")),
                            wanted),
                        false});
    m_bytes += bytes;
  }
  m_blocks[best].free = false;
  return {m_blocks[best].memory.data(), best};
}

void PinnedPool::give_back(Block const& block) {
  m_blocks[block.number].free = true;
}

}  // namespace sdp
