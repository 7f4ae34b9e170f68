// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <vector>

#include "base/types.hpp"
#include "kernels/update/copy_spans.hpp"

namespace sdp {

/// Appends spans that copy `count` elements between `flat` and `packed`, short enough for one team
/// each.
inline void append_copy(std::vector<kernels::CopySpan>& spans, index_t flat, index_t packed,
                        index_t count) {
  constexpr index_t k_span_elements = 8192;
  for (index_t begin = 0; begin < count; begin += k_span_elements)
    spans.push_back({flat + begin, packed + begin, std::min(k_span_elements, count - begin)});
}

/// A window of `count` spans of a list in memory of the execution space.
inline auto copy_window(View1<kernels::CopySpan> const& list, index_t first, index_t count) {
  return Kokkos::View<kernels::CopySpan const*, Kokkos::LayoutRight, MemSpace,
                      Kokkos::MemoryTraits<Kokkos::Unmanaged>>(list.data() + first,
                                                               static_cast<std::size_t>(count));
}

}  // namespace sdp
