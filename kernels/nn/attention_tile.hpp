// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>

#include "kernels/core/concepts.hpp"
#include "kernels/core/simd.hpp"

// Tiles in team scratch and the register-blocked products between them, from which attention.hpp is
// built.

namespace sdp::kernels::Details {

KOKKOS_INLINE_FUNCTION constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// N values that one thread adds and multiplies together; the compiler is left to vectorise.
template <class A, int N>
struct PortableLanes {
  A value[N];
  KOKKOS_FORCEINLINE_FUNCTION void fill(A x) {
    for (int j = 0; j < N; ++j) value[j] = x;
  }
  KOKKOS_FORCEINLINE_FUNCTION void load(A const* from) {
    for (int j = 0; j < N; ++j) value[j] = from[j];
  }
  KOKKOS_FORCEINLINE_FUNCTION void store(A* to) const {
    for (int j = 0; j < N; ++j) to[j] = value[j];
  }
  KOKKOS_FORCEINLINE_FUNCTION void scale(A x) {
    for (int j = 0; j < N; ++j) value[j] *= x;
  }
  KOKKOS_FORCEINLINE_FUNCTION void add(PortableLanes const& x) {
    for (int j = 0; j < N; ++j) value[j] += x.value[j];
  }
  KOKKOS_FORCEINLINE_FUNCTION void multiply_add(A x, PortableLanes const& y) {
    for (int j = 0; j < N; ++j) value[j] += x * y.value[j];
  }
  KOKKOS_FORCEINLINE_FUNCTION void maximum(PortableLanes const& x) {
    for (int j = 0; j < N; ++j) value[j] = x.value[j] > value[j] ? x.value[j] : value[j];
  }
};

#if defined(__CUDACC__)
// nvcc refuses vector types in functions that it might compile for the device.
template <class A, int N>
using HostLanes = PortableLanes<A, N>;
#else
/// The same in one vector register of the host. Arrays of plain lanes reach between a tenth and the
/// whole of this speed depending on how a compiler orders its passes.
template <class A, int N>
struct VectorLanes {
  typedef A Vector __attribute__((vector_size(N * sizeof(A))));
  Vector value;
  KOKKOS_FORCEINLINE_FUNCTION void fill(A x) { value = x - Vector{}; }
  KOKKOS_FORCEINLINE_FUNCTION void load(A const* from) { memcpy(&value, from, sizeof(value)); }
  KOKKOS_FORCEINLINE_FUNCTION void store(A* to) const { memcpy(to, &value, sizeof(value)); }
  KOKKOS_FORCEINLINE_FUNCTION void scale(A x) { value *= x; }
  KOKKOS_FORCEINLINE_FUNCTION void add(VectorLanes const& x) { value += x.value; }
  KOKKOS_FORCEINLINE_FUNCTION void multiply_add(A x, VectorLanes const& y) { value += x * y.value; }
  KOKKOS_FORCEINLINE_FUNCTION void maximum(VectorLanes const& x) {
    value = x.value > value ? x.value : value;
  }
};

template <class A, int N>
using HostLanes = VectorLanes<A, N>;
#endif

/// Block sizes of attention for accumulation type A. On the host a team is one thread that works in
/// vector registers, on a device a team shares the register blocks of a tile between its threads.
template <bool OnHost, class A>
struct AttentionTuning {
  /// Columns of a register block and of a tile panel.
  static constexpr int k_width =
      OnHost ? k_simd_bytes / static_cast<int>(sizeof(A)) : 16 / static_cast<int>(sizeof(A));
  /// Rows of a register block; divides k_width.
  static constexpr int k_rows = k_width < 8 ? k_width : 8;
  /// Queries whose softmax one thread computes together; divides k_width.
  static constexpr int k_softmax_width = OnHost ? k_width : 1;
  static constexpr int k_team_size = OnHost ? 1 : 128;
  /// Scratch on host back-ends is ordinary memory, but level 0 is capped at 32 KiB.
  static constexpr int k_scratch_level = OnHost ? 1 : 0;
  static constexpr int k_scratch_bytes = OnHost ? 512 * 1024 : 44 * 1024;
  static constexpr int k_max_tile = OnHost ? 128 : 32;
  /// Whether one team a key/value head may compute the whole backward pass.
  static constexpr bool k_may_fuse = OnHost;
  using Lanes = std::conditional_t<OnHost, HostLanes<A, k_width>, PortableLanes<A, k_width>>;
  static_assert(k_width % k_rows == 0 && k_width % k_softmax_width == 0);

  /// Positions in a tile: the largest power of two times k_width for which `tiles_of_head` tiles of
  /// (positions, head_dim) and `tiles_of_scores` of (positions, positions) fit in the scratch.
  static int tile_size(index_t positions, int head_dim, int tiles_of_head, int tiles_of_scores) {
    int size = k_width;
    while (2 * size <= k_max_tile && size < positions &&
           scratch_bytes(2 * size, head_dim, tiles_of_head, tiles_of_scores) <= k_scratch_bytes)
      size *= 2;
    return size;
  }

  /// Bytes of those tiles, of three rows of statistics and of what alignment may take.
  static int scratch_bytes(int size, int head_dim, int tiles_of_head, int tiles_of_scores) {
    const int values = tiles_of_head * size * round_up(head_dim, k_width) +
                       tiles_of_scores * size * size + 3 * size;
    return values * static_cast<int>(sizeof(A)) + 128;
  }
};

/// A matrix of `rows` rows cut into panels of Width columns; each panel is contiguous, row by row.
/// One format serves as every operand of a product: left, left transposed, right and result, always
/// with strides that are known to the compiler. Columns past the last are zero up to a whole panel.
template <class A, int Width>
struct Tile {
  A* data;
  int rows;
  KOKKOS_FORCEINLINE_FUNCTION A* panel(int p) const { return data + p * rows * Width; }
};

/// What a product does with what the result tile held.
enum class Store { overwrite, accumulate, rescale };

/// Terms [begin, end) of the sum that makes a register block.
struct Depth {
  int begin;
  int end;
};

/// Register block of k_rows rows from `row` and one panel of columns:
/// C(i,:) = sum_l A(i,l) B(l,:) (TransposeA: A(l,i)), l ascending in `depth`; accumulate adds to C,
/// rescale adds to factor(i) * C(i,:). Without TransposeA depth.begin must be 0.
template <class Tuning, bool TransposeA, Store Mode, class A>
KOKKOS_FORCEINLINE_FUNCTION void multiply_block(Tile<A, Tuning::k_width> const& a,
                                                Tile<A, Tuning::k_width> const& b,
                                                Tile<A, Tuning::k_width> const& c, int row,
                                                int panel, Depth depth, A const* factor) {
  constexpr int k_width = Tuning::k_width;
  constexpr int k_rows = Tuning::k_rows;
  using Lanes = typename Tuning::Lanes;
  A* const to = c.panel(panel) + row * k_width;
  Lanes sum[k_rows];
  for (int i = 0; i < k_rows; ++i) {
    if constexpr (Mode == Store::overwrite) {
      sum[i].fill(A(0));
    } else {
      sum[i].load(to + i * k_width);
      if constexpr (Mode == Store::rescale) sum[i].scale(factor[row + i]);
    }
  }
  A const* right = b.panel(panel) + depth.begin * k_width;
  if constexpr (TransposeA) {
    A const* left = a.panel(row / k_width) + depth.begin * k_width + row % k_width;
    for (int l = depth.begin; l < depth.end; ++l, left += k_width, right += k_width) {
      Lanes column;
      column.load(right);
      for (int i = 0; i < k_rows; ++i) sum[i].multiply_add(left[i], column);
    }
  } else {
    A const* left = a.data + row * k_width;
    int rest = depth.end;
    for (; rest >= k_width; rest -= k_width, left += a.rows * k_width) {
      for (int l = 0; l < k_width; ++l, right += k_width) {
        Lanes column;
        column.load(right);
        for (int i = 0; i < k_rows; ++i) sum[i].multiply_add(left[i * k_width + l], column);
      }
    }
    for (int l = 0; l < rest; ++l, right += k_width) {
      Lanes column;
      column.load(right);
      for (int i = 0; i < k_rows; ++i) sum[i].multiply_add(left[i * k_width + l], column);
    }
  }
  for (int i = 0; i < k_rows; ++i) sum[i].store(to + i * k_width);
}

/// Product of tiles by a team: rows [0, rows) and panels [0, panels) of C, the register block at
/// (row, panel) summed over depth(row, panel); a block whose range is empty is left as it is.
template <class Tuning, bool TransposeA, Store Mode, class Team, class A, class DepthOf>
KOKKOS_INLINE_FUNCTION void multiply_tiles(Team const& team, int rows, int panels,
                                           Tile<A, Tuning::k_width> const& a,
                                           Tile<A, Tuning::k_width> const& b,
                                           Tile<A, Tuning::k_width> const& c,
                                           DepthOf const& depth_of, A const* factor = nullptr) {
  const int blocks = (rows + Tuning::k_rows - 1) / Tuning::k_rows;
  Kokkos::parallel_for(Kokkos::TeamThreadRange(team, blocks * panels), [&](int i) {
    const int panel = i / blocks;
    const int row = i % blocks * Tuning::k_rows;
    const Depth depth = depth_of(row, panel);
    if (depth.begin < depth.end)
      multiply_block<Tuning, TransposeA, Mode>(a, b, c, row, panel, depth, factor);
  });
}

/// Copies rows [0, count) of `columns` values, `stride` apart, into a tile; rows up to
/// `padded_count` and columns up to a whole panel become zero.
template <class Tuning, class Team, class T, class A>
KOKKOS_INLINE_FUNCTION void load_rows(Team const& team, T const* from, index_t stride, int count,
                                      int padded_count, int columns,
                                      Tile<A, Tuning::k_width> const& to) {
  constexpr int k_width = Tuning::k_width;
  Kokkos::parallel_for(Kokkos::TeamThreadRange(team, padded_count), [&](int row) {
    T const* source = from + row * stride;
    A* target = to.data + row * k_width;
    for (int left = columns; left > 0; left -= k_width) {
      if (row < count && left >= k_width) {
        if constexpr (std::is_same_v<T, A>) {
          typename Tuning::Lanes lanes;
          lanes.load(source);
          lanes.store(target);
        } else {
          for (int j = 0; j < k_width; ++j) target[j] = static_cast<A>(source[j]);
        }
      } else {
        for (int j = 0; j < k_width; ++j)
          target[j] = row < count && j < left ? static_cast<A>(source[j]) : A(0);
      }
      source += k_width;
      target += to.rows * k_width;
    }
  });
}

/// Copies rows [0, count) of `columns` values, `stride` apart and times `scale`, into the columns
/// of a tile; columns up to `padded_count`, a multiple of the panel width, become zero. Works in
/// square blocks, so that the reads of many rows are under way at once and the writes are
/// contiguous.
template <class Tuning, class Team, class T, class A>
KOKKOS_INLINE_FUNCTION void load_transposed(Team const& team, T const* from, index_t stride,
                                            int count, int padded_count, int columns, A scale,
                                            Tile<A, Tuning::k_width> const& to) {
  constexpr int k_width = Tuning::k_width;
  const int blocks = (columns + k_width - 1) / k_width;
  Kokkos::parallel_for(Kokkos::TeamThreadRange(team, padded_count / k_width * blocks), [&](int i) {
    const int panel = i / blocks;
    const int column = i % blocks * k_width;
    const int rows = count - panel * k_width;
    const int filled = columns - column < k_width ? columns - column : k_width;
    T const* const source = from + panel * k_width * stride + column;
    A block[k_width * k_width];
    for (int r = 0; r < k_width; ++r) {
      A* const row = block + r * k_width;
      if (r < rows && filled == k_width) {
        for (int d = 0; d < k_width; ++d) row[d] = scale * static_cast<A>(source[r * stride + d]);
      } else {
        for (int d = 0; d < k_width; ++d)
          row[d] = r < rows && d < filled ? scale * static_cast<A>(source[r * stride + d]) : A(0);
      }
    }
    A* const target = to.panel(panel) + column * k_width;
    for (int d = 0; d < filled; ++d)
      for (int r = 0; r < k_width; ++r) target[d * k_width + r] = block[r * k_width + d];
  });
}

}  // namespace sdp::kernels::Details
