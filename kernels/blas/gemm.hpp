// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <KokkosBlas3_gemm.hpp>

#include "kernels/core/checks.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/core/concepts.hpp"

namespace sdp::kernels {

/// Whether gemm reads a matrix as it lies or transposed.
enum class Transpose : char { no = 'N', yes = 'T' };

/// C = alpha * op(A) * op(B) + beta * C, op(A) (M,K), op(B) (K,N), C (M,N), all LayoutRight.
///
/// The one seam to a BLAS: KokkosBlas reaches the CPU BLAS, cuBLAS or rocBLAS that Kokkos Kernels
/// was built with. With beta = 0 C is overwritten whatever it held (NaN included). C may not alias
/// A or B. An empty product (K = 0) scales C. Throws ShapeError when the extents do not fit.
template <ExecutionSpace Exec, ViewOfRank<2> A, ViewOfRank<2> B, ViewOfRank<2> C>
void gemm([[maybe_unused]] Exec const& exec, Transpose transpose_a, Transpose transpose_b,
          double alpha, A const& a, B const& b, double beta, C const& c) {
  static_assert(std::is_same_v<value_t<A>, value_t<B>> && std::is_same_v<value_t<A>, value_t<C>>,
                "gemm: A, B and C must have the same value type");
  static_assert(std::is_floating_point_v<value_t<C>>, "gemm: value type must be float or double");
  constexpr char const* k_name = "sdp::kernels::gemm";
  const bool ta = transpose_a == Transpose::yes;
  const bool tb = transpose_b == Transpose::yes;
  const auto m = static_cast<index_t>(a.extent(ta ? 1 : 0));
  const auto k = static_cast<index_t>(a.extent(ta ? 0 : 1));
  require_extent(k_name, "B", b, tb ? 1 : 0, k);
  require_extent(k_name, "C", c, 0, m);
  require_extent(k_name, "C", c, 1, static_cast<index_t>(b.extent(tb ? 0 : 1)));
  if (c.extent(0) == 0 || c.extent(1) == 0) return;
  using T = value_t<C>;
  if (k == 0) {
    // BLAS libraries disagree on whether an empty product touches C.
    const T factor = static_cast<T>(beta);
    const auto cols = static_cast<index_t>(c.extent(1));
    Kokkos::parallel_for(
        "sdp::kernels::gemm_empty_product",
        Kokkos::RangePolicy<Exec, Kokkos::IndexType<index_t>>(exec, 0, m * cols),
        KOKKOS_LAMBDA(index_t i) {
          auto& value = c(i / cols, i % cols);
          value = factor == T(0) ? T(0) : factor * value;
        });
    return;
  }
  char const mode_a[] = {static_cast<char>(transpose_a), '\0'};
  char const mode_b[] = {static_cast<char>(transpose_b), '\0'};
  if constexpr (k_blas_takes_space)
    KokkosBlas::gemm(exec, mode_a, mode_b, static_cast<T>(alpha), a, b, static_cast<T>(beta), c);
  else
    KokkosBlas::gemm(mode_a, mode_b, static_cast<T>(alpha), a, b, static_cast<T>(beta), c);
}

}  // namespace sdp::kernels
