// SPDX-License-Identifier: Apache-2.0
#include "data/sampler.hpp"

#include <array>
#include <bit>

#include "base/error.hpp"

namespace sdp {

namespace {

constexpr int k_rounds = 8;
/// Second counter word of round 0; keeps the data order apart from other streams of the same seed.
constexpr std::uint32_t k_stream = 0x5a3e0000u;

/// First word of Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011).
std::uint32_t philox(std::array<std::uint32_t, 4> counter, std::uint64_t seed) {
  auto key0 = static_cast<std::uint32_t>(seed);
  auto key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key0,
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key1,
               static_cast<std::uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter[0];
}

}  // namespace

Sampler::Sampler(std::uint64_t seed, index_t num_samples)
    : m_seed(seed), m_num_samples(num_samples) {
  if (num_samples < 1) throw ConfigError("the data order needs at least one sample");
  const int bits = std::bit_width(static_cast<std::uint64_t>(num_samples - 1));
  m_half_bits = bits < 2 ? 1 : (bits + 1) / 2;
}

index_t Sampler::sample_at(index_t global_index) const {
  const auto epoch = static_cast<std::uint64_t>(global_index / m_num_samples);
  auto place = static_cast<std::uint64_t>(global_index % m_num_samples);
  const std::uint64_t mask = (std::uint64_t{1} << m_half_bits) - 1;
  do {
    std::uint64_t left = place >> m_half_bits;
    std::uint64_t right = place & mask;
    for (int round = 0; round < k_rounds; ++round) {
      const std::uint64_t mixed =
          philox({static_cast<std::uint32_t>(right), k_stream + static_cast<std::uint32_t>(round),
                  static_cast<std::uint32_t>(epoch), static_cast<std::uint32_t>(epoch >> 32)},
                 m_seed) &
          mask;
      const std::uint64_t next = left ^ mixed;
      left = right;
      right = next;
    }
    place = left << m_half_bits | right;
  } while (place >= static_cast<std::uint64_t>(m_num_samples));
  return static_cast<index_t>(place);
}

}  // namespace sdp
