// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <KokkosBlas3_gemm.hpp>

#include "kernels/core/compat.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

namespace sdp::kernels {

/// Whether gemm reads a matrix as it lies or transposed.
enum class Transpose : char { no = 'N', yes = 'T' };

namespace Details {

/// The call of the BLAS: KokkosBlas reaches the CPU BLAS, cuBLAS or rocBLAS that Kokkos Kernels was
/// built with. C = alpha * op(A) * op(B) + beta * C with extents that fit and K > 0.
template <class Exec, class T, class A, class B, class C>
void blas_gemm([[maybe_unused]] Exec const& exec, Transpose transpose_a, Transpose transpose_b,
               T alpha, A const& a, B const& b, T beta, C const& c) {
  char const mode_a[] = {static_cast<char>(transpose_a), '\0'};
  char const mode_b[] = {static_cast<char>(transpose_b), '\0'};
  if constexpr (k_blas_takes_space)
    KokkosBlas::gemm(exec, mode_a, mode_b, alpha, a, b, beta, c);
  else
    KokkosBlas::gemm(mode_a, mode_b, alpha, a, b, beta, c);
}

/// Whether Kokkos Kernels multiplies such matrices as gemm promises. As a product with a vector it
/// reads and writes matrices of one column whose rows must then be one element apart; and on a
/// device it adds the parts of long sums up by atomics where C has fewer than 100 elements.
template <class Exec, class B, class C>
bool blas_gemm_holds(Transpose transpose_a, Transpose transpose_b, B const& b, C const& c) {
  if (transpose_b == Transpose::yes) return true;
  if (transpose_a == Transpose::yes) return k_is_host<Exec> || c.extent(0) * c.extent(1) >= 100;
  return c.extent(1) != 1 || (b.stride(0) == 1 && c.stride(0) == 1);
}

}  // namespace Details

}  // namespace sdp::kernels
