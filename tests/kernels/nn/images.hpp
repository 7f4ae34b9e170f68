// SPDX-License-Identifier: Apache-2.0
#pragma once

// Images (N,H,W,C) and convolution weights for the kernel tests.

#include "tests/support/kernel_views.hpp"

namespace sdp::test {

template <class T>
using Images = Kokkos::View<T****, Kokkos::LayoutRight>;

template <class T>
Images<T> images_of(index_t a, index_t b, index_t c, index_t d, Values const& values) {
  Images<T> view("images", a, b, c, d);
  set_values(view, values);
  return view;
}

inline Values nan_values(std::size_t count) {
  return Values(count, std::nan(""));
}

}  // namespace sdp::test
