// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/scale.hpp"

#include <gtest/gtest.h>

namespace sdp::kernels {
namespace {

TEST(Scale, MultipliesEveryElementOnce) {
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{777}}) {
    const Kokkos::View<float*> x("x", size);
    auto host = Kokkos::create_mirror_view(x);
    for (std::size_t i = 0; i < size; ++i) host(i) = static_cast<float>(i) + 0.1f;
    Kokkos::deep_copy(x, host);
    scale(Kokkos::DefaultExecutionSpace(), 1.0 / 3, x);
    Kokkos::fence();
    Kokkos::deep_copy(host, x);
    for (std::size_t i = 0; i < size; ++i)
      EXPECT_EQ(host(i), (static_cast<float>(i) + 0.1f) * static_cast<float>(1.0 / 3));
  }
}

}  // namespace
}  // namespace sdp::kernels
