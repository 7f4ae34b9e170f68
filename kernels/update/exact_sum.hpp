// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

// Sums of doubles without rounding: every term is split into digits of 32 bits at fixed positions,
// and digits are added as 64-bit integers. Integer addition is associative, so the result is the
// same for any order, any division among workers and any all-reduce (Kulisch's long accumulator).

namespace sdp::kernels {

/// Digit i of an accumulator has weight 2^(32 i - 1074); together they span every double.
inline constexpr int k_exact_digits = 67;
/// Elements of an accumulator: the digits, and the number of terms that were not finite.
inline constexpr int k_exact_size = k_exact_digits + 1;

namespace Details {

/// A finite double that is not negative, as three digits from `first` on.
struct ExactTerm {
  int first;
  std::int64_t digit[3];

  KOKKOS_INLINE_FUNCTION explicit ExactTerm(double value) {
    std::uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    const int exponent = static_cast<int>(bits >> 52);
    const std::uint64_t fraction = bits & ((std::uint64_t{1} << 52) - 1);
    const std::uint64_t mantissa = exponent > 0 ? fraction | (std::uint64_t{1} << 52) : fraction;
    const int position = exponent > 0 ? exponent - 1 : 0;  // weight of the last bit: 2^(p - 1074)
    const int shift = position % 32;
    constexpr std::uint64_t k_mask = 0xffffffffu;
    const std::uint64_t low = (mantissa & k_mask) << shift;
    const std::uint64_t high = ((mantissa >> 32) << shift) + (low >> 32);
    first = position / 32;
    digit[0] = static_cast<std::int64_t>(low & k_mask);
    digit[1] = static_cast<std::int64_t>(high & k_mask);
    digit[2] = static_cast<std::int64_t>(high >> 32);
  }
};

}  // namespace Details

/// digits += the exact sum of the values.
///
/// values (n) double, none negative; digits (k_exact_size) std::int64_t, accumulated. A value that
/// is not finite is counted in the last element and not added. Exact for up to 2^31 terms in all.
template <ExecutionSpace Exec, RowMajor<1> Values, RowMajor<1> Digits>
void exact_sum(Exec const& exec, Values const& values, Digits const& digits) {
  static_assert(std::is_same_v<value_t<Values>, double>, "exact_sum: values must be double");
  static_assert(std::is_same_v<value_t<Digits>, std::int64_t>,
                "exact_sum: digits must be std::int64_t");
  require(digits.extent(0) == k_exact_size, "sdp::kernels::exact_sum",
          "digits must have k_exact_size elements");
  const double largest = std::numeric_limits<double>::max();
  Kokkos::parallel_for(
      "sdp::kernels::exact_sum", element_policy(exec, static_cast<index_t>(values.extent(0))),
      KOKKOS_LAMBDA(index_t i) {
        const double value = values(i);
        if (!(value <= largest)) {
          Kokkos::atomic_add(&digits(k_exact_digits), std::int64_t{1});
          return;
        }
        const Details::ExactTerm term(value);
        for (int d = 0; d < 3; ++d)
          if (term.digit[d] != 0) Kokkos::atomic_add(&digits(term.first + d), term.digit[d]);
      });
}

/// result = the sum that the digits hold, to the precision of double (the same bits everywhere);
/// infinity where a term was not finite or the sum is too large.
///
/// digits (k_exact_size) std::int64_t, none negative, left alone; result a rank-0 View of double,
/// overwritten.
template <ExecutionSpace Exec, RowMajor<1> Digits, ViewOfRank<0> Result>
void exact_sum_value(Exec const& exec, Digits const& digits, Result const& result) {
  require(digits.extent(0) == k_exact_size, "sdp::kernels::exact_sum_value",
          "digits must have k_exact_size elements");
  const double infinity = std::numeric_limits<double>::infinity();
  Kokkos::parallel_for(
      "sdp::kernels::exact_sum_value", element_policy(exec, 1), KOKKOS_LAMBDA(index_t) {
        constexpr std::int64_t k_mask = 0xffffffff;
        // Carries go upwards; only the three highest digits of the sum reach the result.
        std::int64_t carry = 0, top[3] = {0, 0, 0};  // highest first
        int highest = 0;
        for (int d = 0; d < k_exact_digits + 2; ++d) {
          const std::int64_t sum = (d < k_exact_digits ? digits(d) : 0) + carry;
          carry = sum >> 32;
          const std::int64_t digit = sum & k_mask;
          if (digit == 0) continue;
          // The digits between the last highest one and this one are zero.
          const int gap = d - highest;
          top[2] = gap == 1 ? top[1] : gap == 2 ? top[0] : 0;
          top[1] = gap == 1 ? top[0] : 0;
          top[0] = digit;
          highest = d;
        }
        const double leading = static_cast<double>(top[0]) * 4294967296.0 +
                               static_cast<double>(top[1]) +
                               static_cast<double>(top[2]) / 4294967296.0;
        result() =
            digits(k_exact_digits) != 0 ? infinity : std::ldexp(leading, 32 * (highest - 1) - 1074);
      });
}

}  // namespace sdp::kernels
