// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/blas/blas_gemm.hpp"
#include "kernels/blas/cublas_lt_gemm.hpp"
#include "kernels/blas/narrow_gemm.hpp"
#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"

namespace sdp::kernels {

/// C = alpha * op(A) * op(B) + beta * C, op(A) (M,K), op(B) (K,N), C (M,N), all LayoutRight.
///
/// The one seam to a BLAS. A, B and C are all float or all double; or A and B are bf16 and C is
/// bf16 or float, with sums in float and one rounding at the end: weight gradients of bf16
/// activations are summed in float over any number of calls. With beta = 0 C is overwritten
/// whatever it held (NaN included). C may not alias A or B. An empty product (K = 0) scales C.
/// Throws ShapeError when the extents do not fit.
template <ExecutionSpace Exec, ViewOfRank<2> A, ViewOfRank<2> B, ViewOfRank<2> C>
void gemm(Exec const& exec, Transpose transpose_a, Transpose transpose_b, double alpha, A const& a,
          B const& b, double beta, C const& c) {
  using T = value_t<C>;
  using Accum = accum_t<T>;
  static_assert(std::is_same_v<value_t<A>, value_t<B>>,
                "gemm: A and B must have the same value type");
  static_assert(std::is_same_v<value_t<A>, T> || std::is_same_v<accum_t<value_t<A>>, T>,
                "gemm: C must have the value type of A and B or that of their sums");
  static_assert(std::is_floating_point_v<Accum>, "gemm: value type must be float, double or bf16");
  constexpr char const* k_name = "sdp::kernels::gemm";
  const bool ta = transpose_a == Transpose::yes;
  const bool tb = transpose_b == Transpose::yes;
  const auto m = static_cast<index_t>(a.extent(ta ? 1 : 0));
  const auto k = static_cast<index_t>(a.extent(ta ? 0 : 1));
  require_extent(k_name, "B", b, tb ? 1 : 0, k);
  require_extent(k_name, "C", c, 0, m);
  require_extent(k_name, "C", c, 1, static_cast<index_t>(b.extent(tb ? 0 : 1)));
  if (c.extent(0) == 0 || c.extent(1) == 0) return;
  if (k == 0) {
    // BLAS libraries disagree on whether an empty product touches C.
    const Accum factor = static_cast<Accum>(beta);
    const auto cols = static_cast<index_t>(c.extent(1));
    Kokkos::parallel_for(
        "sdp::kernels::gemm_empty_product",
        Kokkos::RangePolicy<Exec, Kokkos::IndexType<index_t>>(exec, 0, m * cols),
        KOKKOS_LAMBDA(index_t i) {
          auto& value = c(i / cols, i % cols);
          value =
              static_cast<T>(factor == Accum(0) ? Accum(0) : factor * static_cast<Accum>(value));
        });
    return;
  }
  const auto scale = static_cast<Accum>(alpha), keep = static_cast<Accum>(beta);
  if constexpr (Details::k_has_cublas_lt<Exec>) {
    if (!Details::cublas_lt_gemm(exec, transpose_a, transpose_b, scale, a, b, keep, c))
      Details::plain_gemm(exec, transpose_a, transpose_b, scale, a, b, keep, c);
  } else if constexpr (std::is_same_v<value_t<A>, Accum>) {
    if (Details::blas_gemm_holds<Exec>(transpose_a, transpose_b, b, c))
      Details::blas_gemm(exec, transpose_a, transpose_b, scale, a, b, keep, c);
    else
      Details::plain_gemm(exec, transpose_a, transpose_b, scale, a, b, keep, c);
  } else if constexpr (k_is_host<Exec>) {
    Details::panel_gemm(exec, transpose_a, transpose_b, scale, a, b, keep, c);
  } else {
    Details::plain_gemm(exec, transpose_a, transpose_b, scale, a, b, keep, c);
  }
}

}  // namespace sdp::kernels
