// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>

// The bilinear algorithms F(M,3) of Winograd (Arithmetic Complexity of Computations, 1980) for M
// outputs of a correlation with three taps, in Toom and Cook's form: polynomials are evaluated at
// M + 1 points and infinity, multiplied there, and interpolated. In two dimensions each is applied
// to columns and rows (Lavin and Gray, arXiv 1509.09308).
//
//   y = output(filter(g) * input(d)),   d of size M + 2, g of 3, y of M
//
// Adjoints give gradients: those with respect to g are filter_adjoint(input(d) *
// output_adjoint(y)). V is a number or a vector of them.

namespace sdp::kernels::Details {

template <int M>
struct Winograd;

/// Points 0, 1, -1, infinity: 2.25 times fewer multiplications in two dimensions, rounding errors
/// as those of the direct sum.
template <>
struct Winograd<2> {
  static constexpr int k_tile = 4;

  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void input(V const (&d)[4], V (&v)[4]) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void output(V const (&m)[4], V (&y)[2]) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] + m[3];
  }
  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void output_adjoint(V const (&y)[2], V (&m)[4]) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = y[1];
  }
  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void filter(V const (&g)[3], V (&u)[4]) {
    const V even = A(0.5) * (g[0] + g[2]);
    const V odd = A(0.5) * g[1];
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
  }
  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void filter_adjoint(V const (&u)[4], V (&g)[3]) {
    const V even = A(0.5) * (u[1] + u[2]);
    g[0] = u[0] + even;
    g[1] = A(0.5) * (u[1] - u[2]);
    g[2] = even + u[3];
  }
};

/// Points 0, 5/8, -5/8, 3/2, -3/2, infinity: 4 times fewer multiplications in two dimensions,
/// rounding errors about four times those of the direct sum; half of what the usual points 0, 1,
/// -1, 2, -2 give.
template <>
struct Winograd<4> {
  static constexpr int k_tile = 6;
  static constexpr double k_a = 0.625, k_b = 1.5;
  static constexpr double k_aa = k_a * k_a, k_bb = k_b * k_b;

  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void input(V const (&d)[6], V (&v)[6]) {
    const V even_a = d[4] - A(k_bb) * d[2];
    const V odd_a = A(k_a) * (d[3] - A(k_bb) * d[1]);
    const V even_b = d[4] - A(k_aa) * d[2];
    const V odd_b = A(k_b) * (d[3] - A(k_aa) * d[1]);
    v[0] = A(k_aa * k_bb) * d[0] - A(k_aa + k_bb) * d[2] + d[4];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = A(k_aa * k_bb) * d[1] - A(k_aa + k_bb) * d[3] + d[5];
  }
  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void output(V const (&m)[6], V (&y)[4]) {
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2];
    const V even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = A(k_a) * odd_a + A(k_b) * odd_b;
    y[2] = A(k_aa) * even_a + A(k_bb) * even_b;
    y[3] = A(k_aa * k_a) * odd_a + A(k_bb * k_b) * odd_b + m[5];
  }
  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void output_adjoint(V const (&y)[4], V (&m)[6]) {
    const V even_a = y[0] + A(k_aa) * y[2], odd_a = A(k_a) * y[1] + A(k_aa * k_a) * y[3];
    const V even_b = y[0] + A(k_bb) * y[2], odd_b = A(k_b) * y[1] + A(k_bb * k_b) * y[3];
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
  }
  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void filter(V const (&g)[3], V (&u)[6]) {
    const V even_a = A(k_scale_a) * (g[0] + A(k_aa) * g[2]), odd_a = A(k_scale_a * k_a) * g[1];
    const V even_b = A(k_scale_b) * (g[0] + A(k_bb) * g[2]), odd_b = A(k_scale_b * k_b) * g[1];
    u[0] = A(k_scale_0) * g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
  }
  template <class A, class V>
  KOKKOS_FORCEINLINE_FUNCTION static void filter_adjoint(V const (&u)[6], V (&g)[3]) {
    const V even_a = A(k_scale_a) * (u[1] + u[2]), even_b = A(k_scale_b) * (u[3] + u[4]);
    g[0] = A(k_scale_0) * u[0] + even_a + even_b;
    g[1] = A(k_scale_a * k_a) * (u[1] - u[2]) + A(k_scale_b * k_b) * (u[3] - u[4]);
    g[2] = A(k_aa) * even_a + A(k_bb) * even_b + u[5];
  }

 private:
  // Lagrange's denominators.
  static constexpr double k_scale_0 = 1.0 / (k_aa * k_bb);
  static constexpr double k_scale_a = 1.0 / (2.0 * k_aa * (k_aa - k_bb));
  static constexpr double k_scale_b = 1.0 / (2.0 * k_bb * (k_bb - k_aa));
};

}  // namespace sdp::kernels::Details
