// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/core/checks.hpp"
#include "kernels/core/team.hpp"

namespace sdp::kernels {

/// Buffers in which a contribution to a sum can lie beside those of peers, which count from 0.
inline constexpr int k_sum_own = -1, k_sum_received = -2;

/// Where one contribution to a sum begins: `offset` elements into a buffer. After it has been
/// pushed on a stack, the two topmost entries are added `merges` times.
struct SumTerm {
  index_t offset;
  int buffer;
  int merges;
};

/// Some of the elements of a sum: elements [offset, offset + count) of its terms, which are entries
/// [first_term, first_term + terms) of a list, stored from `own` on in the own buffer.
struct SumPiece {
  double scale;
  index_t own;
  index_t offset;
  int count;
  int first_term;
  int terms;
};

/// Sums as lists for a kernel; built on the host, once for a layout.
struct SumList {
  std::vector<SumTerm> terms;
  std::vector<SumPiece> pieces;
};

/// The most elements of a piece: few enough to share a sum among all cores, and many enough that
/// the launch of a team and the list itself are lost in them.
inline constexpr index_t k_sum_piece = 4096;

/// A contribution to a sum of any number of them: the id of the worker or node that it comes from,
/// a buffer and its first element there.
struct SumSource {
  int id;
  int buffer;
  index_t offset;
};

/// Appends own[own + i] = scale * sum over sources of source(i), i in [0, count). Sources come in
/// ascending order of ids; one in the own buffer begins at `own`. Throws ShapeError otherwise, and
/// where there is none.
///
/// Reduction order: a binary tree whose leaves are the ids 0, 1, 2, ...; the node over leaves
/// [k 2^l, (k+1) 2^l) is the sum of its two halves, absent leaves are skipped, and the scale is
/// applied once, at the root. The tree is written down as a program for a stack: neighbouring
/// leaves a < b meet at height bit_width(a xor b), so an entry is complete when the next leaf joins
/// it higher up.
inline void append_sum(SumList& list, std::vector<SumSource> const& sources, double scale,
                       index_t own, index_t count) {
  constexpr char const* k_name = "sdp::kernels::ordered_sum";
  constexpr int k_above_all = 64;
  require(!sources.empty(), k_name, "no terms");
  const auto first = static_cast<int>(list.terms.size());
  std::vector<int> heights;  // where each entry of the stack meets the next one
  for (std::size_t i = 0; i < sources.size(); ++i) {
    SumSource const& source = sources[i];
    require(source.id >= 0 && (i == 0 || sources[i - 1].id < source.id), k_name,
            "ids are not ascending");
    require(source.buffer != k_sum_own || source.offset == own, k_name,
            "an own term is not where the sum is");
    int height = k_above_all;  // after the last term everything meets
    if (i + 1 < sources.size()) {
      height = 0;
      for (int bits = source.id ^ sources[i + 1].id; bits != 0; bits >>= 1) ++height;
    }
    int merges = 0;
    for (; !heights.empty() && heights.back() < height; heights.pop_back()) ++merges;
    heights.push_back(height);
    list.terms.push_back({source.offset, source.buffer, merges});
  }
  for (index_t begin = 0; begin < count; begin += k_sum_piece)
    list.pieces.push_back({scale, own + begin, begin,
                           static_cast<int>(std::min(k_sum_piece, count - begin)), first,
                           static_cast<int>(sources.size())});
}

/// The buffer of a peer.
template <class T>
struct SumPeer {
  T* data;
};

/// The buffers of a list: `own` has the sums and may have a term of each, `received` has others, in
/// the type of messages, and peers[p] those of peer p (a table in memory of the execution space).
template <class In, class T>
struct SumBuffers {
  T* own;
  In const* received;
  SumPeer<T> const* peers;
};

namespace Details {

/// Ids have 31 bits, so at most 31 unfinished subtrees wait beside the newest leaf.
inline constexpr int k_sum_stack = 32;

/// On a CPU blocks this short let the prefetchers follow all terms side by side: with 256 elements
/// eight terms in main memory come at a quarter of the rate.
template <ExecutionSpace Exec>
inline constexpr int k_sum_block = k_is_host<Exec> ? 64 : 1;

/// Elements [begin, begin + size) of a piece, size at most N, on a stack of blocks.
template <int N, class In, class T>
KOKKOS_INLINE_FUNCTION void sum_block(SumTerm const* terms, SumPiece const& piece, int begin,
                                      int size, SumBuffers<In, T> const& buffers, bool hand_back) {
  constexpr bool k_rounded = !std::is_same_v<In, T>;
  T* const own = buffers.own + piece.own + begin;
  T stack[k_sum_stack][N];
  int top = 0, taken = 0;
  do {  // a sum has a term
    const SumTerm term = terms[piece.first_term + taken];
    int merges = term.merges;
    const auto take = [&](auto const& value) {
      if (merges > 0) {
        --merges;
        T* const left = stack[top - 1];
        for (int i = 0; i < size; ++i) left[i] += value(i);
      } else {
        T* const entry = stack[top++];
        for (int i = 0; i < size; ++i) entry[i] = value(i);
      }
    };
    const index_t at = term.offset + piece.offset + begin;
    if constexpr (k_rounded) {
      if (term.buffer == k_sum_own) {
        T const* const x = own;
        take([x](int i) { return static_cast<T>(static_cast<In>(x[i])); });
      } else {
        In const* const x = buffers.received + at;
        take([x](int i) { return static_cast<T>(x[i]); });
      }
    } else {
      T const* const x = term.buffer == k_sum_own        ? own
                         : term.buffer == k_sum_received ? buffers.received + at
                                                         : buffers.peers[term.buffer].data + at;
      take([x](int i) { return x[i]; });
    }
    for (; merges > 0; --merges) {
      --top;
      T* const left = stack[top - 1];
      T const* const right = stack[top];
      for (int i = 0; i < size; ++i) left[i] += right[i];
    }
  } while (++taken < piece.terms);
  const T scale = static_cast<T>(piece.scale);
  T* const sum = stack[0];
  for (int i = 0; i < size; ++i) {
    sum[i] *= scale;
    if constexpr (k_rounded) sum[i] = static_cast<T>(static_cast<In>(sum[i]));
    own[i] = sum[i];
  }
  if (!hand_back) return;
  for (int t = 0; t < piece.terms; ++t) {
    const SumTerm term = terms[piece.first_term + t];
    if (term.buffer < 0) continue;
    T* const theirs = buffers.peers[term.buffer].data + term.offset + piece.offset + begin;
    for (int i = 0; i < size; ++i) theirs[i] = sum[i];
  }
}

/// The blocks of a piece, by number.
template <class Exec, class In, class T>
struct SumBlocks {
  static constexpr int k_block = k_sum_block<Exec>;
  SumTerm const* terms;
  SumBuffers<In, T> buffers;
  bool hand_back;

  KOKKOS_INLINE_FUNCTION void operator()(SumPiece const& piece, index_t block) const {
    const int begin = static_cast<int>(block) * k_block;
    if (begin + k_block <= piece.count)
      sum_block<k_block>(terms, piece, begin, k_block, buffers, hand_back);
    else
      sum_block<k_block>(terms, piece, begin, piece.count - begin, buffers, hand_back);
  }
};

template <class Exec, class Pieces, class Sum>
void ordered_sum_by_thread(Exec const& exec, Pieces const& pieces, Sum const& sum) {
  Kokkos::parallel_for(
      "sdp::kernels::ordered_sum", element_policy(exec, static_cast<index_t>(pieces.extent(0))),
      KOKKOS_LAMBDA(index_t p) {
        const SumPiece piece = pieces(p);
        for (int block = 0; block * Sum::k_block < piece.count; ++block) sum(piece, block);
      });
}

template <class Exec, class Pieces, class Sum>
void ordered_sum_by_team(Exec const& exec, Pieces const& pieces, Sum const& sum) {
  Kokkos::parallel_for(
      "sdp::kernels::ordered_sum", row_policy(exec, static_cast<index_t>(pieces.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const SumPiece piece = pieces(team.league_rank());
        const Sum sums = sum;
        row_for(team, piece.count, [=](index_t i) { sums(piece, i); });
      });
}

}  // namespace Details

/// Forms the sums of a list in one launch: one team for each piece. For what is added in which
/// order see append_sum; the bits depend on the set of ids and nothing else.
///
/// terms (t) SumTerm; pieces (p) SumPiece, of these terms. T accumulates and is the type of the own
/// buffer and of those of peers; In is that of received terms: T itself, or a narrower type. A
/// narrower one has own terms rounded to In before they are added, and sums after they are scaled,
/// so that they are what a message in In carries, whichever contributions stayed where they were;
/// peers then have none.
///
/// With `hand_back` a sum is also stored in place of those of its terms that lie in buffers of
/// peers. Elements of the own buffer outside the pieces are not touched. What two pieces read or
/// write does not overlap.
template <ExecutionSpace Exec, ViewOfRank<1> Terms, ViewOfRank<1> Pieces, class In, class T>
void ordered_sum(Exec const& exec, Terms const& terms, Pieces const& pieces,
                 SumBuffers<In, T> const& buffers, bool hand_back = false) {
  static_assert(std::is_same_v<T, accum_t<In>>,
                "ordered_sum: the sum must have the accumulation type of its terms");
  if (pieces.extent(0) == 0) return;
  const Details::SumBlocks<Exec, In, T> sum{terms.data(), buffers, hand_back};
  if constexpr (k_is_host<Exec>)  // a team would have Kokkos allocate at its first launch
    Details::ordered_sum_by_thread(exec, pieces, sum);
  else
    Details::ordered_sum_by_team(exec, pieces, sum);
}

/// Stores what the own buffer has where the sums of a list are in place of those of their terms
/// that lie in buffers of peers. One launch: one team for each piece.
template <ExecutionSpace Exec, ViewOfRank<1> Terms, ViewOfRank<1> Pieces, class T>
void hand_back_sums(Exec const& exec, Terms const& terms, Pieces const& pieces, T const* own,
                    SumPeer<T> const* peers) {
  if (pieces.extent(0) == 0) return;
  Kokkos::parallel_for(
      "sdp::kernels::hand_back_sums", row_policy(exec, static_cast<index_t>(pieces.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const SumPiece piece = pieces(team.league_rank());
        T const* const from = own + piece.own;
        for (int t = 0; t < piece.terms; ++t) {
          const SumTerm term = terms(piece.first_term + t);
          if (term.buffer < 0) continue;
          T* const to = peers[term.buffer].data + term.offset + piece.offset;
          row_for(team, piece.count, [=](index_t i) { to[i] = from[i]; });
        }
      });
}

}  // namespace sdp::kernels
