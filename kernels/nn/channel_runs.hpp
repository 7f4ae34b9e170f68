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

/// x of (N,H,W,C) as a matrix of pixels and channels, (N*H*W, C): the same memory.
template <RowMajor<4> X>
auto pixel_rows(X const& x) {
  using Element = typename X::value_type;
  using Rows = Kokkos::View<Element**, Kokkos::LayoutRight, typename X::device_type,
                            Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  return Rows(x.data(), x.extent(0) * x.extent(1) * x.extent(2), x.extent(3));
}

}  // namespace sdp::kernels
