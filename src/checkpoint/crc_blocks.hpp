// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.hpp"

namespace sdp {

/// CRC-32 of a run of bytes.
std::uint32_t crc32_of(void const* data, std::int64_t bytes);

/// Checksums of fixed blocks of logical tensors, built from pieces that any number of owners hold.
///
/// With the checksum taken as a polynomial over GF(2), that of a block cut into pieces p1 ... pn is
/// the exclusive or of crc(pi) shifted by the bytes that follow pi in the block. Each owner adds
/// its shifted pieces in any order, and the exclusive or over owners completes every block: the
/// values do not depend on the cuts. Blocks that no piece touches stay 0.
class CrcBlocks {
 public:
  /// `sizes`: elements of each tensor; blocks never span tensors.
  CrcBlocks(std::vector<index_t> const& sizes, std::int64_t element_bytes);

  /// Adds elements [begin, begin + count) of a tensor; each element once.
  void add(int tensor, index_t begin, index_t count, void const* data);

  /// Index of the first block of a tensor in values().
  index_t first(int tensor) const { return m_first[tensor]; }
  std::vector<std::uint32_t>& values() { return m_values; }

 private:
  std::vector<index_t> m_sizes;
  std::vector<index_t> m_first;
  std::vector<std::uint32_t> m_values;
  std::int64_t m_element_bytes;
};

}  // namespace sdp
