// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"

namespace sdp::kernels {

/// The contributions to one sum: pointers to the same number of elements, each with the id of the
/// worker that it comes from, ascending. At most k_capacity; a larger sum is made of several, one
/// for each aligned group of k_capacity ids and one over the groups.
template <class T>
struct SumTerms {
  static constexpr int k_capacity = 64;
  T const* data[k_capacity];
  int worker[k_capacity];
  int count = 0;

  void add(int id, T const* elements) {
    require(count < k_capacity, "sdp::kernels::ordered_sum", "more than 64 terms");
    require(id >= 0 && (count == 0 || worker[count - 1] < id), "sdp::kernels::ordered_sum",
            "worker ids are not ascending");
    worker[count] = id;
    data[count++] = elements;
  }
};

namespace Details {

/// Ids have 31 bits, so at most 31 unfinished subtrees wait beside the newest leaf.
inline constexpr int k_sum_stack = 32;

/// The tree as a program for a stack: after term i is pushed, the two topmost entries are added
/// merges[i] times. Neighbouring leaves a < b meet at height bit_width(a xor b) of the full binary
/// tree over ids, so an entry is complete when the next leaf joins it higher up.
template <class T>
struct SumProgram {
  T const* data[SumTerms<T>::k_capacity];
  unsigned char merges[SumTerms<T>::k_capacity];
  int count;

  explicit SumProgram(SumTerms<T> const& terms) : count(terms.count) {
    int heights[SumTerms<T>::k_capacity];  // where entry s of the stack meets entry s + 1
    int depth = 0;
    for (int i = 0; i < count; ++i) {
      data[i] = terms.data[i];
      merges[i] = 0;
      int height = k_sum_stack + 1;  // after the last term everything meets
      if (i + 1 < count) {
        height = 0;
        for (int bits = terms.worker[i] ^ terms.worker[i + 1]; bits != 0; bits >>= 1) ++height;
      }
      while (depth > 0 && heights[depth - 1] < height) {
        ++merges[i];
        --depth;
      }
      heights[depth++] = height;
    }
  }
};

/// What is rounded to the storage type of the terms beside them: nothing; a term that lies in a
/// buffer of its own, of the type of the sum, and is marked by a null pointer; the sum as well.
enum class SumRounding { none, own_term, own_term_and_sum };

/// Elements [begin, begin + size) of the program, size at most N, on a stack of blocks.
template <int N, SumRounding Rounding, class In, class Out, class Acc>
KOKKOS_INLINE_FUNCTION void run_sum_program(SumProgram<In> const& program, index_t begin, int size,
                                            Acc scale, Out const* own, Out* out) {
  Acc stack[k_sum_stack][N];
  int top = 0;
  for (int term = 0; term < program.count; ++term) {
    int merges = program.merges[term];
    const auto take = [&](auto const& value) {
      if (merges > 0) {
        --merges;
        Acc* const left = stack[top - 1];
        for (int i = 0; i < size; ++i) left[i] += value(i);
      } else {
        Acc* const entry = stack[top++];
        for (int i = 0; i < size; ++i) entry[i] = value(i);
      }
    };
    if (Rounding != SumRounding::none && program.data[term] == nullptr) {
      Out const* const x = own + begin;
      take([x](int i) { return static_cast<Acc>(static_cast<In>(x[i])); });
    } else {
      In const* const x = program.data[term] + begin;
      take([x](int i) { return static_cast<Acc>(x[i]); });
    }
    for (; merges > 0; --merges) {
      --top;
      Acc* const left = stack[top - 1];
      Acc const* const right = stack[top];
      for (int i = 0; i < size; ++i) left[i] += right[i];
    }
  }
  Out* const y = out + begin;
  for (int i = 0; i < size; ++i) {
    if constexpr (Rounding == SumRounding::own_term_and_sum)
      y[i] = static_cast<Out>(static_cast<In>(stack[0][i] * scale));
    else
      y[i] = static_cast<Out>(stack[0][i] * scale);
  }
}

template <SumRounding Rounding, class Exec, class In, class Out, class Acc>
void launch_ordered_sum(Exec const& exec, SumProgram<In> const& program, Acc scale, Out const* own,
                        Out* out, index_t size) {
  constexpr bool k_host =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible;
  // Blocks this short let the prefetchers of a CPU follow all terms side by side: with 256 elements
  // eight terms in main memory come at a quarter of the rate.
  constexpr int k_block = k_host ? 64 : 1;
  const Kokkos::RangePolicy<Exec, Kokkos::IndexType<index_t>> policy(
      exec, 0, (size + k_block - 1) / k_block);
  // The program is a large argument; without this hint CUDA and HIP copy it to constant memory, for
  // which the host waits until the sum before this one is done.
  Kokkos::parallel_for(
      "sdp::kernels::ordered_sum",
      Kokkos::Experimental::require(policy,
                                    Kokkos::Experimental::WorkItemProperty::HintLightWeight),
      KOKKOS_LAMBDA(index_t block) {
        const index_t begin = block * k_block;
        if (begin + k_block <= size)
          run_sum_program<k_block, Rounding>(program, begin, k_block, scale, own, out);
        else
          run_sum_program<k_block, Rounding>(program, begin, static_cast<int>(size - begin), scale,
                                             own, out);
      });
}

}  // namespace Details

/// out(i) = scale * sum over terms of term(i), out (n), overwritten.
///
/// Reduction order: a binary tree whose leaves are the worker ids 0, 1, 2, ...; the node over
/// leaves [k 2^l, (k+1) 2^l) is the sum of its two halves, absent leaves are skipped, and the scale
/// is applied once, at the root. The bits of the result depend on the set of worker ids and nothing
/// else. One pass over memory. Accumulates in accum_t of the terms.
///
/// Each term has n elements; out may be one of the terms and may overlap no other. Throws
/// ShapeError when there is no term.
template <ExecutionSpace Exec, class In, ViewOfRank<1> Out>
void ordered_sum(Exec const& exec, SumTerms<In> const& terms, double scale, Out const& out) {
  require(terms.count > 0, "sdp::kernels::ordered_sum", "no terms");
  const auto size = static_cast<index_t>(out.extent(0));
  if (size == 0) return;
  using Acc = accum_t<In>;
  const Details::SumProgram<In> program(terms);
  Details::launch_ordered_sum<Details::SumRounding::none>(exec, program, static_cast<Acc>(scale),
                                                          out.data(), out.data(), size);
}

/// One contribution to a sum of any number of them; ascending by worker.
template <class T>
struct SumTerm {
  int worker;
  T* data;
};

/// The same sum, bit for bit, over any number of terms. Beyond SumTerms::k_capacity it takes one
/// pass over memory for each level of aligned groups of that many ids: their sums overwrite a term
/// of each group (never out), and the list is left changed.
template <ExecutionSpace Exec, ViewOfRank<1> Out>
void ordered_sum(Exec const& exec, std::vector<SumTerm<value_t<Out>>>& terms, double scale,
                 Out const& out) {
  using T = value_t<Out>;
  static_assert(std::is_same_v<T, accum_t<T>>, "partial sums must not be rounded");
  constexpr std::size_t k_capacity = SumTerms<T>::k_capacity;
  while (terms.size() > k_capacity) {
    std::size_t kept = 0;
    for (std::size_t first = 0, last = 0; first < terms.size(); first = last) {
      const int group = terms[first].worker / static_cast<int>(k_capacity);
      SumTerms<T> members;
      T* target = terms[first].data;
      for (; last < terms.size() && terms[last].worker / static_cast<int>(k_capacity) == group;
           ++last) {
        members.add(terms[last].worker, terms[last].data);
        if (target == out.data()) target = terms[last].data;
      }
      if (members.count > 1)
        ordered_sum(exec, members, 1.0,
                    Kokkos::View<T*, typename Out::array_layout, typename Out::memory_space,
                                 Kokkos::MemoryTraits<Kokkos::Unmanaged>>(target, out.extent(0)));
      terms[kept++] = {group, target};
    }
    terms.resize(kept);
  }
  SumTerms<T> members;
  for (auto const& term : terms) members.add(term.worker, term.data);
  ordered_sum(exec, members, scale, out);
}

/// The same tree over contributions that came over a wire in a narrower type In than the sum is
/// formed in: out = In(scale * sum of terms), where a term without data (nullptr) is out itself,
/// rounded to In as the others were. What out then holds is exactly what a message in In carries,
/// and does not depend on which of the contributions stayed where it was.
///
/// out (n) of accum_t<In>; the other terms have n elements and do not overlap it. Beyond
/// SumTerms::k_capacity terms the sums of aligned groups of that many ids are kept, unrounded, in
/// `partials` (accum_t<In>): any number of elements from that of the groups on, more make fewer
/// launches. `groups` is scratch. Throws ShapeError where there is no term or too little room.
template <ExecutionSpace Exec, class In, ViewOfRank<1> Out>
void rounded_ordered_sum(Exec const& exec, std::vector<SumTerm<In>> const& terms, double scale,
                         Out const& out, Out const& partials,
                         std::vector<SumTerm<value_t<Out>>>& groups) {
  using T = value_t<Out>;
  using Window = Kokkos::View<T*, typename Out::array_layout, typename Out::memory_space,
                              Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  using Details::SumRounding;
  constexpr char const* k_name = "sdp::kernels::rounded_ordered_sum";
  constexpr std::size_t k_capacity = SumTerms<In>::k_capacity;
  static_assert(std::is_same_v<T, accum_t<In>> && !std::is_same_v<T, In>,
                "rounded_ordered_sum: the sum must have the accumulation type of narrower terms");
  require(!terms.empty(), k_name, "no terms");
  const auto size = static_cast<index_t>(out.extent(0));
  if (size == 0) return;
  const auto members_of = [&](std::size_t first, std::size_t last, index_t begin) {
    SumTerms<In> members;
    for (std::size_t i = first; i < last; ++i)
      members.add(terms[i].worker, terms[i].data == nullptr ? nullptr : terms[i].data + begin);
    return Details::SumProgram<In>(members);
  };
  if (terms.size() <= k_capacity) {
    Details::launch_ordered_sum<SumRounding::own_term_and_sum>(
        exec, members_of(0, terms.size(), 0), static_cast<T>(scale), out.data(), out.data(), size);
    return;
  }
  const auto group_of = [&](std::size_t i) {
    return terms[i].worker / static_cast<int>(k_capacity);
  };
  index_t count = 1;
  for (std::size_t i = 1; i < terms.size(); ++i) count += group_of(i) != group_of(i - 1) ? 1 : 0;
  const index_t chunk = static_cast<index_t>(partials.extent(0)) / count;
  require(chunk > 0, k_name, "partials " + shape_string(partials) + " are too few for the groups");
  for (index_t begin = 0; begin < size; begin += chunk) {
    const index_t some = size - begin < chunk ? size - begin : chunk;
    T* const part = out.data() + begin;
    groups.clear();
    for (std::size_t first = 0, last = 0; first < terms.size(); first = last) {
      while (last < terms.size() && group_of(last) == group_of(first)) ++last;
      T* const sum = partials.data() + static_cast<index_t>(groups.size()) * chunk;
      Details::launch_ordered_sum<SumRounding::own_term>(exec, members_of(first, last, begin), T(1),
                                                         static_cast<T const*>(part), sum, some);
      groups.push_back({group_of(first), sum});
    }
    const Window target(part, static_cast<std::size_t>(some));
    ordered_sum(exec, groups, scale, target);
    Kokkos::parallel_for(
        "sdp::kernels::round_sum",
        Kokkos::RangePolicy<Exec, Kokkos::IndexType<index_t>>(exec, 0, some),
        KOKKOS_LAMBDA(index_t i) { part[i] = static_cast<T>(static_cast<In>(part[i])); });
  }
}

}  // namespace sdp::kernels
