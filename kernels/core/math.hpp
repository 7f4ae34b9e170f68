// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace sdp::kernels {

// Branch-free exponentials that a compiler vectorises without fast-math. std::exp is a library call
// in every inner loop otherwise, and costs ten times as much. Both saturate outside the finite
// range and pass NaN through. Method: Cody and Waite reduction by ln 2 and the Cephes / Remez
// polynomials. Outside the range the reduction gives anything; the two selections at the end
// replace it. Devices have an exponential in hardware: there the float version is the library's,
// which takes fewer instructions.

/// exp(x) to 2 ulp for finite results; inf above 88.72, and 0 below -87.3 where a host flushes
/// denormal results, which a device keeps.
KOKKOS_INLINE_FUNCTION float vexp(float x) {
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__) || defined(__SYCL_DEVICE_ONLY__)
  return Kokkos::exp(x);
#else
  constexpr float k_shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341f + k_shift;
  const float n = shifted - k_shift;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // Times 2^n: n stands in the low bits of `shifted` and is added to the exponent.
  std::uint32_t bits, power;
  memcpy(&bits, &p, sizeof(bits));
  memcpy(&power, &shifted, sizeof(power));
  bits += power << 23;
  float result;
  memcpy(&result, &bits, sizeof(result));
  const float above = x + HUGE_VALF;  // inf, or NaN for NaN
  result = x >= -87.33654f ? result : 0.0f;
  return x <= 88.72283f ? result : above;
#endif
}

/// exp(x) in double precision; saturates as the float version does, at -708.39 and 709.78.
KOKKOS_INLINE_FUNCTION double vexp(double x) {
  constexpr double k_shift = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = x * 1.4426950408889634074 + k_shift;
  const double n = shifted - k_shift;
  double r = x - n * 6.93145751953125e-1;
  r = r - n * 1.42860682030941723212e-6;
  const double rr = r * r;
  double p = 1.26177193074810590878e-4;
  p = p * rr + 3.02994407707441961300e-2;
  p = p * rr + 9.99999999999999999910e-1;
  p = p * r;
  double q = 3.00198505138664455042e-6;
  q = q * rr + 2.52448340349684104192e-3;
  q = q * rr + 2.27265548208155028766e-1;
  q = q * rr + 2.00000000000000000009e0;
  const double ratio = 1.0 + 2.0 * (p / (q - p));
  std::uint64_t bits, power;
  memcpy(&bits, &ratio, sizeof(bits));
  memcpy(&power, &shifted, sizeof(power));
  bits += power << 52;
  double result;
  memcpy(&result, &bits, sizeof(result));
  const double above = x + HUGE_VAL;
  result = x >= -708.39 ? result : 0.0;
  return x <= 709.782712893384 ? result : above;
}

}  // namespace sdp::kernels
