// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/finite.hpp"

#include <limits>

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

template <class T>
class CountNotFinite : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CountNotFinite, Types);

TYPED_TEST(CountNotFinite, CountsInfinitiesAndNotANumber) {
  using T = TypeParam;
  const auto count = scalar_of<index_t>(-1);
  for (const index_t size : {0, 1, 5, 1001}) {
    Values values = noise(size, 3);
    count_not_finite(Exec(), vector_of<T>(values), count);
    EXPECT_EQ(scalar_value(count), 0) << size;
  }
  const double infinity = std::numeric_limits<double>::infinity();
  Values values = noise(1001, 4);
  values[0] = infinity;
  values[500] = std::nan("");
  values[1000] = -infinity;
  values[7] = 3e38;  // finite in every type
  count_not_finite(Exec(), vector_of<T>(values), count);
  EXPECT_EQ(scalar_value(count), 3);
}

}  // namespace
}  // namespace sdp::kernels
