// SPDX-License-Identifier: Apache-2.0
#pragma once

// SDP_UNROLL(n) before a loop on the host of at most n rounds, whose arrays are to stay in
// registers.
#define SDP_PRAGMA(text) _Pragma(#text)
#if defined(__CUDACC__)
#define SDP_UNROLL(n)
#elif defined(__clang__)
#define SDP_UNROLL(n) SDP_PRAGMA(unroll n)
#else
#define SDP_UNROLL(n) SDP_PRAGMA(GCC unroll n)
#endif

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
