// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sdp {

/// What memory is for. Every Kokkos allocation falls into one of these.
enum class MemoryCategory : int {
  weights,
  gradients,
  optimizer,
  activations,
  communication,
  data,
  workspace,
  other,  ///< allocated outside every MemoryScope
};
inline constexpr int k_memory_categories = 8;
char const* name(MemoryCategory category);

/// Allocations made by this thread while the scope lives count as `category`; scopes nest.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryCategory category);
  ~MemoryScope();
  MemoryScope(MemoryScope const&) = delete;
  MemoryScope& operator=(MemoryScope const&) = delete;

 private:
  MemoryCategory m_previous;
};

/// Bytes by category, measured through the allocation callbacks of Kokkos Tools, so that no
/// allocation can be forgotten. One per process. In a build for devices it is of their memory; what
/// the host holds beside it is in the resident set.
namespace memory_ledger {

struct Usage {
  std::int64_t current = 0;
  std::int64_t peak = 0;
};

/// Installs the callbacks (before or after Kokkos::initialize). A profiling tool that is loaded
/// from KOKKOS_PROFILE_LIBRARY keeps its own callbacks and the ledger then stays empty: see
/// installed().
void install();
bool installed();
Usage usage(MemoryCategory category);
/// Sum over categories; its peak is the peak of the sum, not the sum of the peaks.
Usage total();
void reset_peaks();

/// Counts memory that does not come from Kokkos (positive to add, negative to remove).
void add(MemoryCategory category, std::int64_t bytes);
/// Label of allocations whose parts are counted by add() instead.
inline constexpr char k_uncounted[] = "sdp::uncounted";
/// That of the innermost MemoryScope of this thread.
MemoryCategory category();

}  // namespace memory_ledger

/// Resident set size of this process now and its high-water mark, in bytes (Linux /proc; 0
/// elsewhere).
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();
/// Sets the high-water mark back to the present size where the kernel allows it.
void reset_peak_resident();

}  // namespace sdp
