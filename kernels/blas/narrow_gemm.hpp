// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/blas/blas_gemm.hpp"
#include "kernels/core/team.hpp"

// Products beside the BLAS, of bf16 matrices with sums in float above all: C = alpha * op(A) *
// op(B) + beta * C, all LayoutRight, extents that fit and K > 0. C is rounded once and, with
// beta = 0, never read.

namespace sdp::kernels::Details {

/// to (R,C) = the elements of `from` from (row, col) on; to is contiguous.
template <class Exec, class From, class To>
void widen_panel(Exec const& exec, From const& from, index_t row, index_t col, To const& to) {
  const auto cols = static_cast<index_t>(to.extent(1));
  Kokkos::parallel_for(
      "sdp::kernels::gemm_panel", element_policy(exec, static_cast<index_t>(to.extent(0))),
      KOKKOS_LAMBDA(index_t i) {
        auto const* x = &from(row + i, col);
        float* y = to.data() + i * cols;
        for (index_t j = 0; j < cols; ++j) y[j] = static_cast<float>(x[j]);
      });
}

/// For host backends: tiles of C are summed over panels of A and B that are widened to float on the
/// stack and given to the BLAS for float. The order of a sum is that of the BLAS inside panels of
/// k_depth terms, panel by panel.
template <ExecutionSpace Exec, class A, class B, class C>
void panel_gemm(Exec const& exec, Transpose transpose_a, Transpose transpose_b, float alpha,
                A const& a, B const& b, float beta, C const& c) {
  constexpr index_t k_rows = 128, k_cols = 256, k_depth = 256;
  using T = value_t<C>;
  using Panel = Kokkos::View<float**, Kokkos::LayoutRight, typename Exec::memory_space,
                             Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  float a_memory[k_rows * k_depth], b_memory[k_depth * k_cols], c_memory[k_rows * k_cols];
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  const auto m = static_cast<index_t>(c.extent(0)), n = static_cast<index_t>(c.extent(1));
  const auto k = static_cast<index_t>(a.extent(ta ? 0 : 1));
  const auto rest = [](index_t whole, index_t begin, index_t most) {
    return whole - begin < most ? whole - begin : most;
  };
  for (index_t row = 0; row < m; row += k_rows)
    for (index_t col = 0; col < n; col += k_cols) {
      const index_t rows = rest(m, row, k_rows), cols = rest(n, col, k_cols);
      const Panel tile(c_memory, rows, cols);
      for (index_t at = 0; at < k; at += k_depth) {
        const index_t depth = rest(k, at, k_depth);
        const Panel left(a_memory, ta ? depth : rows, ta ? rows : depth);
        const Panel right(b_memory, tb ? cols : depth, tb ? depth : cols);
        widen_panel(exec, a, ta ? at : row, ta ? row : at, left);
        widen_panel(exec, b, tb ? col : at, tb ? at : col, right);
        blas_gemm(exec, transpose_a, transpose_b, 1.0f, left, right, at > 0 ? 1.0f : 0.0f, tile);
      }
      Kokkos::parallel_for(
          "sdp::kernels::gemm_panel_store", element_policy(exec, rows), KOKKOS_LAMBDA(index_t i) {
            float const* sum = tile.data() + i * cols;
            T* to = &c(row + i, col);
            if (beta == 0.0f)
              for (index_t j = 0; j < cols; ++j) to[j] = static_cast<T>(alpha * sum[j]);
            else
              for (index_t j = 0; j < cols; ++j)
                to[j] = static_cast<T>(alpha * sum[j] + beta * static_cast<float>(to[j]));
          });
    }
}

/// For any backend and any type, one work item an element of C and its terms in order: what is
/// there where no library multiplies.
template <ExecutionSpace Exec, class A, class B, class C>
void plain_gemm(Exec const& exec, Transpose transpose_a, Transpose transpose_b,
                accum_t<value_t<C>> alpha, A const& a, B const& b, accum_t<value_t<C>> beta,
                C const& c) {
  using T = value_t<C>;
  using Accum = accum_t<T>;
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  const auto cols = static_cast<index_t>(c.extent(1));
  const auto k = static_cast<index_t>(a.extent(ta ? 0 : 1));
  Kokkos::parallel_for(
      "sdp::kernels::gemm_plain", element_policy(exec, static_cast<index_t>(c.extent(0)) * cols),
      KOKKOS_LAMBDA(index_t element) {
        const index_t i = element / cols, j = element % cols;
        Accum sum = 0;
        for (index_t l = 0; l < k; ++l)
          sum += static_cast<Accum>(ta ? a(l, i) : a(i, l)) *
                 static_cast<Accum>(tb ? b(j, l) : b(l, j));
        const Accum product = alpha * sum;
        c(i, j) = static_cast<T>(beta == Accum(0) ? product
                                                  : product + beta * static_cast<Accum>(c(i, j)));
      });
}

}  // namespace sdp::kernels::Details
