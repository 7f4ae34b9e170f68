// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/nn/attention_forward.hpp"

// The backward passes behind attention.hpp. Scores lie as (query, key) here: the transposed key and
// value tiles are made once and serve every query tile.

namespace sdp::kernels::Details {

/// Loop order of the backward pass. fused: one team a key/value head computes all three gradients
/// and recomputes the scores once. split: one team a key tile for dk and dv, one a query tile for
/// dq.
enum class AttentionPlan { automatic, fused, split };

/// The tensors of attention_backward.
template <class T>
struct AttentionGradient {
  T const* qkv;
  accum_t<T> const* lse;
  T const* d_out;
  accum_t<T> const* delta;
  T* d_qkv;
};

/// delta(b,n,t) = sum_d out(b,t,n,d) d_out(b,t,n,d); eight partial sums, then those in order.
template <class Exec, class T>
void attention_delta(Exec const& exec, AttentionShape const& shape, T const* out, T const* d_out,
                     accum_t<T>* delta) {
  using A = accum_t<T>;
  constexpr int k_partial_sums = 8;
  Kokkos::parallel_for(
      "sdp::kernels::attention_delta",
      Kokkos::RangePolicy<Exec, Kokkos::IndexType<index_t>>(
          exec, 0, shape.batch * shape.positions * shape.heads),
      KOKKOS_LAMBDA(index_t row) {
        const int h = shape.head_dim;
        T const* const x = out + row * h;
        T const* const y = d_out + row * h;
        A partial[k_partial_sums] = {};
        int d = 0;
        for (; d + k_partial_sums <= h; d += k_partial_sums)
          for (int j = 0; j < k_partial_sums; ++j)
            partial[j] += static_cast<A>(x[d + j]) * static_cast<A>(y[d + j]);
        A sum = A(0);
        for (int j = 0; j < k_partial_sums; ++j) sum += partial[j];
        for (; d < h; ++d) sum += static_cast<A>(x[d]) * static_cast<A>(y[d]);
        const int head = static_cast<int>(row % shape.heads);
        const index_t position = row / shape.heads;
        delta[shape.statistic(position / shape.positions, head, position % shape.positions)] = sum;
      });
}

/// What both backward passes do with one query tile and one key tile.
template <class Exec, class T, class Tuning>
struct AttentionBackwardPass : AttentionPass<Exec, T, Tuning> {
  using Base = AttentionPass<Exec, T, Tuning>;
  using typename Base::A;
  using typename Base::Block;
  using typename Base::Member;
  static constexpr int k_width = Base::k_width;
  static constexpr int k_rows = Base::k_rows;

  AttentionGradient<T> m_tensors;

  AttentionBackwardPass(AttentionShape const& shape, AttentionGradient<T> const& tensors,
                        int tiles_of_head)
      : Base(shape, tiles_of_head, 2), m_tensors(tensors) {}

  /// Query tile, its output gradient and its statistics; padding is zero throughout.
  KOKKOS_INLINE_FUNCTION void load_query_side(Member const& team, index_t b, int head, int i,
                                              Block const& queries, Block const& d_out, A* lse,
                                              A* delta) const {
    auto const& shape = this->m_shape;
    const index_t first = static_cast<index_t>(i) * this->m_tile;
    const int count = this->count(i);
    const int padded = this->padded_count(i);
    const int h = shape.head_dim;
    load_rows<Tuning>(team, m_tensors.qkv + shape.row(b, first, head, shape.stored_heads()),
                      static_cast<index_t>(shape.stored_heads()) * h, count, padded, h, queries);
    load_rows<Tuning>(team, m_tensors.d_out + shape.row(b, first, head, shape.heads),
                      static_cast<index_t>(shape.heads) * h, count, padded, h, d_out);
    const index_t statistic = shape.statistic(b, head, first);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, padded), [&](int q) {
      lse[q] = q < count ? m_tensors.lse[statistic + q] : A(0);
      delta[q] = q < count ? m_tensors.delta[statistic + q] : A(0);
    });
  }

  /// Transposed key tile times 1/sqrt(h), transposed value tile and, if asked for, the key tile.
  KOKKOS_INLINE_FUNCTION void load_key_side(Member const& team, index_t b, int key_value_head,
                                            int i, Block const& keys_t, Block const& values_t,
                                            Block const* keys) const {
    auto const& shape = this->m_shape;
    const int h = shape.head_dim;
    const index_t stride = static_cast<index_t>(shape.stored_heads()) * h;
    T const* const key =
        m_tensors.qkv + shape.row(b, static_cast<index_t>(i) * this->m_tile,
                                  shape.heads + key_value_head, shape.stored_heads());
    const int count = this->count(i);
    const int padded = this->padded_count(i);
    load_transposed<Tuning>(team, key, stride, count, padded, h, this->m_scale, keys_t);
    load_transposed<Tuning>(team, key + static_cast<index_t>(shape.key_value_heads) * h, stride,
                            count, padded, h, A(1), values_t);
    if (keys) load_rows<Tuning>(team, key, stride, count, padded, h, *keys);
  }

  /// p = exp(q.k / sqrt(h) - lse) and ds = p (d_out.v - delta) / sqrt(h), zero above the diagonal
  /// as far as the later products read.
  KOKKOS_INLINE_FUNCTION void score_gradients(Member const& team, bool diagonal, int padded_queries,
                                              int padded_keys, Block const& queries,
                                              Block const& d_out, Block const& keys_t,
                                              Block const& values_t, A const* lse, A const* delta,
                                              Block const& p, Block const& ds) const {
    const int h = this->m_shape.head_dim;
    const int panels = padded_keys / k_width;
    const auto depth = [&](int row, int panel) {
      return Depth{0, diagonal && panel * k_width >= row + k_rows ? 0 : h};
    };
    multiply_tiles<Tuning, false, Store::overwrite>(team, padded_queries, panels, queries, keys_t,
                                                    p, depth);
    multiply_tiles<Tuning, false, Store::overwrite>(team, padded_queries, panels, d_out, values_t,
                                                    ds, depth);
    team.team_barrier();
    const A scale = this->m_scale;
    const int blocks = padded_queries / k_rows;
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, blocks * panels), [&](int i) {
      const int panel = i / blocks;
      const int first = i % blocks * k_rows;
      if (depth(first, panel).end == 0) return;
      for (int q = first; q < first + k_rows; ++q) {
        A* const p_row = p.panel(panel) + q * k_width;
        A* const ds_row = ds.panel(panel) + q * k_width;
        const A offset = lse[q];
        const A mean = delta[q];
        const int last = diagonal ? q - panel * k_width : k_width;
        for (int j = 0; j < k_width; ++j) {
          const A weight = j <= last ? vexp(p_row[j] - offset) : A(0);
          const A slope = j <= last ? weight * (ds_row[j] - mean) * scale : A(0);
          p_row[j] = weight;
          ds_row[j] = slope;
        }
      }
    });
    team.team_barrier();
  }

  /// Writes (or adds) the rows of a tile to rows of d_qkv.
  template <bool Add>
  KOKKOS_INLINE_FUNCTION void store_rows(Member const& team, Block const& from, index_t b, int head,
                                         int i) const {
    auto const& shape = this->m_shape;
    const int h = shape.head_dim;
    const index_t stride = static_cast<index_t>(shape.stored_heads()) * h;
    T* const to = m_tensors.d_qkv +
                  shape.row(b, static_cast<index_t>(i) * this->m_tile, head, shape.stored_heads());
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, this->count(i)), [&](int row) {
      for (int panel = 0; panel * k_width < h; ++panel) {
        A const* const source = from.panel(panel) + row * k_width;
        T* const target = to + row * stride + panel * k_width;
        const int columns = h - panel * k_width < k_width ? h - panel * k_width : k_width;
        for (int j = 0; j < columns; ++j)
          target[j] = static_cast<T>(Add ? static_cast<A>(target[j]) + source[j] : source[j]);
      }
    });
  }
};

/// dk and dv: one team a key tile, which loops over the query heads of its group and over query
/// tiles in ascending order. Fused: one team a key/value head loops over its key tiles too and adds
/// up dq in d_qkv itself, which therefore must be stored in the accumulation type.
template <class Exec, class T, class Tuning, bool Fused>
struct AttentionKeyValuePass : AttentionBackwardPass<Exec, T, Tuning> {
  using Base = AttentionBackwardPass<Exec, T, Tuning>;
  using typename Base::A;
  using typename Base::Block;
  using typename Base::Member;
  static constexpr int k_width = Base::k_width;
  static constexpr int k_rows = Base::k_rows;
  static_assert(!Fused || std::is_same_v<T, A>);

  AttentionKeyValuePass(AttentionShape const& shape, AttentionGradient<T> const& tensors)
      : Base(shape, tensors, Fused ? 8 : 6) {}

  index_t league() const {
    return this->m_shape.batch * this->m_shape.key_value_heads * (Fused ? 1 : this->m_tiles);
  }

  KOKKOS_INLINE_FUNCTION void operator()(Member const& team) const {
    const int work = team.league_rank() / (Fused ? 1 : this->m_tiles);
    const index_t b = work / this->m_shape.key_value_heads;
    const int key_value_head = work % this->m_shape.key_value_heads;
    const auto scratch = this->scratch(team);
    if constexpr (Fused) {
      for (int i = 0; i < this->m_tiles; ++i) key_tile(team, scratch, b, key_value_head, i);
    } else {
      key_tile(team, scratch, b, key_value_head, team.league_rank() % this->m_tiles);
    }
  }

  KOKKOS_INLINE_FUNCTION void key_tile(Member const& team, typename Base::Scratch scratch,
                                       index_t b, int key_value_head, int index) const {
    auto const& shape = this->m_shape;
    const int tile = this->m_tile;
    const int padded_dim = this->m_padded_dim;
    const int dim_panels = padded_dim / k_width;
    const int padded_keys = this->padded_count(index);
    const Block keys_t{scratch.take(tile * padded_dim), padded_dim};
    const Block values_t{scratch.take(tile * padded_dim), padded_dim};
    const Block queries = scratch.tile(tile, padded_dim);
    const Block d_out = scratch.tile(tile, padded_dim);
    const Block d_keys = scratch.tile(tile, padded_dim);
    const Block d_values = scratch.tile(tile, padded_dim);
    const Block p = scratch.tile(tile, tile);
    const Block ds = scratch.tile(tile, tile);
    A* const lse = scratch.take(tile);
    A* const delta = scratch.take(tile);
    const Block keys = scratch.tile(Fused ? tile : 0, padded_dim);
    const Block d_queries = scratch.tile(Fused ? tile : 0, padded_dim);

    this->load_key_side(team, b, key_value_head, index, keys_t, values_t, Fused ? &keys : nullptr);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, tile * padded_dim), [&](int i) {
      d_keys.data[i] = A(0);
      d_values.data[i] = A(0);
    });
    const int group = shape.heads_of_group();
    for (int head = key_value_head * group; head < (key_value_head + 1) * group; ++head) {
      for (int query_tile = index; query_tile < this->m_tiles; ++query_tile) {
        const bool diagonal = query_tile == index;
        const int padded_queries = this->padded_count(query_tile);
        team.team_barrier();
        this->load_query_side(team, b, head, query_tile, queries, d_out, lse, delta);
        team.team_barrier();
        this->score_gradients(team, diagonal, padded_queries, padded_keys, queries, d_out, keys_t,
                              values_t, lse, delta, p, ds);
        const auto from_diagonal = [&](int row, int) {
          return Depth{diagonal ? row : 0, padded_queries};
        };
        multiply_tiles<Tuning, true, Store::accumulate>(team, padded_keys, dim_panels, p, d_out,
                                                        d_values, from_diagonal);
        multiply_tiles<Tuning, true, Store::accumulate>(team, padded_keys, dim_panels, ds, queries,
                                                        d_keys, from_diagonal);
        if constexpr (Fused) {
          multiply_tiles<Tuning, false, Store::overwrite>(
              team, padded_queries, dim_panels, ds, keys, d_queries, [&](int row, int) {
                return Depth{0, diagonal ? row + k_rows : padded_keys};
              });
          team.team_barrier();
          if (index == 0)
            this->template store_rows<false>(team, d_queries, b, head, query_tile);
          else
            this->template store_rows<true>(team, d_queries, b, head, query_tile);
        }
      }
    }
    team.team_barrier();
    const int key_head = shape.heads + key_value_head;
    this->template store_rows<false>(team, d_keys, b, key_head, index);
    this->template store_rows<false>(team, d_values, b, key_head + shape.key_value_heads, index);
    team.team_barrier();
  }
};

/// dq: one team a query tile, which loops over the key tiles in ascending order.
template <class Exec, class T, class Tuning>
struct AttentionQueryPass : AttentionBackwardPass<Exec, T, Tuning> {
  using Base = AttentionBackwardPass<Exec, T, Tuning>;
  using typename Base::A;
  using typename Base::Block;
  using typename Base::Member;
  static constexpr int k_width = Base::k_width;
  static constexpr int k_rows = Base::k_rows;

  AttentionQueryPass(AttentionShape const& shape, AttentionGradient<T> const& tensors)
      : Base(shape, tensors, 6) {}

  index_t league() const { return this->m_shape.batch * this->m_shape.heads * this->m_tiles; }

  KOKKOS_INLINE_FUNCTION void operator()(Member const& team) const {
    auto const& shape = this->m_shape;
    const int query_tile = this->m_tiles - 1 - team.league_rank() % this->m_tiles;
    const int head = team.league_rank() / this->m_tiles % shape.heads;
    const index_t b = team.league_rank() / this->m_tiles / shape.heads;
    const int key_value_head = head / shape.heads_of_group();
    const int tile = this->m_tile;
    const int padded_dim = this->m_padded_dim;
    const int padded_queries = this->padded_count(query_tile);
    auto scratch = this->scratch(team);
    const Block keys_t{scratch.take(tile * padded_dim), padded_dim};
    const Block values_t{scratch.take(tile * padded_dim), padded_dim};
    const Block keys = scratch.tile(tile, padded_dim);
    const Block queries = scratch.tile(tile, padded_dim);
    const Block d_out = scratch.tile(tile, padded_dim);
    const Block d_queries = scratch.tile(tile, padded_dim);
    const Block p = scratch.tile(tile, tile);
    const Block ds = scratch.tile(tile, tile);
    A* const lse = scratch.take(tile);
    A* const delta = scratch.take(tile);

    this->load_query_side(team, b, head, query_tile, queries, d_out, lse, delta);
    for (int index = 0; index <= query_tile; ++index) {
      const bool diagonal = index == query_tile;
      const int padded_keys = this->padded_count(index);
      team.team_barrier();
      this->load_key_side(team, b, key_value_head, index, keys_t, values_t, &keys);
      team.team_barrier();
      this->score_gradients(team, diagonal, padded_queries, padded_keys, queries, d_out, keys_t,
                            values_t, lse, delta, p, ds);
      const auto depth = [&](int row, int) {
        return Depth{0, diagonal ? row + k_rows : padded_keys};
      };
      if (index == 0)
        multiply_tiles<Tuning, false, Store::overwrite>(team, padded_queries, padded_dim / k_width,
                                                        ds, keys, d_queries, depth);
      else
        multiply_tiles<Tuning, false, Store::accumulate>(team, padded_queries, padded_dim / k_width,
                                                         ds, keys, d_queries, depth);
    }
    team.team_barrier();
    this->template store_rows<false>(team, d_queries, b, head, query_tile);
  }
};

}  // namespace sdp::kernels::Details
