// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/types.hpp"

namespace sdp {

/// The training order: epoch e = floor(i / n) goes through all n samples once, in an order of its
/// own.
///
/// sample_at(i) is a pure function of (seed, i): constant memory, no state to save, the same on
/// every machine and rank count. The permutation is a Feistel network over the smallest even number
/// of bits that holds n, keyed by Philox with (seed, epoch); positions that it maps outside [0, n)
/// are mapped again until they fall inside (cycle walking: Black and Rogaway, Ciphers with
/// arbitrary finite domains, 2002). The order is part of the contract: changing it breaks every
/// resumed run.
class Sampler {
 public:
  /// num_samples >= 1.
  Sampler(std::uint64_t seed, index_t num_samples);

  index_t num_samples() const { return m_num_samples; }
  /// Sample in file order that stands at place `global_index` (from 0) of the endless global order.
  index_t sample_at(index_t global_index) const;

 private:
  std::uint64_t m_seed;
  index_t m_num_samples;
  int m_half_bits;
};

}  // namespace sdp
