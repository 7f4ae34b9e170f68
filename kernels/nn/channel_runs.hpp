// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/nn/pack_columns.hpp"

// Which channels of an image a weight gradient is wanted for. Images are stored with the channel
// last, so channels are the columns of a matrix with one row a pixel, and a set of them is a View
// of ColumnRun: run.from counts channels of the image, run.to rows of the (smaller) gradient.

namespace sdp::kernels {

/// Every channel, in order.
struct AllChannels {};

template <class R>
concept ChannelRuns = std::is_same_v<R, AllChannels> || RowMajor<R, 1>;

/// f(first channel, first row, channels) for every run in order; one run of `channels` for all.
template <ChannelRuns Runs, class F>
KOKKOS_INLINE_FUNCTION void for_each_run(Runs const& runs, index_t channels, F const& f) {
  if constexpr (std::is_same_v<Runs, AllChannels>) {
    f(index_t(0), index_t(0), channels);
  } else {
    const auto count = static_cast<index_t>(runs.extent(0));
    for (index_t r = 0; r < count; ++r) f(runs(r).from, runs(r).to, runs(r).count);
  }
}

/// x of (N,H,W,C) as a matrix of pixels and channels, (N*H*W, C): the same memory.
template <RowMajor<4> X>
auto pixel_rows(X const& x) {
  using Element = typename X::value_type;
  using Rows = Kokkos::View<Element**, Kokkos::LayoutRight, typename X::device_type,
                            Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  return Rows(x.data(), x.extent(0) * x.extent(1) * x.extent(2), x.extent(3));
}

}  // namespace sdp::kernels
