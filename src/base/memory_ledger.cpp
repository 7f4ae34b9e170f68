// SPDX-License-Identifier: Apache-2.0
#include "base/memory_ledger.hpp"

#include <sys/mman.h>

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/types.hpp"

namespace sdp {

namespace {

thread_local MemoryCategory t_category = MemoryCategory::other;

struct Ledger {
  std::mutex mutex;
  std::array<memory_ledger::Usage, k_memory_categories> usage;
  memory_ledger::Usage total;
  std::unordered_map<void const*, std::pair<std::int64_t, MemoryCategory>> live;
  bool installed = false;

  void change(MemoryCategory category, std::int64_t bytes) {
    auto& entry = usage[static_cast<int>(category)];
    entry.current += bytes;
    entry.peak = std::max(entry.peak, entry.current);
    total.current += bytes;
    total.peak = std::max(total.peak, total.current);
  }
};

Ledger& ledger() {
  static Ledger* instance = new Ledger;  // outlives static Views
  return *instance;
}

/// Asks for huge pages for host memory that nobody has touched yet. Messages between ranks of a
/// node are copied by the kernel, which looks up every page, and long strides miss the TLB less.
/// Only whole huge pages inside the allocation are asked for; a kernel without them changes
/// nothing.
void advise_huge_pages(void const* pointer, std::uint64_t size) {
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t k_huge_page = std::uintptr_t{1} << 21;
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const std::uintptr_t begin = (address + k_huge_page - 1) / k_huge_page * k_huge_page;
  const std::uintptr_t end = (address + size) / k_huge_page * k_huge_page;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)pointer;
  (void)size;
#endif
}

/// Whether memory of a space is in the ledger: that of the device, where the build has one.
bool counts([[maybe_unused]] Kokkos::Profiling::SpaceHandle const& space) {
  if constexpr (Kokkos::SpaceAccessibility<HostSpace, MemSpace>::accessible)
    return true;
  else
    return std::strcmp(space.name, MemSpace::name()) == 0;
}

void on_allocate(Kokkos::Profiling::SpaceHandle space, char const* label, void const* pointer,
                 std::uint64_t size) {
  if (std::string_view(space.name) == "Host") advise_huge_pages(pointer, size);
  if (!counts(space) || std::strcmp(label, memory_ledger::k_uncounted) == 0) return;
  auto& book = ledger();
  std::lock_guard lock(book.mutex);
  book.live[pointer] = {static_cast<std::int64_t>(size), t_category};
  book.change(t_category, static_cast<std::int64_t>(size));
}

void on_deallocate(Kokkos::Profiling::SpaceHandle, char const*, void const* pointer,
                   std::uint64_t) {
  auto& book = ledger();
  std::lock_guard lock(book.mutex);
  auto found = book.live.find(pointer);
  if (found == book.live.end()) return;
  book.change(found->second.second, -found->second.first);
  book.live.erase(found);
}

std::int64_t status_bytes(char const* key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(key, 0) == 0) return std::stoll(line.substr(std::string(key).size())) * 1024;
  return 0;
}

}  // namespace

char const* name(MemoryCategory category) {
  static constexpr std::array<char const*, k_memory_categories> k_names = {
      "weights",       "gradients", "optimizer", "activations",
      "communication", "data",      "workspace", "other"};
  return k_names[static_cast<int>(category)];
}

MemoryScope::MemoryScope(MemoryCategory category) : m_previous(t_category) {
  t_category = category;
}
MemoryScope::~MemoryScope() {
  t_category = m_previous;
}

namespace memory_ledger {

void install() {
  auto& book = ledger();
  if (book.installed || Kokkos::Profiling::profileLibraryLoaded()) return;
  Kokkos::Tools::Experimental::set_allocate_data_callback(on_allocate);
  Kokkos::Tools::Experimental::set_deallocate_data_callback(on_deallocate);
  book.installed = true;
}
bool installed() {
  return ledger().installed;
}

Usage usage(MemoryCategory category) {
  std::lock_guard lock(ledger().mutex);
  return ledger().usage[static_cast<int>(category)];
}
Usage total() {
  std::lock_guard lock(ledger().mutex);
  return ledger().total;
}
void reset_peaks() {
  std::lock_guard lock(ledger().mutex);
  for (auto& entry : ledger().usage) entry.peak = entry.current;
  ledger().total.peak = ledger().total.current;
}
void add(MemoryCategory category, std::int64_t bytes) {
  std::lock_guard lock(ledger().mutex);
  ledger().change(category, bytes);
}
MemoryCategory category() {
  return t_category;
}

}  // namespace memory_ledger

std::int64_t resident_bytes() {
  return status_bytes("VmRSS:");
}
std::int64_t peak_resident_bytes() {
  return status_bytes("VmHWM:");
}
void reset_peak_resident() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5";
}

}  // namespace sdp
