// SPDX-License-Identifier: Apache-2.0
#include "data/sampler.hpp"

#include <bit>

#include "base/error.hpp"
#include "kernels/random/philox.hpp"

namespace sdp {

namespace {

constexpr int k_rounds = 8;
/// Second counter word of round 0; keeps the data order apart from other streams of the same seed.
constexpr std::uint32_t k_stream = 0x5a3e0000u;

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
  const kernels::PhiloxKey key{
      {static_cast<std::uint32_t>(m_seed), static_cast<std::uint32_t>(m_seed >> 32)}};
  const std::uint64_t mask = (std::uint64_t{1} << m_half_bits) - 1;
  do {
    std::uint64_t left = place >> m_half_bits;
    std::uint64_t right = place & mask;
    for (int round = 0; round < k_rounds; ++round) {
      const auto bits = kernels::philox4x32(
          {{static_cast<std::uint32_t>(right), k_stream + static_cast<std::uint32_t>(round),
            static_cast<std::uint32_t>(epoch), static_cast<std::uint32_t>(epoch >> 32)}},
          key);
      const std::uint64_t next = left ^ (bits[0] & mask);
      left = right;
      right = next;
    }
    place = left << m_half_bits | right;
  } while (place >= static_cast<std::uint64_t>(m_num_samples));
  return static_cast<index_t>(place);
}

}  // namespace sdp
