// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/memory_ledger.hpp"
#include "base/types.hpp"

namespace sdp {

/// One pool for the large buffers of a process: it takes memory from the device in large pieces and
/// cuts buffers from them, so that what is freed for an evaluation or another mask is there again
/// afterwards, whatever else uses the device. Buffers are placed where they fit best and neighbours
/// join when they are freed; a piece of which nothing is used goes back to the device at once. In
/// use where the default memory space is a device's; in other builds until use(true) every buffer
/// is an allocation of its own.
///
/// The ledger counts buffers by their category, not the pieces. One pool per process; its functions
/// may be called from one thread.
namespace device_pool {

/// Every buffer begins at a multiple of this many bytes.
inline constexpr std::int64_t k_alignment = 512;

bool in_use();
/// Whether buffers of regions come from the pool from now on. Regions that have any keep them.
void use(bool on);

/// Takes a piece of at least `bytes` from the device unless so much is free in one piece already,
/// and keeps it until a buffer was cut from it and all are freed. Throws std::bad_alloc or what
/// Kokkos throws where there is too little. Nothing happens where the pool is not in use.
void reserve(std::int64_t bytes);

struct Usage {
  std::int64_t pieces = 0;        ///< number
  std::int64_t reserved = 0;      ///< bytes of all pieces
  std::int64_t used = 0;          ///< bytes of buffers, rounded up to k_alignment
  std::int64_t largest_free = 0;  ///< bytes of the largest gap
};
Usage usage();

}  // namespace device_pool

/// Owner of buffers of the pool: Views of them are valid while it lives and has not been cleared.
class PoolRegion {
 public:
  PoolRegion() = default;
  ~PoolRegion() { clear(); }
  PoolRegion(PoolRegion&& other) noexcept { m_buffers.swap(other.m_buffers); }
  PoolRegion& operator=(PoolRegion&& other) noexcept {
    if (this == &other) return *this;
    clear();
    m_buffers.swap(other.m_buffers);
    return *this;
  }

  /// Waits for the device and frees the buffers.
  void clear();

 private:
  friend void* take_from_pool(std::int64_t bytes);
  struct Buffer {
    std::byte* begin;
    std::int64_t bytes;  ///< as asked for
    MemoryCategory category;
  };
  std::vector<Buffer> m_buffers;
};

/// While it lives, allocate() in this thread cuts from the pool and gives the buffers to `region`,
/// where the pool is in use. Scopes nest.
class PoolScope {
 public:
  explicit PoolScope(PoolRegion& region);
  ~PoolScope();
  PoolScope(PoolScope const&) = delete;
  PoolScope& operator=(PoolScope const&) = delete;

 private:
  PoolRegion* m_previous;
};

/// Memory of the innermost PoolScope's region; null outside of scopes and where the pool is not in
/// use.
void* take_from_pool(std::int64_t bytes);

/// A View with these extents that is not initialised: of the region of the PoolScope around the
/// call, else an allocation of its own, which it keeps alive. Empty where an extent is 0: Kokkos
/// would count the header of an empty allocation.
template <class View, class... Extents>
View allocate(std::string const& label, Extents... extents) {
  if ((!extents || ...)) return View();
  const auto bytes = static_cast<std::int64_t>(
      View::required_allocation_size(static_cast<std::size_t>(extents)...));
  if (void* memory = take_from_pool(bytes))
    return View(static_cast<typename View::pointer_type>(memory), extents...);
  return View(Kokkos::view_alloc(Kokkos::WithoutInitializing, label), extents...);
}

}  // namespace sdp
