// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace sdp::kernels::Details {

/// Bytes of the widest vector register that the translation unit may use.
#if defined(__AVX512F__)
inline constexpr int k_simd_bytes = 64;
#elif defined(__AVX__) || defined(__aarch64__)
inline constexpr int k_simd_bytes = 32;
#else
inline constexpr int k_simd_bytes = 16;
#endif

}  // namespace sdp::kernels::Details
