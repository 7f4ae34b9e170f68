// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/normalize_images.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

using Bytes = Kokkos::View<std::uint8_t****, Kokkos::LayoutRight>;
template <class T>
using Images = Kokkos::View<T****, Kokkos::LayoutRight>;

template <class T>
class NormalizeImages : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(NormalizeImages, Types);

TYPED_TEST(NormalizeImages, EqualsTheFormulaExactly) {
  using T = TypeParam;
  using A = accum_t<T>;
  for (auto const& [n, c, h, w] : {std::array<index_t, 4>{2, 3, 4, 5},
                                   {1, 1, 1, 1},
                                   {0, 3, 2, 2},
                                   {3, 2, 7, 1},
                                   {1, 5, 16, 16}}) {
    const Bytes bytes("bytes", n, c, h, w);
    const auto host = Kokkos::create_mirror_view(bytes);
    for (std::size_t i = 0; i < host.size(); ++i)
      host.data()[i] = static_cast<std::uint8_t>(i * 89 + 3);
    Kokkos::deep_copy(bytes, host);
    Values means, deviations;
    for (index_t k = 0; k < c; ++k) {
      means.push_back(0.1 * static_cast<double>(k + 1));
      deviations.push_back(0.3 / static_cast<double>(k + 1));
    }
    const auto mean = vector_of<A>(means), deviation = vector_of<A>(deviations);
    const Images<T> out("out", n, h, w, c);
    set_values(out, Values(out.size(), std::nan("")));
    normalize_images(Exec(), bytes, mean, deviation, out);
    const auto result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), out);
    for (index_t i = 0; i < n; ++i)
      for (index_t y = 0; y < h; ++y)
        for (index_t x = 0; x < w; ++x)
          for (index_t k = 0; k < c; ++k) {
            const A byte = static_cast<A>(host(i, k, y, x));
            const A value =
                (byte / A(255) - static_cast<A>(means[k])) / static_cast<A>(deviations[k]);
            ASSERT_EQ(static_cast<double>(result(i, y, x, k)),
                      static_cast<double>(static_cast<T>(value)));
          }
  }
}

TEST(NormalizeImagesShapes, MisfitsAreNamed) {
  const Bytes bytes("bytes", 2, 3, 4, 5);
  const Images<float> planes("planes", 2, 3, 4, 5), out("out", 2, 4, 5, 3);
  const Vector<float> constants("constants", 3), few("few", 2);
  EXPECT_EQ(message_of<ShapeError>(
                [&] { normalize_images(Exec(), bytes, constants, constants, planes); }),
            "sdp::kernels::normalize_images: out (2,3,4,5) must have extent 4 on axis 1");
  EXPECT_EQ(message_of<ShapeError>([&] { normalize_images(Exec(), bytes, constants, few, out); }),
            "sdp::kernels::normalize_images: deviation (2) must have extent 3 on axis 0");
}

}  // namespace
}  // namespace sdp::kernels
