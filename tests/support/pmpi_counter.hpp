// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

namespace sdp::test {

/// What this process has given to MPI to send, counted in front of the library (its profiling
/// interface) and so independently of the code under test. Link pmpi_counter.cpp into the test.
struct PmpiCounts {
  std::int64_t sent_bytes = 0;  ///< point-to-point
  std::int64_t received_bytes = 0;
  std::int64_t sent_messages = 0;
  /// By rank in the communicator of the message, for the first 64 of them.
  std::array<std::int64_t, 64> sent_bytes_to{};
  std::int64_t all_reduced_bytes = 0;  ///< size of the operands
};

PmpiCounts pmpi_counts();

}  // namespace sdp::test
