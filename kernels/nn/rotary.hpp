// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"

// Legend: B batch, T positions, N heads stored in the tensor, h head dimension (even).

namespace sdp::kernels {

/// Angles of the rotary position embedding: cos(t,j) = cos(t * w_j), sin(t,j) = sin(t * w_j) with
/// w_j = theta^(-2j/h), j in [0, h/2).
///
/// cos, sin (T,h/2), overwritten; row t is position t. Computed in double whatever the value type,
/// rounded once. Set-up work: one power and two trigonometric functions an entry.
/// Throws ShapeError when the two tables differ in shape. Source: Su et al., arXiv 2104.09864.
template <ExecutionSpace Exec, ViewOfRank<2> Table>
void rotary_tables(Exec const& exec, double theta, Table const& cos, Table const& sin) {
  static_assert(std::is_floating_point_v<value_t<Table>>,
                "rotary_tables: tables are stored in the accumulation type");
  require_same_shape("sdp::kernels::rotary_tables", "cos", cos, "sin", sin);
  using A = value_t<Table>;
  const auto positions = static_cast<index_t>(cos.extent(0));
  const auto pairs = static_cast<index_t>(cos.extent(1));
  if (positions == 0 || pairs == 0) return;
  Kokkos::parallel_for(
      "sdp::kernels::rotary_tables",
      Kokkos::RangePolicy<Exec, Kokkos::IndexType<index_t>>(exec, 0, positions * pairs),
      KOKKOS_LAMBDA(index_t i) {
        const index_t t = i / pairs;
        const index_t j = i % pairs;
        const double frequency =
            std::pow(theta, -static_cast<double>(j) / static_cast<double>(pairs));
        const double angle = static_cast<double>(t) * frequency;
        cos(t, j) = static_cast<A>(std::cos(angle));
        sin(t, j) = static_cast<A>(std::sin(angle));
      });
}

namespace Details {

/// Rotates the pairs (j, j+h/2) of the first `num_rotated` heads of x (B,T,N,h) by the angles of
/// the tables, backwards when Direction is -1.
template <int Direction, ExecutionSpace Exec, ViewOfRank<2> Table, ViewOfRank<4> X>
void rotate_heads(Exec const& exec, char const* name, Table const& cos, Table const& sin,
                  X const& x, index_t num_rotated) {
  using T = value_t<X>;
  using A = accum_t<T>;
  static_assert(std::is_same_v<value_t<Table>, A>,
                "rotary: tables must hold the accumulation type of the rotated tensor");
  static_assert(std::is_same_v<typename X::array_layout, Kokkos::LayoutRight> &&
                    std::is_same_v<typename Table::array_layout, Kokkos::LayoutRight>,
                "rotary: Views must be LayoutRight");
  const auto batch = static_cast<index_t>(x.extent(0));
  const auto positions = static_cast<index_t>(x.extent(1));
  const auto pairs = static_cast<index_t>(x.extent(3)) / 2;
  require(x.extent(3) % 2 == 0, name, "head dimension of " + shape_string(x) + " must be even");
  require(0 <= num_rotated && num_rotated <= static_cast<index_t>(x.extent(2)), name,
          std::to_string(num_rotated) + " heads to rotate, but the tensor is " + shape_string(x));
  require_same_shape(name, "cos", cos, "sin", sin);
  require_extent(name, "cos", cos, 1, pairs);
  require(positions <= static_cast<index_t>(cos.extent(0)), name,
          "cos " + shape_string(cos) + " has fewer rows than " + shape_string(x) + " positions");
  if (batch * positions * pairs * num_rotated == 0) return;
  Kokkos::parallel_for(
      name, row_policy(exec, batch * positions, num_rotated * group_count<k_group<Exec, T>>(pairs)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        constexpr int k_count = k_group<Exec, T>;
        const index_t b = team.league_rank() / positions;
        const index_t t = team.league_rank() % positions;
        const index_t length = pairs, heads = num_rotated;
        A const* const cosine = &cos(t, 0);
        A const* const sine = &sin(t, 0);
        T* const all = &x(b, t, 0, 0);
        const auto rotate = [=](index_t head, index_t j, auto count) {
          T* const first = all + head * 2 * length + j;
          auto u = load_group<A>(first, count);
          auto v = load_group<A>(first + length, count);
          const auto c = load_group<A>(cosine + j, count);
          const auto s = load_group<A>(sine + j, count);
          for (int i = 0; i < count; ++i) {
            const A before = u[i], turn = Direction * s[i];
            u[i] = before * c[i] - v[i] * turn;
            v[i] = v[i] * c[i] + before * turn;
          }
          store_group(u, first);
          store_group(v, first + length);
        };
        if constexpr (k_count == 1) {
          for (index_t head = 0; head < heads; ++head)
            row_for(team, length, [=](index_t j) { rotate(head, j, FixedCount<1>()); });
        } else {
          const auto groups = static_cast<int>(group_count<k_count>(length));
          row_for(team, heads * groups, [=](index_t i) {
            const int head = static_cast<int>(i) / groups;
            at_group<k_count>(static_cast<int>(i) % groups, length,
                              [=](index_t j, auto count) { rotate(head, j, count); });
          });
        }
      });
}

}  // namespace Details

/// Rotary embedding in place: for heads n < num_rotated and pairs (j, j+h/2),
/// (x_j, x_{j+h/2}) <- (x_j cos - x_{j+h/2} sin, x_{j+h/2} cos + x_j sin) at the row of position t.
///
/// x (B,T,N,h) is the fused projection: queries, keys, values; num_rotated = number of query and
/// key heads leaves the values as they are. cos, sin (at least T rows, h/2) in the accumulation
/// type of x, from rotary_tables. This is the rotate_half form of the LLaMA checkpoints. Throws
/// ShapeError for an odd h or tables that do not fit.
template <ExecutionSpace Exec, ViewOfRank<2> Table, ViewOfRank<4> X>
void rotary_forward(Exec const& exec, Table const& cos, Table const& sin, X const& x,
                    index_t num_rotated) {
  Details::rotate_heads<1>(exec, "sdp::kernels::rotary_forward", cos, sin, x, num_rotated);
}

/// Gradient of rotary_forward in place: the transposed, that is the inverse, rotation of d_x
/// (B,T,N,h). Arguments and errors as in rotary_forward.
template <ExecutionSpace Exec, ViewOfRank<2> Table, ViewOfRank<4> X>
void rotary_backward(Exec const& exec, Table const& cos, Table const& sin, X const& d_x,
                     index_t num_rotated) {
  Details::rotate_heads<-1>(exec, "sdp::kernels::rotary_backward", cos, sin, d_x, num_rotated);
}

}  // namespace sdp::kernels
