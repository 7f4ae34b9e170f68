// SPDX-License-Identifier: Apache-2.0
#include "base/memory_ledger.hpp"

#include <gtest/gtest.h>

#include "base/types.hpp"

namespace sdp {
namespace {

TEST(MemoryLedger, CountsViewsByScopeAndKeepsPeaks) {
  memory_ledger::install();
  ASSERT_TRUE(memory_ledger::installed());
  const auto before = memory_ledger::usage(MemoryCategory::gradients).current;
  {
    MemoryScope outer(MemoryCategory::gradients);
    View1<float> a("a", 1000);
    {
      MemoryScope inner(MemoryCategory::workspace);
      View1<double> b("b", 500);
      EXPECT_GE(memory_ledger::usage(MemoryCategory::workspace).current, 4000);
    }
    const auto during = memory_ledger::usage(MemoryCategory::gradients).current - before;
    EXPECT_GE(during, 4000);
    EXPECT_LE(during, 4000 + 1024);
  }
  EXPECT_EQ(memory_ledger::usage(MemoryCategory::gradients).current, before);
  EXPECT_EQ(memory_ledger::usage(MemoryCategory::workspace).current, 0);
  EXPECT_GE(memory_ledger::usage(MemoryCategory::gradients).peak, before + 4000);
  memory_ledger::reset_peaks();
  EXPECT_EQ(memory_ledger::usage(MemoryCategory::gradients).peak, before);
}

TEST(MemoryLedger, PeakOfTotalIsThePeakOfTheSum) {
  memory_ledger::install();
  memory_ledger::reset_peaks();
  const auto base = memory_ledger::total().current;
  memory_ledger::add(MemoryCategory::data, 100);
  memory_ledger::add(MemoryCategory::data, -100);
  memory_ledger::add(MemoryCategory::weights, 60);
  EXPECT_EQ(memory_ledger::total().peak - base, 100);
  memory_ledger::add(MemoryCategory::weights, -60);
}

TEST(MemoryLedger, ResidentBytesFollowTouchedMemory) {
  const auto before = resident_bytes();
  ASSERT_GT(before, 0);
  std::vector<char> block(64 << 20, 1);
  EXPECT_GE(resident_bytes() - before, std::int64_t{60} << 20);
  EXPECT_GE(peak_resident_bytes(), resident_bytes() - (1 << 20));
}

}  // namespace
}  // namespace sdp
