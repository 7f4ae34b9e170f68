// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/concepts.hpp"

namespace sdp::kernels {

/// `count` elements at `flat` of a flat buffer and at `packed` of a packed one.
struct CopySpan {
  index_t flat;
  index_t packed;
  index_t count;
};

namespace Details {
template <class Exec, class Spans, class From, class To>
void copy_spans(char const* label, Exec const& exec, Spans const& spans, From const* from, To* to,
                bool pack) {
  using Policy = Kokkos::TeamPolicy<Exec>;
  const int league = static_cast<int>(spans.extent(0));
  if (league == 0) return;
  Kokkos::parallel_for(
      label, Policy(exec, league, Kokkos::AUTO),
      KOKKOS_LAMBDA(typename Policy::member_type const& team) {
        const CopySpan span = spans(team.league_rank());
        From const* const source = from + (pack ? span.flat : span.packed);
        To* const target = to + (pack ? span.packed : span.flat);
        Kokkos::parallel_for(Kokkos::TeamVectorRange(team, span.count),
                             [=](index_t i) { target[i] = static_cast<To>(source[i]); });
      });
}
}  // namespace Details

/// packed(spans(s).packed + i) = flat(spans(s).flat + i) for every span, one team per span (give
/// spans of some thousands of elements). Overwrites; the buffers do not overlap, nor do targets.
/// Elements are converted where the buffers have different storage types, with one rounding.
template <ExecutionSpace Exec, ViewOfRank<1> Spans, ViewOfRank<1> Flat, ViewOfRank<1> Packed>
void pack_spans(Exec const& exec, Spans const& spans, Flat const& flat, Packed const& packed) {
  Details::copy_spans("sdp::kernels::pack_spans", exec, spans, flat.data(), packed.data(), true);
}

/// flat(spans(s).flat + i) = packed(spans(s).packed + i): the inverse of pack_spans.
template <ExecutionSpace Exec, ViewOfRank<1> Spans, ViewOfRank<1> Packed, ViewOfRank<1> Flat>
void unpack_spans(Exec const& exec, Spans const& spans, Packed const& packed, Flat const& flat) {
  Details::copy_spans("sdp::kernels::unpack_spans", exec, spans, packed.data(), flat.data(), false);
}

}  // namespace sdp::kernels
