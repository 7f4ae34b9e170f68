// SPDX-License-Identifier: Apache-2.0
#include "kernels/blas/gemm.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

namespace sdp::kernels {
namespace {

template <class T>
using Matrix = Kokkos::View<T**, Kokkos::LayoutRight>;

double entry(index_t i, index_t j, int salt) {
  return static_cast<double>((i * 7 + j * 13 + salt * 5) % 17) / 8.0 - 1.0;
}

/// A matrix and the window of it, `margin` away from every side, that holds the entries. What lies
/// around the window is NaN: a product that reads it shows, and one that writes it.
template <class T>
struct Placed {
  Matrix<T> whole, window;
};

template <class T>
Placed<T> placed(index_t rows, index_t cols, int salt, index_t margin, double factor = 1.0) {
  Placed<T> matrix;
  matrix.whole = Matrix<T>("matrix", rows + 2 * margin, cols + 2 * margin);
  auto host = Kokkos::create_mirror_view(matrix.whole);
  Kokkos::deep_copy(host, static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j)
      host(margin + i, margin + j) = static_cast<T>(factor * entry(i, j, salt));
  Kokkos::deep_copy(matrix.whole, host);
  using Range = std::pair<index_t, index_t>;
  matrix.window =
      Kokkos::subview(matrix.whole, Range(margin, margin + rows), Range(margin, margin + cols));
  return matrix;
}

/// C = alpha * op(A) * op(B) + beta * C against sums in double. Products of bf16 matrices are
/// rounded once to C, with sums that a bf16 accumulator would lose.
template <class T, class C, class Multiply>
void check(index_t m, index_t n, index_t k, bool ta, bool tb, double alpha, double beta,
           index_t margin, Multiply const& multiply) {
  auto a = ta ? placed<T>(k, m, 1, margin) : placed<T>(m, k, 1, margin);
  auto b = tb ? placed<T>(n, k, 2, margin) : placed<T>(k, n, 2, margin);
  auto c = placed<C>(m, n, 3, margin);
  if (beta == 0.0)
    Kokkos::deep_copy(c.whole, static_cast<C>(std::numeric_limits<float>::quiet_NaN()));
  Kokkos::DefaultExecutionSpace exec;
  multiply(exec, ta ? Transpose::yes : Transpose::no, tb ? Transpose::yes : Transpose::no, alpha,
           a.window, b.window, beta, c.window);
  exec.fence();
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), c.whole);
  for (index_t row = 0; row < m + 2 * margin; ++row)
    for (index_t col = 0; col < n + 2 * margin; ++col) {
      const index_t i = row - margin, j = col - margin;
      const auto found = static_cast<double>(host(row, col));
      if (i < 0 || i >= m || j < 0 || j >= n) {
        ASSERT_TRUE(std::isnan(found)) << "written outside C at " << i << "," << j;
        continue;
      }
      double sum = 0, size = 1;
      for (index_t l = 0; l < k; ++l) {
        const double term =
            (ta ? entry(l, i, 1) : entry(i, l, 1)) * (tb ? entry(j, l, 2) : entry(l, j, 2));
        sum += term;
        size += std::abs(term);
      }
      const double expected = alpha * sum + (beta == 0.0 ? 0.0 : beta * entry(i, j, 3));
      // 2^-8 of the value where C is bf16; of the sums a small multiple of their size.
      const double tolerance =
          (std::is_same_v<C, bf16> ? 0x1.01p-8 * std::abs(expected) : 0.0) +
          4.0 * std::numeric_limits<accum_t<C>>::epsilon() * std::abs(alpha) * size;
      ASSERT_NEAR(found, expected, tolerance)
          << m << "x" << n << "x" << k << (ta ? " A^T" : "") << (tb ? " B^T" : "") << " beta "
          << beta << " margin " << margin;
    }
}

/// Odd and even sizes, rows that start on multiples of 16 bytes and rows that do not, long sums of
/// small products, and matrices of one row or column inside wider ones.
template <class T, class C, class Multiply>
void check_all(Multiply const& multiply) {
  const index_t sizes[][3] = {{1, 1, 1},     {3, 5, 7},     {17, 33, 65},
                              {64, 1, 128},  {64, 128, 32}, {129, 5, 530},
                              {2, 300, 257}, {1, 31, 2},    {8, 16, 1500}};
  for (auto const& size : sizes)
    for (bool ta : {false, true})
      for (bool tb : {false, true})
        for (double beta : {0.0, 1.0, -0.5})
          for (index_t margin : {0, 3, 8})
            check<T, C>(size[0], size[1], size[2], ta, tb, 1.5, beta, margin, multiply);
}

constexpr auto k_gemm = [](auto const&... arguments) { gemm(arguments...); };
constexpr auto k_plain = [](auto const& exec, Transpose ta, Transpose tb, double alpha,
                            auto const& a, auto const& b, double beta, auto const& c) {
  using Accum = accum_t<value_t<std::decay_t<decltype(c)>>>;
  Details::plain_gemm(exec, ta, tb, static_cast<Accum>(alpha), a, b, static_cast<Accum>(beta), c);
};

TEST(Gemm, MatchesScalarReferenceInFloat) {
  check_all<float, float>(k_gemm);
}
TEST(Gemm, MatchesScalarReferenceInDouble) {
  check_all<double, double>(k_gemm);
}
TEST(Gemm, SumsBf16InFloat) {
  check_all<bf16, float>(k_gemm);
  check_all<bf16, bf16>(k_gemm);
}
TEST(Gemm, SumsWithoutALibrary) {
  check_all<double, double>(k_plain);
  check_all<bf16, float>(k_plain);
  check_all<bf16, bf16>(k_plain);
}

/// Two calls for the same values at other addresses, in sums that are rounded.
template <class T, class C>
void check_same_bits(index_t m, index_t n, index_t k, bool ta, bool tb) {
  std::vector<C> first;
  for (int call = 0; call < 2; ++call) {
    auto a = ta ? placed<T>(k, m, 1, 0, 0.37) : placed<T>(m, k, 1, 0, 0.37);
    auto b = tb ? placed<T>(n, k, 2, 0, 0.71) : placed<T>(k, n, 2, 0, 0.71);
    auto c = placed<C>(m, n, 3, 0, 0.13);
    Kokkos::DefaultExecutionSpace exec;
    gemm(exec, ta ? Transpose::yes : Transpose::no, tb ? Transpose::yes : Transpose::no, 1.0,
         a.window, b.window, 1.0, c.window);
    exec.fence();
    auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), c.whole);
    if (call == 0)
      first.assign(host.data(), host.data() + m * n);
    else
      ASSERT_EQ(std::memcmp(first.data(), host.data(), first.size() * sizeof(C)), 0)
          << m << "x" << n << "x" << k << (ta ? " A^T" : "") << (tb ? " B^T" : "");
  }
}

TEST(Gemm, GivesTheSameBitsTwice) {
  const index_t sizes[][3] = {{9, 9, 20000}, {64, 64, 8192}, {130, 70, 515}, {256, 512, 64}};
  for (auto const& size : sizes)
    for (bool ta : {false, true})
      for (bool tb : {false, true}) {
        check_same_bits<float, float>(size[0], size[1], size[2], ta, tb);
        check_same_bits<double, double>(size[0], size[1], size[2], ta, tb);
        check_same_bits<bf16, float>(size[0], size[1], size[2], ta, tb);
        check_same_bits<bf16, bf16>(size[0], size[1], size[2], ta, tb);
      }
}

TEST(Gemm, AddsManyBf16ProductsUpInFloat) {
  // 600 times 1 in a sum that starts at 1024: a bf16 sum would stay there.
  Matrix<bf16> ones("ones", 600, 1), one("one", 1, 1);
  Kokkos::deep_copy(ones, bf16(1.0f));
  Kokkos::deep_copy(one, bf16(1.0f));
  Matrix<float> c("c", 1, 1);
  Kokkos::deep_copy(c, 1024.0f);
  Kokkos::DefaultExecutionSpace exec;
  for (int i = 0; i < 600; ++i) gemm(exec, Transpose::no, Transpose::no, 1.0, one, one, 1.0, c);
  gemm(exec, Transpose::yes, Transpose::no, 1.0, ones, ones, 1.0, c);
  exec.fence();
  float result = 0;
  Kokkos::deep_copy(result, Kokkos::subview(c, 0, 0));
  EXPECT_EQ(result, 2224.0f);
}

TEST(Gemm, EmptyProductScales) {
  check<float, float>(3, 4, 0, false, false, 1.0, 0.5, 0, k_gemm);
  check<bf16, bf16>(3, 4, 0, false, false, 1.0, 0.5, 3, k_gemm);
}
TEST(Gemm, EmptyResultIsLegal) {
  check<float, float>(0, 4, 3, false, true, 1.0, 0.0, 0, k_gemm);
}

TEST(Gemm, NamesBothShapesWhenTheyDoNotFit) {
  Matrix<float> a("a", 2, 3), b("b", 4, 5), c("c", 2, 5);
  Kokkos::DefaultExecutionSpace exec;
  try {
    gemm(exec, Transpose::no, Transpose::no, 1.0, a, b, 0.0, c);
    FAIL() << "no exception";
  } catch (ShapeError const& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("B (4,5) must have extent 3"));
  }
}

}  // namespace
}  // namespace sdp::kernels
