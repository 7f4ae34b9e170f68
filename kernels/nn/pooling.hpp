// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"

// Global average pooling of images (N,H,W,C), channel last. Each throws ShapeError when the extents
// do not fit or an image has no pixel.

namespace sdp::kernels {

namespace Details {
template <class X, class Out>
index_t check_pooling(char const* name, char const* x_name, X const& x, char const* out_name,
                      Out const& out) {
  require_extent(name, out_name, out, 0, static_cast<index_t>(x.extent(0)));
  require_extent(name, out_name, out, 1, static_cast<index_t>(x.extent(3)));
  const auto pixels = static_cast<index_t>(x.extent(1) * x.extent(2));
  require(pixels > 0, name, std::string(x_name) + " " + shape_string(x) + " must have pixels");
  return pixels;
}
}  // namespace Details

/// out(n,c) = mean over the pixels of x(n,:,:,c), summed in the order of the pixels.
///
/// x (N,H,W,C), out (N,C) overwritten; out may not alias x.
template <ExecutionSpace Exec, RowMajor<4> X, RowMajor<2> Out>
void average_pool_forward(Exec const& exec, X const& x, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::average_pool_forward";
  using T = value_t<Out>;
  using A = accum_t<T>;
  const index_t pixels = Details::check_pooling(k_name, "x", x, "out", out);
  const auto channels = static_cast<index_t>(x.extent(3));
  const A share = A(1) / static_cast<A>(pixels);
  Kokkos::parallel_for(
      k_name, row_policy(exec, static_cast<index_t>(x.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t image = team.league_rank();
        auto const* from = x.data() + image * pixels * channels;
        auto* to = out.data() + image * channels;
        const index_t count = pixels, stride = channels;
        const A factor = share;
        group_for<k_group<Exec, T>>(team, channels, [=](index_t c, auto group) {
          constexpr int k_values = decltype(group)();
          Group<A, k_values> sum{};
          for (index_t i = 0; i < count; ++i) {
            const auto values = load_group<A>(from + i * stride + c, group);
            for (int j = 0; j < group; ++j) sum[j] += values[j];
          }
          for (int j = 0; j < group; ++j) sum[j] *= factor;
          store_group(sum, to + c);
        });
      });
}

/// d_x(n,h,w,c) = d_out(n,c) / (H*W).
///
/// d_out (N,C), d_x (N,H,W,C) overwritten; d_x may not alias d_out.
template <ExecutionSpace Exec, RowMajor<2> DOut, RowMajor<4> DX>
void average_pool_backward(Exec const& exec, DOut const& d_out, DX const& d_x) {
  constexpr char const* k_name = "sdp::kernels::average_pool_backward";
  using T = value_t<DX>;
  using A = accum_t<T>;
  const index_t pixels = Details::check_pooling(k_name, "d_x", d_x, "d_out", d_out);
  const auto channels = static_cast<index_t>(d_x.extent(3));
  const A share = A(1) / static_cast<A>(pixels);
  Kokkos::parallel_for(
      k_name, row_policy(exec, static_cast<index_t>(d_x.extent(0)) * pixels),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t pixel = team.league_rank();
        auto const* from = d_out.data() + pixel / pixels * channels;
        auto* to = d_x.data() + pixel * channels;
        const A factor = share;
        group_for<k_group<Exec, T>>(team, channels, [=](index_t c, auto group) {
          auto values = load_group<A>(from + c, group);
          for (int j = 0; j < group; ++j) values[j] *= factor;
          store_group(values, to + c);
        });
      });
}

}  // namespace sdp::kernels
