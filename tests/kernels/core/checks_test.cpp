// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/checks.hpp"

#include "kernels/core/compat.hpp"
#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using test::Matrix;
using test::message_of;
using test::Vector;

TEST(Checks, PrintShapes) {
  EXPECT_EQ(shape_string(Matrix<float>("m", 2, 3)), "(2,3)");
  EXPECT_EQ(shape_string(Vector<float>("v", 0)), "(0)");
  EXPECT_EQ(shape_string(Kokkos::View<double>("s")), "()");
}

TEST(Checks, NameKernelAndBothShapes) {
  const Matrix<float> a("a", 2, 3), b("b", 2, 4);
  EXPECT_NO_THROW(require_same_shape("kernel", "a", a, "b", a));
  EXPECT_EQ(message_of<ShapeError>([&] { require_same_shape("kernel", "a", a, "b", b); }),
            "kernel: a (2,3) and b (2,4) do not have the same shape");
}

TEST(Checks, NameTheAxis) {
  const Matrix<float> a("a", 2, 3);
  EXPECT_NO_THROW(require_extent("kernel", "a", a, 1, 3));
  EXPECT_EQ(message_of<ShapeError>([&] { require_extent("kernel", "a", a, 1, 4); }),
            "kernel: a (2,3) must have extent 4 on axis 1");
}

TEST(Checks, PassTheMessageOn) {
  EXPECT_NO_THROW(require(true, "kernel", "message"));
  EXPECT_EQ(message_of<ShapeError>([] { require(false, "kernel", "message"); }), "kernel: message");
}

TEST(Checks, RowMajorAcceptsContiguousRowsOnly) {
  static_assert(RowMajor<Matrix<float>, 2>);
  static_assert(RowMajor<Vector<float>, 1>);
  static_assert(RowMajor<Kokkos::View<float*, Kokkos::LayoutLeft>, 1>);
  static_assert(!RowMajor<Kokkos::View<float**, Kokkos::LayoutLeft>, 2>);
  static_assert(!RowMajor<Kokkos::View<float*, Kokkos::LayoutStride>, 1>);
  static_assert(!RowMajor<Matrix<float>, 1>);
  const std::string version = kokkos_version();
  EXPECT_EQ(std::count(version.begin(), version.end(), '.'), 2) << version;
}

}  // namespace
}  // namespace sdp::kernels
