// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/index_range.hpp"
#include "base/parameter_table.hpp"
#include "base/types.hpp"

namespace sdp {

/// A run of elements that is contiguous both in a logical tensor and in a rank's buffer.
struct FlatPiece {
  int tensor;
  index_t begin;  ///< first element of the logical tensor, in storage order
  index_t count;
  index_t source;  ///< first element of the buffer
};

/// Cuts ranges of the flat buffer of `table` at span boundaries; adjacent pieces are joined. The
/// pieces come sorted by (tensor, begin). With `packed` the buffer holds only the ranges, one after
/// the other in the given order (an optimizer state that exists for a slice only); without, it is
/// laid out as the table says. Throws std::invalid_argument for a range outside the table.
std::vector<FlatPiece> flat_pieces(ParameterTable const& table,
                                   std::vector<IndexRange> const& ranges, bool packed = false);
/// Everything that the table holds.
std::vector<FlatPiece> flat_pieces(ParameterTable const& table);

/// Elements that pass through host memory at a time, a whole number of checksum blocks.
inline constexpr index_t k_chunk_elements = index_t{1} << 21;

/// The elements of a flat buffer where the host can reach them, else nullptr.
template <class T>
T* host_data(View1<T> const& flat) {
  constexpr bool k_reachable =
      Kokkos::SpaceAccessibility<HostSpace, typename View1<T>::memory_space>::accessible;
  return k_reachable ? flat.data() : nullptr;
}

/// flat[first, first + count) to the host.
template <class T>
void copy_from_flat(View1<T> const& flat, index_t first, index_t count, T* out) {
  Kokkos::View<T*, Kokkos::LayoutRight, HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> host(
      out, count);
  Kokkos::deep_copy(host, Kokkos::subview(flat, std::make_pair(first, first + count)));
}

/// Fills a flat buffer: read(tensor, begin, count, host pointer) gives `count` elements of a
/// logical tensor, of type T or, for bf16, float, which are rounded here. Chunks end where
/// multiples of k_chunk_elements of the logical tensor end.
template <class T, class Read>
void fill_flat(std::vector<FlatPiece> const& pieces, View1<T> const& flat, Read const& read) {
  std::vector<kernels::accum_t<T>> wide;  // for bf16
  std::vector<T> staging;
  for (FlatPiece const& piece : pieces) {
    index_t first = piece.source;
    for (index_t begin = piece.begin; begin < piece.begin + piece.count;) {
      const index_t chunk_end = (begin / k_chunk_elements + 1) * k_chunk_elements;
      const index_t count = std::min(chunk_end, piece.begin + piece.count) - begin;
      const auto read_to = [&](T* out) {
        if constexpr (std::is_same_v<T, kernels::accum_t<T>>) {
          read(piece.tensor, begin, count, out);
        } else {
          if (wide.size() < static_cast<std::size_t>(count)) wide.resize(count);
          read(piece.tensor, begin, count, wide.data());
          for (index_t i = 0; i < count; ++i) out[i] = static_cast<T>(wide[i]);
        }
      };
      if (T* reachable = host_data(flat)) {
        read_to(reachable + first);
        begin += count;
        first += count;
        continue;
      }
      if (staging.size() < static_cast<std::size_t>(count)) staging.resize(count);
      read_to(staging.data());
      Kokkos::View<T*, Kokkos::LayoutRight, HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>
          host(staging.data(), count);
      Kokkos::deep_copy(Kokkos::subview(flat, std::make_pair(first, first + count)), host);
      begin += count;
      first += count;
    }
  }
}

}  // namespace sdp
