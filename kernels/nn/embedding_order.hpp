// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/team.hpp"

// The order in which devices add the gradient of an embedding: the positions of N tokens, sorted.

namespace sdp::kernels::Details {

/// Positions that one thread counts and moves in a pass of the sort, and the digits it goes by.
inline constexpr int k_sort_share = 16, k_sort_bits = 4, k_sort_digits = 1 << k_sort_bits;

inline index_t embedding_sort_shares(index_t tokens) {
  return (tokens + k_sort_share - 1) / k_sort_share;
}
inline index_t embedding_order_size(index_t tokens) {
  return 2 * tokens + k_sort_digits * embedding_sort_shares(tokens);
}

/// What a pass of the sort reads: positions in the order so far, `from` or the natural one, and one
/// digit of their tokens. Tokens outside the table count as one number past its end.
struct EmbeddingSortPass {
  std::int32_t const* tokens;
  std::int32_t const* from;
  index_t count, vocabulary;
  int shift;

  KOKKOS_INLINE_FUNCTION int position(index_t place) const {
    return from == nullptr ? static_cast<int>(place) : from[place];
  }
  KOKKOS_INLINE_FUNCTION int digit(int position) const {
    const index_t token = tokens[position];
    const index_t key = token < 0 || token >= vocabulary ? vocabulary : token;
    return static_cast<int>(key >> shift) & (k_sort_digits - 1);
  }
};

/// to = the positions of a pass in the order of their digits, equal ones as they were: counts of
/// digits by thread, their running sums with the digit as the slower index, and the moves.
template <class Exec>
void embedding_sort_pass(Exec const& exec, EmbeddingSortPass const& pass, std::int32_t* counts,
                         std::int32_t* to) {
  const index_t shares = embedding_sort_shares(pass.count);
  Kokkos::parallel_for(
      "sdp::kernels::embedding_count", element_policy(exec, shares), KOKKOS_LAMBDA(index_t share) {
        int found[k_sort_digits] = {};
        for (int i = 0; i < k_sort_share; ++i) {
          const index_t place = share * k_sort_share + i;
          if (place < pass.count) ++found[pass.digit(pass.position(place))];
        }
        for (int d = 0; d < k_sort_digits; ++d) counts[d * shares + share] = found[d];
      });
  Kokkos::parallel_scan(
      "sdp::kernels::embedding_scan", element_policy(exec, k_sort_digits * shares),
      KOKKOS_LAMBDA(index_t i, std::int32_t & sum, bool last) {
        const std::int32_t count = counts[i];
        if (last) counts[i] = sum;
        sum += count;
      });
  Kokkos::parallel_for(
      "sdp::kernels::embedding_move", element_policy(exec, shares), KOKKOS_LAMBDA(index_t share) {
        // All loads before the first store, so that they are under way together.
        int positions[k_sort_share] = {}, digits[k_sort_share] = {}, next[k_sort_digits];
        for (int i = 0; i < k_sort_share; ++i) {
          const index_t place = share * k_sort_share + i;
          if (place >= pass.count) continue;
          positions[i] = pass.position(place);
          digits[i] = pass.digit(positions[i]);
        }
        for (int d = 0; d < k_sort_digits; ++d) next[d] = counts[d * shares + share];
        for (int i = 0; i < k_sort_share; ++i)
          if (share * k_sort_share + i < pass.count) to[next[digits[i]]++] = positions[i];
      });
}

/// The first N elements of order = the positions of the tokens, sorted by (token, position), those
/// of tokens outside the table last. A radix sort from the lowest digit on, without atomics;
/// `order` has embedding_order_size(N) elements.
template <class Exec, class Tokens, class Order>
void embedding_order(Exec const& exec, Tokens const& tokens, index_t vocabulary,
                     Order const& order) {
  const auto count = static_cast<index_t>(tokens.extent(0));
  int passes = 1;
  while (vocabulary >> (passes * k_sort_bits) != 0) ++passes;
  std::int32_t* const buffers[] = {order.data(), order.data() + count};
  std::int32_t const* from = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    std::int32_t* const to = buffers[(passes - 1 - pass) % 2];
    embedding_sort_pass(exec, {tokens.data(), from, count, vocabulary, pass * k_sort_bits},
                        order.data() + 2 * count, to);
    from = to;
  }
}

}  // namespace sdp::kernels::Details
