// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace sdp::kernels {

/// Two-byte bfloat16 storage type with conversions to and from float and no arithmetic of its own:
/// kernels widen to float, compute, and round once. Kokkos' own half types take four bytes on
/// host-only builds, so they cannot serve as a storage type. Round to nearest even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits;

  bf16() = default;

  KOKKOS_INLINE_FUNCTION explicit bf16(float value) : bits(from_float(value)) {}
  KOKKOS_INLINE_FUNCTION explicit bf16(double value) : bits(from_float(odd_float(value))) {}

  KOKKOS_INLINE_FUNCTION operator float() const {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, sizeof(value));
    return value;
  }

  KOKKOS_INLINE_FUNCTION static std::uint16_t from_float(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    std::uint16_t nearest;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(nearest) : "f"(value));
    return nearest;
#else
    std::uint32_t wide;
    memcpy(&wide, &value, sizeof(wide));
    const bool is_nan = (wide & 0x7fffffffu) > 0x7f800000u;
    const std::uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (wide >> 16) | 0x40u;
    return static_cast<std::uint16_t>(is_nan ? quiet : rounded);
#endif
  }

  /// The float next to a double, inexact ones with an odd last bit: rounding that once more to bf16
  /// is the same as rounding the double (Boldo and Melquiond 2008), which two roundings to nearest
  /// are not.
  KOKKOS_INLINE_FUNCTION static float odd_float(double value) {
    const float nearest = static_cast<float>(value);
    const double back = static_cast<double>(nearest);
    std::uint32_t wide;
    memcpy(&wide, &nearest, sizeof(wide));
    const bool away = std::fabs(back) > std::fabs(value);
    const std::uint32_t odd = (wide - (away ? 1u : 0u)) | 1u;
    const bool exact = back == value || value != value;
    const std::uint32_t chosen = exact ? wide : odd;
    float result;
    memcpy(&result, &chosen, sizeof(result));
    return result;
  }
};
static_assert(sizeof(bf16) == 2);

}  // namespace sdp::kernels
