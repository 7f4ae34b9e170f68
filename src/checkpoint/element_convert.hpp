// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/core/bf16.hpp"

namespace sdp {

/// IEEE half to float, exact; subnormals, infinities and NaN included.
inline float half_to_float(std::uint16_t narrow) {
  const std::uint32_t sign = static_cast<std::uint32_t>(narrow & 0x8000u) << 16;
  const std::uint32_t exponent = (narrow >> 10) & 0x1fu;
  const std::uint32_t mantissa = narrow & 0x3ffu;
  std::uint32_t bits;
  if (exponent == 0x1f) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// `count` elements of type From, at any alignment, to T.
template <class From, class T>
void widen(char const* from, std::int64_t count, T* to) {
  for (std::int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + i * static_cast<std::int64_t>(sizeof(From)), sizeof(From));
    to[i] = static_cast<T>(value);
  }
}
/// The same for IEEE half.
template <class T>
void widen_half(char const* from, std::int64_t count, T* to) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, from + i * 2, sizeof(bits));
    to[i] = static_cast<T>(half_to_float(bits));
  }
}
/// The same for bfloat16.
template <class T>
void widen_bf16(char const* from, std::int64_t count, T* to) {
  for (std::int64_t i = 0; i < count; ++i) {
    kernels::bf16 value;
    std::memcpy(&value, from + i * 2, sizeof(value));
    to[i] = static_cast<T>(static_cast<float>(value));
  }
}

}  // namespace sdp
