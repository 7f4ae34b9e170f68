// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

// From the bytes of image files to the input of a network. N images, C channels, H height, W width.

namespace sdp::kernels {

/// out(n,y,x,c) = (bytes(n,c,y,x) / 255 - mean(c)) / deviation(c), in accum_t of the output and
/// rounded once; overwritten. bytes (N,C,H,W) in planes as files hold them, out (N,H,W,C) with the
/// channel last. mean (C) and deviation (C) of the accumulation type. Throws ShapeError when the
/// extents do not fit.
template <ExecutionSpace Exec, RowMajor<4> Bytes, RowMajor<1> Constant, RowMajor<4> Out>
void normalize_images(Exec const& exec, Bytes const& bytes, Constant const& mean,
                      Constant const& deviation, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::normalize_images";
  using T = value_t<Out>;
  using A = accum_t<T>;
  static_assert(std::is_same_v<value_t<Bytes>, std::uint8_t>, "normalize_images: bytes are uint8");
  static_assert(std::is_same_v<value_t<Constant>, A>,
                "normalize_images: mean and deviation are of the accumulation type of out");
  const auto channels = static_cast<index_t>(bytes.extent(1));
  const auto height = static_cast<index_t>(bytes.extent(2));
  const auto width = static_cast<index_t>(bytes.extent(3));
  require_extent(k_name, "out", out, 0, static_cast<index_t>(bytes.extent(0)));
  require_extent(k_name, "out", out, 1, height);
  require_extent(k_name, "out", out, 2, width);
  require_extent(k_name, "out", out, 3, channels);
  require_extent(k_name, "mean", mean, 0, channels);
  require_extent(k_name, "deviation", deviation, 0, channels);
  const index_t plane = height * width;
  Kokkos::parallel_for(
      k_name, row_policy(exec, static_cast<index_t>(bytes.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t image = team.league_rank() * channels * plane;
        auto const* from = bytes.data() + image;
        auto* to = out.data() + image;
        auto const* means = mean.data();
        auto const* deviations = deviation.data();
        const index_t count = channels, stride = plane;
        row_for(team, plane, [=](index_t pixel) {
          for (index_t c = 0; c < count; ++c) {
            const A byte = static_cast<A>(from[c * stride + pixel]);
            to[pixel * count + c] = static_cast<T>((byte / A(255) - means[c]) / deviations[c]);
          }
        });
      });
}

}  // namespace sdp::kernels
