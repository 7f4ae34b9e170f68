// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <string_view>

// Counter-based random numbers: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
// (SC11), generator philox4x32-10. A number is a pure function of (seed, stream, index): the same
// bits on every backend, rank count and sub-range.

namespace sdp::kernels {

using PhiloxBlock = Kokkos::Array<std::uint32_t, 4>;
using PhiloxKey = Kokkos::Array<std::uint32_t, 2>;

/// Ten rounds of Philox on a 128-bit counter with a 64-bit key.
KOKKOS_INLINE_FUNCTION PhiloxBlock philox4x32(PhiloxBlock const& counter, PhiloxKey const& key) {
  std::uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  std::uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t(0xD2511F53u) * c0;
    const std::uint64_t product1 = std::uint64_t(0xCD9E8D57u) * c2;
    c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(product1);
    c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return PhiloxBlock{{c0, c1, c2, c3}};
}

/// Block `index` (128 uniform bits) of the stream `stream` of the generator seeded with `seed`.
KOKKOS_INLINE_FUNCTION PhiloxBlock stream_bits(std::uint64_t seed, std::uint64_t stream,
                                               std::uint64_t index) {
  return philox4x32(
      PhiloxBlock{{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                   static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}},
      PhiloxKey{{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}});
}

/// 64-bit key of a named stream (a tensor's name): FNV-1a, then a finaliser that spreads short
/// names.
constexpr std::uint64_t stream_key(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9u;
  hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBu;
  return hash ^ (hash >> 31);
}

}  // namespace sdp::kernels
