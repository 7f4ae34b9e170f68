// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernels/core/checks.hpp"
#include "kernels/core/math.hpp"
#include "kernels/core/team.hpp"
#include "kernels/nn/attention_tile.hpp"

// The forward pass behind attention.hpp. Legend: B batch, T positions, H query heads, K key/value
// heads, h head dimension; a tile is a block of consecutive positions of one head.

namespace sdp::kernels::Details {

struct AttentionShape {
  index_t batch;
  index_t positions;
  int heads;
  int key_value_heads;
  int head_dim;

  bool empty() const { return batch * positions * head_dim == 0; }
  KOKKOS_INLINE_FUNCTION int stored_heads() const { return heads + 2 * key_value_heads; }
  /// Query heads that share a key/value head.
  KOKKOS_INLINE_FUNCTION int heads_of_group() const { return heads / key_value_heads; }
  /// Offset of row (b,t,head) in a tensor with `width` heads a position.
  KOKKOS_INLINE_FUNCTION index_t row(index_t b, index_t t, int head, int width) const {
    return ((b * positions + t) * width + head) * head_dim;
  }
  /// Offset of (b,head,t) in the statistics (B,H,T).
  KOKKOS_INLINE_FUNCTION index_t statistic(index_t b, int head, index_t t) const {
    return (b * heads + head) * positions + t;
  }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim)); }
};

/// Tuning for storage type T on an execution space.
template <class Exec, class T>
using DefaultAttentionTuning = AttentionTuning<k_is_host<Exec>, accum_t<T>>;

/// What the tiled passes share: sizes, tile size, scratch.
template <class Exec, class T, class TuningType>
struct AttentionPass {
  using A = accum_t<T>;
  using Tuning = TuningType;
  using Member = typename Kokkos::TeamPolicy<Exec>::member_type;
  using Block = Tile<A, Tuning::k_width>;
  static constexpr int k_width = Tuning::k_width;
  static constexpr int k_rows = Tuning::k_rows;

  AttentionShape m_shape;
  A m_scale;
  int m_tile;
  int m_tiles;
  int m_padded_dim;
  int m_scratch_bytes;

  AttentionPass(AttentionShape const& shape, int tiles_of_head, int tiles_of_scores)
      : m_shape(shape),
        m_scale(static_cast<A>(shape.scale())),
        m_tile(Tuning::tile_size(shape.positions, shape.head_dim, tiles_of_head, tiles_of_scores)),
        m_tiles(static_cast<int>((shape.positions + m_tile - 1) / m_tile)),
        m_padded_dim(round_up(shape.head_dim, k_width)),
        m_scratch_bytes(
            Tuning::scratch_bytes(m_tile, shape.head_dim, tiles_of_head, tiles_of_scores)) {}

  /// Hands out the team's scratch front to back.
  struct Scratch {
    A* next;
    KOKKOS_INLINE_FUNCTION A* take(int values) {
      A* const taken = next;
      next += values;
      return taken;
    }
    KOKKOS_INLINE_FUNCTION Block tile(int rows, int padded_columns) {
      return {take(rows * padded_columns), rows};
    }
  };
  KOKKOS_INLINE_FUNCTION Scratch scratch(Member const& team) const {
    // A local copy: device code cannot bind a reference to a static member of the host.
    const int level = Tuning::k_scratch_level;
    return {static_cast<A*>(team.team_scratch(level).get_shmem_aligned(m_scratch_bytes - 64, 64))};
  }
  /// Positions in tile i, and the same rounded up to whole panels.
  KOKKOS_INLINE_FUNCTION int count(int i) const {
    const index_t rest = m_shape.positions - static_cast<index_t>(i) * m_tile;
    return static_cast<int>(rest < m_tile ? rest : m_tile);
  }
  KOKKOS_INLINE_FUNCTION int padded_count(int i) const { return round_up(count(i), k_width); }
};

/// Launches one team for each of pass.league() work items.
template <class Exec, class Pass>
void launch_tiles(Exec const& exec, char const* name, Pass const& pass) {
  using Tuning = typename Pass::Tuning;
  Kokkos::parallel_for(
      name,
      Kokkos::TeamPolicy<Exec>(exec, static_cast<int>(pass.league()),
                               team_size(exec, Tuning::k_team_size))
          .set_scratch_size(Tuning::k_scratch_level, Kokkos::PerTeam(pass.m_scratch_bytes)),
      pass);
}

/// One team a query tile. Scores are kept transposed, (key, query): the running maximum and sum of
/// a query then never cross lanes, and the only transposition is that of the query tile, made once.
template <class Exec, class T, class Tuning>
struct AttentionForward : AttentionPass<Exec, T, Tuning> {
  using Base = AttentionPass<Exec, T, Tuning>;
  using typename Base::A;
  using typename Base::Block;
  using typename Base::Member;
  static constexpr int k_width = Base::k_width;
  static constexpr int k_rows = Base::k_rows;

  T const* m_qkv;
  T* m_out;
  A* m_lse;

  AttentionForward(AttentionShape const& shape, T const* qkv, T* out, A* lse)
      : Base(shape, 4, 1), m_qkv(qkv), m_out(out), m_lse(lse) {}

  index_t league() const { return this->m_shape.batch * this->m_shape.heads * this->m_tiles; }

  KOKKOS_INLINE_FUNCTION void operator()(Member const& team) const {
    auto const& shape = this->m_shape;
    // The last query tile has the most keys: it goes first, so that no team starts late and long.
    const int query_tile = this->m_tiles - 1 - team.league_rank() % this->m_tiles;
    const int head = team.league_rank() / this->m_tiles % shape.heads;
    const index_t b = team.league_rank() / this->m_tiles / shape.heads;
    const int h = shape.head_dim;
    const int padded_dim = this->m_padded_dim;
    const int tile = this->m_tile;
    const int width = shape.stored_heads();
    const index_t stride = static_cast<index_t>(width) * h;
    const int key_head = shape.heads + head / shape.heads_of_group();

    auto scratch = this->scratch(team);
    const Block queries_t{scratch.take(tile * padded_dim), padded_dim};
    const Block keys = scratch.tile(tile, padded_dim);
    const Block values = scratch.tile(tile, padded_dim);
    const Block result = scratch.tile(tile, padded_dim);
    const Block scores_t = scratch.tile(tile, tile);
    A* const maximum = scratch.take(tile);
    A* const sum = scratch.take(tile);
    A* const factor = scratch.take(tile);

    const index_t first_query = static_cast<index_t>(query_tile) * tile;
    const int queries = this->count(query_tile);
    const int padded_queries = this->padded_count(query_tile);
    load_transposed<Tuning>(team, m_qkv + shape.row(b, first_query, head, width), stride, queries,
                            padded_queries, h, this->m_scale, queries_t);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, padded_queries), [&](int q) {
      maximum[q] = -HUGE_VALF;
      sum[q] = A(0);
    });

    for (int key_tile = 0; key_tile <= query_tile; ++key_tile) {
      const bool diagonal = key_tile == query_tile;
      const index_t first_key = static_cast<index_t>(key_tile) * tile;
      const int padded_keys = this->padded_count(key_tile);
      T const* const key = m_qkv + shape.row(b, first_key, key_head, width);
      team.team_barrier();
      load_rows<Tuning>(team, key, stride, this->count(key_tile), padded_keys, h, keys);
      load_rows<Tuning>(team, key + static_cast<index_t>(shape.key_value_heads) * h, stride,
                        this->count(key_tile), padded_keys, h, values);
      team.team_barrier();
      multiply_tiles<Tuning, false, Store::overwrite>(
          team, padded_keys, padded_queries / k_width, keys, queries_t, scores_t,
          [&](int row, int panel) {
            return Depth{0, diagonal && row >= (panel + 1) * k_width ? 0 : h};
          });
      team.team_barrier();
      update_softmax(team, scores_t, diagonal, padded_keys, padded_queries, maximum, sum, factor);
      team.team_barrier();
      const auto depth = [&](int row, int) {
        return Depth{0, diagonal ? row + k_rows : padded_keys};
      };
      if (key_tile == 0)
        multiply_tiles<Tuning, true, Store::overwrite>(team, padded_queries, padded_dim / k_width,
                                                       scores_t, values, result, depth);
      else
        multiply_tiles<Tuning, true, Store::rescale>(team, padded_queries, padded_dim / k_width,
                                                     scores_t, values, result, depth, factor);
    }
    team.team_barrier();

    T* const out = m_out + shape.row(b, first_query, head, shape.heads);
    const index_t out_stride = static_cast<index_t>(shape.heads) * h;
    A* const lse = m_lse + shape.statistic(b, head, first_query);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, queries), [&](int q) {
      const A inverse = A(1) / sum[q];
      T* const target = out + q * out_stride;
      for (int panel = 0; panel * k_width < h; ++panel) {
        A const* const source = result.panel(panel) + q * k_width;
        const int columns = h - panel * k_width < k_width ? h - panel * k_width : k_width;
        for (int j = 0; j < columns; ++j)
          target[panel * k_width + j] = static_cast<T>(source[j] * inverse);
      }
      lse[q] = maximum[q] + std::log(sum[q]);
    });
  }

  /// Turns the scores of one key tile into exponentials below the new running maximum, masked on
  /// the diagonal, and leaves in `factor` what the earlier sums must be multiplied by.
  KOKKOS_INLINE_FUNCTION void update_softmax(Member const& team, Block const& scores_t,
                                             bool diagonal, int padded_keys, int padded_queries,
                                             A* maximum, A* sum, A* factor) const {
    constexpr int k_lanes = Tuning::k_softmax_width;
    using Lanes =
        std::conditional_t<k_lanes == k_width, typename Tuning::Lanes, PortableLanes<A, k_lanes>>;
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, padded_queries / k_lanes), [&](int i) {
      const int first = i * k_lanes;
      const int panel = first / k_width;
      A* const column = scores_t.panel(panel) + first % k_width;
      const int keys = diagonal ? (panel + 1) * k_width : padded_keys;
      if (diagonal) {
        for (int k = panel * k_width; k < keys; ++k)
          for (int j = 0; j < k_lanes; ++j)
            if (k > first + j) column[k * k_width + j] = -HUGE_VALF;
      }
      Lanes highest;
      highest.load(maximum + first);
      for (int k = 0; k < keys; ++k) {
        Lanes score;
        score.load(column + k * k_width);
        highest.maximum(score);
      }
      A top[k_lanes];
      highest.store(top);
      Lanes total;
      total.fill(A(0));
      for (int k = 0; k < keys; ++k) {
        A* const score = column + k * k_width;
        for (int j = 0; j < k_lanes; ++j) score[j] = vexp(score[j] - top[j]);
        Lanes weight;
        weight.load(score);
        total.add(weight);
      }
      A added[k_lanes];
      total.store(added);
      for (int j = 0; j < k_lanes; ++j) {
        const A decay = vexp(maximum[first + j] - top[j]);
        factor[first + j] = decay;
        sum[first + j] = sum[first + j] * decay + added[j];
        maximum[first + j] = top[j];
      }
    });
  }
};

}  // namespace sdp::kernels::Details
