// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

namespace sdp::kernels {

/// Columns [from, from + count) of a matrix and where they go in a packed one.
struct ColumnRun {
  index_t from;
  index_t to;
  index_t count;
};

/// packed(i, run.to + j) = x(i, run.from + j) for every row i and every run: the columns of x that
/// a GEMM needs, next to each other.
///
/// runs (R), x (N,C), packed (N,P) overwritten where a run goes. packed may not alias x, and runs
/// lie inside both. Throws ShapeError when the rows differ.
template <ExecutionSpace Exec, RowMajor<1> Runs, RowMajor<2> X, RowMajor<2> Packed>
void pack_columns(Exec const& exec, Runs const& runs, X const& x, Packed const& packed) {
  constexpr char const* k_name = "sdp::kernels::pack_columns";
  static_assert(std::is_same_v<value_t<X>, value_t<Packed>>,
                "pack_columns: x and packed must have the same value type");
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto count_runs = static_cast<index_t>(runs.extent(0));
  require_extent(k_name, "packed", packed, 0, rows);
  if (rows == 0 || count_runs == 0) return;
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int row = team.league_rank();
        auto const* from = &x(row, 0);
        auto* to = &packed(row, 0);
        for (index_t r = 0; r < count_runs; ++r) {
          const ColumnRun run = runs(r);
          auto const* source = from + run.from;
          auto* target = to + run.to;
          row_for(team, run.count, [=](index_t j) { target[j] = source[j]; });
        }
      });
}

}  // namespace sdp::kernels
