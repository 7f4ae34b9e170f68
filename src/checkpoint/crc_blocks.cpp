// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/crc_blocks.hpp"

#ifdef SDP_HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif
#include <zlib.h>

#include <algorithm>

#include "checkpoint/checkpoint_layout.hpp"

namespace sdp {

using checkpoint_layout::block_count;
using checkpoint_layout::k_block_elements;

std::uint32_t crc32_of(void const* data, std::int64_t bytes) {
#ifdef SDP_HAVE_LIBDEFLATE
  return libdeflate_crc32(0, data, static_cast<std::size_t>(bytes));
#else
  return static_cast<std::uint32_t>(
      crc32_z(0, static_cast<Bytef const*>(data), static_cast<z_size_t>(bytes)));
#endif
}

CrcBlocks::CrcBlocks(std::vector<index_t> const& sizes, std::int64_t element_bytes)
    : m_sizes(sizes), m_element_bytes(element_bytes) {
  index_t blocks = 0;
  for (index_t size : sizes) {
    m_first.push_back(blocks);
    blocks += block_count(size);
  }
  m_values.assign(static_cast<std::size_t>(blocks), 0);
}

void CrcBlocks::add(int tensor, index_t begin, index_t count, void const* data) {
  auto const* bytes = static_cast<unsigned char const*>(data);
  const index_t end = begin + count;
  while (begin < end) {
    const index_t block = begin / k_block_elements;
    const index_t block_end = std::min((block + 1) * k_block_elements, m_sizes[tensor]);
    const index_t piece_end = std::min(block_end, end);
    const std::int64_t piece_bytes = (piece_end - begin) * m_element_bytes;
    std::uint32_t crc = crc32_of(bytes, piece_bytes);
    if (piece_end < block_end)  // combining with the checksum 0 is the shift
      crc = static_cast<std::uint32_t>(
          crc32_combine(crc, 0, (block_end - piece_end) * m_element_bytes));
    m_values[m_first[tensor] + block] ^= crc;
    bytes += piece_bytes;
    begin = piece_end;
  }
}

}  // namespace sdp
