// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/nn/attention_forward.hpp"

// How a batch of attention is given in parts to a library whose workspace grows with what it works
// on at a time. Legend: B batch, T positions, H query heads, K key/value heads.

namespace sdp::kernels::Details {

/// What one execution works on: so many sequences, and of each so many key/value heads with the
/// query heads that share them. They divide B and K; several sequences have all their heads.
struct AttentionPart {
  index_t sequences = 0;
  index_t groups = 0;

  bool operator==(AttentionPart const&) const = default;
};

inline AttentionPart whole_batch(AttentionShape const& shape) {
  return {shape.batch, shape.key_value_heads};
}

/// The largest part whose workspace keeps the limit, given that of the whole batch, all in bytes; a
/// workspace is taken to be proportional to sequences and heads. Every part of lse (B,H,T) in
/// single precision starts on 16 bytes. The smallest possible part where none keeps the limit.
inline AttentionPart attention_part(AttentionShape const& shape, std::int64_t workspace,
                                    std::int64_t limit) {
  const index_t batch = shape.batch, groups = shape.key_value_heads;
  const index_t statistics = shape.heads_of_group() * shape.positions;  // of a group
  AttentionPart smallest = whole_batch(shape);
  const auto fits = [&](AttentionPart const& part) {
    if (part.sequences * part.groups * statistics % 4 != 0 && part != whole_batch(shape))
      return false;
    smallest = part;
    return workspace / (batch * groups) * (part.sequences * part.groups) <= limit;
  };
  for (index_t n = batch; n >= 1; --n)
    if (batch % n == 0 && fits({n, groups})) return smallest;
  for (index_t n = groups - 1; n >= 1; --n)
    if (groups % n == 0 && fits({1, n})) return smallest;
  return smallest;
}

}  // namespace sdp::kernels::Details
