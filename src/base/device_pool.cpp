// SPDX-License-Identifier: Apache-2.0
#include "base/device_pool.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <stdexcept>

// Under the address sanitizer what nobody owns may not be touched, where the pool is of the host.
#if defined(__SANITIZE_ADDRESS__) && !defined(KOKKOS_ENABLE_CUDA) && \
    !defined(KOKKOS_ENABLE_HIP) && !defined(KOKKOS_ENABLE_SYCL)
#include <sanitizer/asan_interface.h>
#define SDP_FORBID_ACCESS(begin, bytes) ASAN_POISON_MEMORY_REGION(begin, bytes)
#define SDP_ALLOW_ACCESS(begin, bytes) ASAN_UNPOISON_MEMORY_REGION(begin, bytes)
#else
#define SDP_FORBID_ACCESS(begin, bytes) (void)0
#define SDP_ALLOW_ACCESS(begin, bytes) (void)0
#endif

namespace sdp {

namespace {

/// Memory from the device and the gaps in it, by their begin.
struct Piece {
  void* allocation;
  std::byte* memory;  ///< its first multiple of k_alignment
  std::int64_t bytes;
  std::map<std::int64_t, std::int64_t> gaps;

  bool unused() const { return gaps.size() == 1 && gaps.begin()->second == bytes; }
  bool contains(std::byte const* pointer) const {
    return pointer >= memory && pointer < memory + bytes;
  }
};

struct Pool {
  /// What a piece has at least: the unit in which devices map memory, several times.
  static constexpr std::int64_t k_least_piece = std::int64_t{32} << 20;

  std::vector<Piece> pieces;
  bool on = !Kokkos::SpaceAccessibility<HostSpace, MemSpace>::accessible;
};

Pool& pool() {
  static Pool* instance = new Pool;  // outlives static Views
  return *instance;
}

thread_local PoolRegion* t_region = nullptr;

std::int64_t rounded(std::int64_t bytes, std::int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

Piece& add_piece(std::int64_t bytes) {
  using device_pool::k_alignment;
  const std::int64_t size = rounded(std::max(bytes, Pool::k_least_piece), std::int64_t{2} << 20);
  void* const allocation = Kokkos::kokkos_malloc<MemSpace>(
      memory_ledger::k_uncounted, static_cast<std::size_t>(size + k_alignment));
  // Kokkos puts a header of its own in front.
  auto* memory = static_cast<std::byte*>(allocation);
  memory += (k_alignment - reinterpret_cast<std::intptr_t>(allocation) % k_alignment) % k_alignment;
  SDP_FORBID_ACCESS(memory, size);
  return pool().pieces.emplace_back(Piece{allocation, memory, size, {{0, size}}});
}

/// A gap in a piece; begin < 0: none.
struct Place {
  Piece* piece = nullptr;
  std::int64_t begin = -1;
  std::int64_t bytes = 0;
};

/// The smallest gap of at least so many bytes.
Place best_gap(std::int64_t bytes) {
  Place best;
  for (Piece& piece : pool().pieces)
    for (auto const& [begin, size] : piece.gaps)
      if (size >= bytes && (best.begin < 0 || size < best.bytes)) best = {&piece, begin, size};
  return best;
}

std::byte* take(std::int64_t bytes) {
  Place place = best_gap(bytes);
  if (place.begin < 0) {
    Piece& piece = add_piece(bytes);
    place = {&piece, 0, piece.bytes};
  }
  auto& gaps = place.piece->gaps;
  gaps.erase(place.begin);
  if (place.bytes > bytes) gaps.emplace(place.begin + bytes, place.bytes - bytes);
  std::byte* const memory = place.piece->memory + place.begin;
  SDP_ALLOW_ACCESS(memory, bytes);
  return memory;
}

void give(std::byte* begin, std::int64_t bytes) {
  auto& pieces = pool().pieces;
  const auto piece = std::find_if(pieces.begin(), pieces.end(),
                                  [&](Piece const& one) { return one.contains(begin); });
  if (piece == pieces.end()) throw std::logic_error("device_pool: memory of another owner");
  SDP_FORBID_ACCESS(begin, bytes);
  auto& gaps = piece->gaps;
  auto gap = gaps.emplace(begin - piece->memory, bytes).first;
  if (const auto next = std::next(gap);
      next != gaps.end() && gap->first + gap->second == next->first) {
    gap->second += next->second;
    gaps.erase(next);
  }
  if (gap != gaps.begin()) {
    const auto before = std::prev(gap);
    if (before->first + before->second == gap->first) {
      before->second += gap->second;
      gaps.erase(gap);
    }
  }
  if (!piece->unused()) return;
  SDP_ALLOW_ACCESS(piece->memory, piece->bytes);
  Kokkos::kokkos_free<MemSpace>(piece->allocation);
  pieces.erase(piece);
}

}  // namespace

namespace device_pool {

bool in_use() {
  return pool().on;
}
void use(bool on) {
  pool().on = on;
}

void reserve(std::int64_t bytes) {
  if (in_use() && bytes > 0 && best_gap(bytes).begin < 0) add_piece(bytes);
}

Usage usage() {
  Usage usage;
  for (Piece const& piece : pool().pieces) {
    usage.pieces += 1;
    usage.reserved += piece.bytes;
    usage.used += piece.bytes;
    for (auto const& [begin, size] : piece.gaps) {
      usage.used -= size;
      usage.largest_free = std::max(usage.largest_free, size);
    }
  }
  return usage;
}

}  // namespace device_pool

void PoolRegion::clear() {
  if (m_buffers.empty()) return;
  Kokkos::fence();
  for (Buffer const& buffer : m_buffers) {
    memory_ledger::add(buffer.category, -buffer.bytes);
    give(buffer.begin, rounded(buffer.bytes, device_pool::k_alignment));
  }
  m_buffers.clear();
}

PoolScope::PoolScope(PoolRegion& region) : m_previous(t_region) {
  t_region = &region;
}
PoolScope::~PoolScope() {
  t_region = m_previous;
}

void* take_from_pool(std::int64_t bytes) {
  if (t_region == nullptr || !pool().on) return nullptr;
  t_region->m_buffers.reserve(t_region->m_buffers.size() + 1);
  std::byte* const memory = take(rounded(bytes, device_pool::k_alignment));
  const MemoryCategory category = memory_ledger::category();
  t_region->m_buffers.push_back({memory, bytes, category});
  memory_ledger::add(category, bytes);
  return memory;
}

}  // namespace sdp
