// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"
#include "kernels/random/philox.hpp"

namespace sdp::kernels {

// Normal numbers by the transform of Box and Muller (1958), with the same bits on every IEEE
// machine. Only correctly rounded operations are used (fma, square root, division, products,
// integer to double), and every addition whose operand is a product stands inside an fma, so that a
// compiler has nothing left to contract. The polynomials are those of atanh, sin and cos about 0.

namespace Details {
/// log(k * 2^-53) for k in [1, 2^53].
KOKKOS_INLINE_FUNCTION double portable_log(std::int64_t k) {
  const double u = static_cast<double>(k);  // exact
  std::int64_t bits;
  memcpy(&bits, &u, sizeof(bits));
  // u = m * 2^e with m in [sqrt(1/2), sqrt(2))
  const std::int64_t above_root = bits - 0x3FE6A09E667F3BCDll;
  const std::int64_t exponent = above_root >> 52;
  const std::int64_t mantissa_bits = bits - (exponent << 52);
  double m;
  memcpy(&m, &mantissa_bits, sizeof(m));
  const double e = static_cast<double>(exponent - 53);
  // log(m) = 2 atanh(s) with s = (m - 1) / (m + 1)
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 2.0 / 21.0;
  p = std::fma(p, z, 2.0 / 19.0);
  p = std::fma(p, z, 2.0 / 17.0);
  p = std::fma(p, z, 2.0 / 15.0);
  p = std::fma(p, z, 2.0 / 13.0);
  p = std::fma(p, z, 2.0 / 11.0);
  p = std::fma(p, z, 2.0 / 9.0);
  p = std::fma(p, z, 2.0 / 7.0);
  p = std::fma(p, z, 2.0 / 5.0);
  p = std::fma(p, z, 2.0 / 3.0);
  const double log_m = std::fma(s * z, p, s + s);
  constexpr double k_ln2_high = 6.93147180369123816490e-01;
  constexpr double k_ln2_low = 1.90821492927058770002e-10;
  return std::fma(e, k_ln2_high, std::fma(e, k_ln2_low, log_m));
}

struct SinCos {
  double sin;
  double cos;
};

/// sin and cos of 2 pi k 2^-53 for k in [0, 2^53).
KOKKOS_INLINE_FUNCTION SinCos portable_sincos(std::int64_t k) {
  constexpr std::int64_t k_quarter = std::int64_t(1) << 51;
  const std::int64_t quadrant = (k + k_quarter / 2) >> 51;          // nearest multiple of pi/2
  const auto rest = static_cast<double>(k - quadrant * k_quarter);  // exact, within an eighth turn
  const double x = rest * (6.283185307179586476925 / 9007199254740992.0);
  const double z = x * x;
  double s = 1.0 / 355687428096000.0;
  s = std::fma(s, z, -1.0 / 1307674368000.0);
  s = std::fma(s, z, 1.0 / 6227020800.0);
  s = std::fma(s, z, -1.0 / 39916800.0);
  s = std::fma(s, z, 1.0 / 362880.0);
  s = std::fma(s, z, -1.0 / 5040.0);
  s = std::fma(s, z, 1.0 / 120.0);
  s = std::fma(s, z, -1.0 / 6.0);
  s = std::fma(x * z, s, x);
  double c = 1.0 / 20922789888000.0;
  c = std::fma(c, z, -1.0 / 87178291200.0);
  c = std::fma(c, z, 1.0 / 479001600.0);
  c = std::fma(c, z, -1.0 / 3628800.0);
  c = std::fma(c, z, 1.0 / 40320.0);
  c = std::fma(c, z, -1.0 / 720.0);
  c = std::fma(c, z, 1.0 / 24.0);
  c = std::fma(z * z, c, std::fma(z, -0.5, 1.0));
  const bool swap = (quadrant & 1) != 0;
  const double first = swap ? c : s;
  const double second = swap ? s : c;
  return SinCos{(quadrant & 2) != 0 ? -first : first, ((quadrant + 1) & 2) != 0 ? -second : second};
}
}  // namespace Details

struct NormalPair {
  double first;
  double second;
};

/// Two independent standard normal numbers from 128 uniform bits; |z| < 8.6.
KOKKOS_INLINE_FUNCTION NormalPair normal_pair(PhiloxBlock const& bits) {
  const auto radius_bits =
      static_cast<std::int64_t>((std::uint64_t(bits[1]) << 32 | bits[0]) >> 11) + 1;
  const auto angle_bits = static_cast<std::int64_t>((std::uint64_t(bits[3]) << 32 | bits[2]) >> 11);
  const double radius = std::sqrt(-2.0 * Details::portable_log(radius_bits));
  const Details::SinCos angle = Details::portable_sincos(angle_bits);
  return NormalPair{radius * angle.cos, radius * angle.sin};
}

/// out[i] = mean + std * z(first_element + i), z(e) the e-th standard normal number of a stream.
///
/// out (n) of any storage type, overwritten: a span of a logical tensor whose first element has the
/// logical index first_element. Element e always gets the same bits, however the tensor is cut, on
/// every backend. Computed in double and rounded once. Elements 2q and 2q+1 come from block q.
template <ExecutionSpace Exec, RowMajor<1> Out>
void fill_normal(Exec const& exec, std::uint64_t seed, std::uint64_t stream, index_t first_element,
                 double mean, double std, Out const& out) {
  using T = value_t<Out>;
  constexpr index_t k_tile = 1024;  // pairs
  const auto count = static_cast<index_t>(out.extent(0));
  if (count == 0) return;
  const index_t end_element = first_element + count;
  const index_t begin_pair = first_element / 2;
  const index_t end_pair = (end_element + 1) / 2;
  const index_t begin_whole = (first_element + 1) / 2;
  const index_t end_whole = end_element / 2;
  Kokkos::parallel_for(
      "sdp::kernels::fill_normal", row_policy(exec, (end_pair - begin_pair + k_tile - 1) / k_tile),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t tile_begin = begin_pair + team.league_rank() * k_tile;
        const index_t tile_end = tile_begin + k_tile < end_pair ? tile_begin + k_tile : end_pair;
        const index_t begin = tile_begin > begin_whole ? tile_begin : begin_whole;
        const index_t end = tile_end < end_whole ? tile_end : end_whole;
        auto* to = out.data() + (2 * begin - first_element);
        row_for(team, end - begin, [=](index_t q) {
          const NormalPair z =
              normal_pair(stream_bits(seed, stream, static_cast<std::uint64_t>(begin + q)));
          to[2 * q] = static_cast<T>(std::fma(std, z.first, mean));
          to[2 * q + 1] = static_cast<T>(std::fma(std, z.second, mean));
        });
        if (team.team_rank() != 0) return;
        if (tile_begin < begin_whole) {
          const NormalPair z =
              normal_pair(stream_bits(seed, stream, static_cast<std::uint64_t>(tile_begin)));
          out(0) = static_cast<T>(std::fma(std, z.second, mean));
        }
        if (tile_end > end_whole) {
          const NormalPair z =
              normal_pair(stream_bits(seed, stream, static_cast<std::uint64_t>(tile_end - 1)));
          out(count - 1) = static_cast<T>(std::fma(std, z.first, mean));
        }
      });
}

}  // namespace sdp::kernels
