// SPDX-License-Identifier: Apache-2.0
#include "base/device_pool.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

namespace sdp {
namespace {

constexpr std::int64_t k_mib = std::int64_t{1} << 20;

/// The pool in use, and as it was afterwards.
class DevicePool : public ::testing::Test {
 protected:
  DevicePool() : m_was_in_use(device_pool::in_use()) {
    memory_ledger::install();
    device_pool::use(true);
  }
  ~DevicePool() override { device_pool::use(m_was_in_use); }

  static View1<char> cut(PoolRegion& region, std::int64_t bytes) {
    PoolScope scope(region);
    return allocate<View1<char>>("buffer", bytes);
  }
  static std::int64_t counted(MemoryCategory category) {
    return memory_ledger::usage(category).current;
  }

 private:
  bool m_was_in_use;
};

TEST_F(DevicePool, CutsAlignedBuffersFromOnePieceAndGivesItBack) {
  ASSERT_EQ(device_pool::usage().pieces, 0);
  {
    PoolRegion region;
    auto const a = cut(region, 1000), b = cut(region, 1), c = cut(region, 3 * k_mib);
    for (View1<char> const& view : {a, b, c})
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.data()) % device_pool::k_alignment, 0u);
    EXPECT_EQ(b.data() - a.data(), 1024);
    EXPECT_EQ(c.data() - b.data(), 512);
    EXPECT_EQ(device_pool::usage().pieces, 1);
    EXPECT_EQ(device_pool::usage().used, 1024 + 512 + 3 * k_mib);
    Kokkos::deep_copy(c, 'x');
  }
  EXPECT_EQ(device_pool::usage().pieces, 0);
  EXPECT_EQ(device_pool::usage().reserved, 0);
}

TEST_F(DevicePool, FillsTheSmallestGapThatFitsAndJoinsNeighbours) {
  PoolRegion first, second, third, fourth, last;
  const auto a = cut(first, 8 * k_mib);
  const auto b = cut(second, k_mib);
  const auto c = cut(third, 4 * k_mib);
  const auto d = cut(fourth, k_mib);
  first.clear();
  third.clear();
  {
    PoolRegion small;
    EXPECT_EQ(cut(small, 3 * k_mib).data(), c.data());
    EXPECT_EQ(cut(small, 5 * k_mib).data(), a.data());
    EXPECT_EQ(cut(small, 3 * k_mib).data(), a.data() + 5 * k_mib);
  }
  second.clear();  // between two gaps
  EXPECT_EQ(cut(last, 13 * k_mib).data(), a.data());
  EXPECT_EQ(device_pool::usage().used, 14 * k_mib);
  EXPECT_EQ(device_pool::usage().pieces, 1);
}

TEST_F(DevicePool, WhatIsReservedServesTheBuffersThatFollow) {
  device_pool::reserve(100 * k_mib);
  EXPECT_GE(device_pool::usage().largest_free, 100 * k_mib);
  device_pool::reserve(50 * k_mib);
  EXPECT_EQ(device_pool::usage().pieces, 1);
  PoolRegion region;
  const auto a = cut(region, 60 * k_mib), b = cut(region, 40 * k_mib);
  EXPECT_EQ(device_pool::usage().pieces, 1);
  {
    PoolRegion more;
    cut(more, 60 * k_mib);
    EXPECT_EQ(device_pool::usage().pieces, 2);
  }
  EXPECT_EQ(device_pool::usage().pieces, 1);
  EXPECT_EQ(a.data() + 60 * k_mib, b.data());
}

TEST_F(DevicePool, LedgerCountsBuffersAndNotPieces) {
  const auto weights = counted(MemoryCategory::weights), data = counted(MemoryCategory::data);
  const auto total = memory_ledger::total().current;
  PoolRegion region;
  {
    MemoryScope category(MemoryCategory::weights);
    device_pool::reserve(40 * k_mib);
    cut(region, 1000);
  }
  {
    MemoryScope category(MemoryCategory::data);
    cut(region, 80);
  }
  EXPECT_EQ(counted(MemoryCategory::weights) - weights, 1000);
  EXPECT_EQ(counted(MemoryCategory::data) - data, 80);
  EXPECT_EQ(memory_ledger::total().current - total, 1080);
  PoolRegion other = std::move(region);
  EXPECT_EQ(memory_ledger::total().current - total, 1080);
  other.clear();
  EXPECT_EQ(memory_ledger::total().current, total);
}

TEST_F(DevicePool, BuffersOutsideOfScopesOrWithoutThePoolOwnThemselves) {
  const auto own = allocate<View2<float>>("own", 3, 5);
  EXPECT_EQ(own.use_count(), 1);
  EXPECT_EQ(own.extent(1), 5u);
  PoolRegion region;
  PoolScope scope(region);
  EXPECT_EQ(allocate<View2<float>>("cut", 3, 5).use_count(), 0);
  EXPECT_EQ(allocate<View1<float>>("none", 0).data(), nullptr);
  device_pool::use(false);
  EXPECT_EQ(allocate<View2<float>>("own", 3, 5).use_count(), 1);
  EXPECT_EQ(device_pool::usage().used, 512);
}

TEST_F(DevicePool, TooLargeARequestThrowsAndChangesNothing) {
  PoolRegion region;
  cut(region, k_mib);
  const auto total = memory_ledger::total().current;
  EXPECT_ANY_THROW(device_pool::reserve(std::int64_t{1} << 60));
  EXPECT_ANY_THROW(cut(region, std::int64_t{1} << 60));
  EXPECT_EQ(memory_ledger::total().current, total);
  EXPECT_EQ(device_pool::usage().used, k_mib);
}

}  // namespace
}  // namespace sdp
