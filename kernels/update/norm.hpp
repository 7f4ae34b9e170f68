// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cfloat>
#include <cmath>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"

// The global gradient norm, in an order that depends on nothing but the logical tensors: one sum
// per logical row, then a binary tree over the rows by index. Which worker holds a row, and in
// which buffer, does not show in the bits. All in double; all scalars stay on the device.

namespace sdp::kernels {

/// A row of a logical tensor in a flat buffer, and the place of its sum among the partial sums.
struct RowSpan {
  index_t offset;
  index_t count;
  index_t slot;
};

/// partials[row.slot] = sum of x[row.offset + i]^2 over i in [0, row.count).
///
/// rows (R): View of RowSpan inside x, slots distinct; x (n) of any storage type; partials double,
/// overwritten at the slots, other elements untouched. The order inside a row depends on its length
/// alone.
template <ExecutionSpace Exec, RowMajor<1> Rows, RowMajor<1> X, RowMajor<1> Partials>
void sum_squares(Exec const& exec, Rows const& rows, X const& x, Partials const& partials) {
  static_assert(std::is_same_v<value_t<Rows>, RowSpan>, "sum_squares: rows must be of RowSpan");
  static_assert(std::is_same_v<value_t<Partials>, double>, "sum_squares: partials must be double");
  if (rows.extent(0) == 0) return;
  Kokkos::parallel_for(
      "sdp::kernels::sum_squares", row_policy(exec, static_cast<index_t>(rows.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const RowSpan row = rows(team.league_rank());
        auto const* values = x.data() + row.offset;
        constexpr int k_count = k_group<Exec, value_t<X>>;
        const double sum =
            group_sum<double, k_count>(team, row.count, [=](index_t begin, auto count) {
              const auto group = load_group<double>(values + begin, count);
              double squares = group[0] * group[0];
              for (int j = 1; j < count; ++j) squares += group[j] * group[j];
              return squares;
            });
        if (team.team_rank() == 0) partials(row.slot) = sum;
      });
}

/// result = sum of the values by a binary tree over their indices: at stride s = 1, 2, 4, ...
/// element i (a multiple of 2s) takes element i + s, absent elements being left out.
///
/// values (n) double, destroyed; result a rank-0 View of double, overwritten (0 when n = 0). The
/// order depends on n alone, on every backend.
template <ExecutionSpace Exec, RowMajor<1> Values, ViewOfRank<0> Result>
void tree_sum(Exec const& exec, Values const& values, Result const& result) {
  static_assert(std::is_same_v<value_t<Values>, double>, "tree_sum: values must be double");
  constexpr index_t k_leaves = 1024;  // levels of one launch: 10
  const auto count = static_cast<index_t>(values.extent(0));
  for (index_t stride = 1; stride < count; stride *= k_leaves) {
    const index_t span = stride * k_leaves;
    Kokkos::parallel_for(
        "sdp::kernels::tree_sum", row_policy(exec, (count + span - 1) / span),
        KOKKOS_LAMBDA(RowMember<Exec> const& team) {
          const index_t base = team.league_rank() * span;
          const index_t size = base + span < count ? span : count - base;
          auto* leaves = values.data() + base;
          for (index_t step = stride; step < size; step *= 2) {
            row_for(team, (size - step + 2 * step - 1) / (2 * step),
                    [=](index_t i) { leaves[2 * step * i] += leaves[2 * step * i + step]; });
            team.team_barrier();
          }
        });
  }
  Kokkos::parallel_for(
      "sdp::kernels::tree_sum_result", element_policy(exec, 1),
      KOKKOS_LAMBDA(index_t) { result() = count > 0 ? values(0) : 0.0; });
}

/// From the sum of squares of a gradient to what an optimizer step needs:
///   norm = sqrt(sum_of_squares)
///   factor = min(1, max_norm / (norm + 1e-6)), or 1 when max_norm = 0 (no clipping)
///   skip = 1 when the norm is not finite (factor is then 0), else 0
///
/// All rank-0 Views (double, double, double, int) on the device; the last three are overwritten.
template <ExecutionSpace Exec, ViewOfRank<0> Sum, ViewOfRank<0> Norm, ViewOfRank<0> Factor,
          ViewOfRank<0> Skip>
void clip_factor(Exec const& exec, Sum const& sum_of_squares, double max_norm, Norm const& norm,
                 Factor const& factor, Skip const& skip) {
  Kokkos::parallel_for(
      "sdp::kernels::clip_factor", element_policy(exec, 1), KOKKOS_LAMBDA(index_t) {
        const double root = std::sqrt(static_cast<double>(sum_of_squares()));
        const bool finite = root <= DBL_MAX;
        const double ratio = max_norm / (root + 1e-6);
        norm() = root;
        factor() = !finite ? 0.0 : (max_norm > 0.0 && ratio < 1.0 ? ratio : 1.0);
        skip() = finite ? 0 : 1;
      });
}

}  // namespace sdp::kernels
