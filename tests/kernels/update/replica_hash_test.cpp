// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/replica_hash.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

std::vector<std::uint64_t> hash(Vector<float> const& x, std::vector<HashSpan> const& spans,
                                std::size_t slots) {
  const Kokkos::View<std::uint64_t*, Kokkos::LayoutRight, Exec::memory_space> hashes("h", slots);
  replica_hash(Exec(), vector_of_items(spans), x, hashes);
  const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), hashes);
  return {host.data(), host.data() + slots};
}

TEST(ReplicaHash, DependsOnValuesAndLogicalPlacesAlone) {
  const auto values = noise(300, 4);
  Values shifted(11, 0.25);
  shifted.insert(shifted.end(), values.begin(), values.end());
  const auto whole = hash(vector_of<float>(values), {{0, 300, 50, 0}}, 1);
  EXPECT_EQ(hash(vector_of<float>(shifted), {{111, 200, 150, 0}, {11, 100, 50, 0}}, 1), whole);
  EXPECT_NE(hash(vector_of<float>(values), {{0, 300, 51, 0}}, 1), whole) << "moved by one";
}

TEST(ReplicaHash, SeesEveryChangedBitAndExchangedElements) {
  auto values = noise(64, 4);
  const auto x = vector_of<float>(values);
  const auto before = hash(x, {{0, 64, 0, 0}}, 1);
  for (index_t i = 0; i < 64; ++i)
    for (std::uint32_t bit = 0; bit < 32; ++bit) {
      const auto y = vector_of<float>(values);
      std::uint32_t bits;
      memcpy(&bits, &y(i), sizeof(bits));
      bits ^= std::uint32_t{1} << bit;
      memcpy(&y(i), &bits, sizeof(bits));
      ASSERT_NE(hash(y, {{0, 64, 0, 0}}, 1), before) << i << " " << bit;
    }
  std::swap(values[3], values[40]);
  EXPECT_NE(hash(vector_of<float>(values), {{0, 64, 0, 0}}, 1), before);
}

TEST(ReplicaHash, CountsTowardsTheSlotsOfItsSpans) {
  const auto x = vector_of<float>(noise(30, 4));
  const auto both = hash(x, {{0, 10, 0, 2}, {10, 20, 10, 0}}, 3);
  EXPECT_EQ(both[1], 0u);
  EXPECT_EQ(both[2], hash(x, {{0, 10, 0, 0}}, 1)[0]);
  EXPECT_EQ(both[0], hash(x, {{10, 20, 10, 0}}, 1)[0]);
}

}  // namespace
}  // namespace sdp::kernels
