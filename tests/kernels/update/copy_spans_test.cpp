// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/copy_spans.hpp"

#include <gtest/gtest.h>

namespace sdp::kernels {
namespace {

TEST(CopySpans, PacksAndUnpacks) {
  const std::vector<CopySpan> list{{90, 0, 7}, {3, 7, 1}, {10, 8, 0}, {20, 8, 40}};
  Kokkos::View<CopySpan*> spans("spans", list.size());
  auto host_spans = Kokkos::create_mirror_view(spans);
  std::copy(list.begin(), list.end(), host_spans.data());
  Kokkos::deep_copy(spans, host_spans);
  Kokkos::View<float*> flat("flat", 100);
  auto host_flat = Kokkos::create_mirror_view(flat);
  for (int i = 0; i < 100; ++i) host_flat(i) = static_cast<float>(i);
  Kokkos::deep_copy(flat, host_flat);
  Kokkos::View<float*> packed("packed", 50);
  Kokkos::deep_copy(packed, -1.0f);
  Kokkos::DefaultExecutionSpace exec;
  pack_spans(exec, spans, flat, packed);
  exec.fence();
  auto host_packed = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), packed);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(host_packed(i), 90.0f + static_cast<float>(i));
  EXPECT_EQ(host_packed(7), 3.0f);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(host_packed(8 + i), 20.0f + static_cast<float>(i));
  EXPECT_EQ(host_packed(48), -1.0f);

  Kokkos::View<float*> back("back", 100);
  unpack_spans(exec, spans, packed, back);
  exec.fence();
  auto host_back = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), back);
  for (int i = 0; i < 100; ++i) {
    const bool copied = i == 3 || (i >= 20 && i < 60) || (i >= 90 && i < 97);
    EXPECT_EQ(host_back(i), copied ? static_cast<float>(i) : 0.0f) << i;
  }
}

TEST(CopySpans, NoSpansIsLegal) {
  Kokkos::View<CopySpan*> none("none", 0);
  Kokkos::View<float*> flat("flat", 3);
  Kokkos::View<float*> packed("packed", 0);
  pack_spans(Kokkos::DefaultExecutionSpace(), none, flat, packed);
  unpack_spans(Kokkos::DefaultExecutionSpace(), none, packed, flat);
  Kokkos::fence();
}

}  // namespace
}  // namespace sdp::kernels
