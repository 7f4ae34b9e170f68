// SPDX-License-Identifier: Apache-2.0
#include "comm/holder_set_reduce.hpp"

#include <algorithm>
#include <map>

#include "base/memory_ledger.hpp"
#include "comm/copy_list.hpp"
#include "comm/mpi_error.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/update/scale.hpp"

namespace sdp {

namespace {

constexpr index_t k_chunk = index_t{1} << 28;  // elements; counts in MPI are int

/// The model as one bucket.
std::vector<IndexRange> whole_model(ExchangeLayout const& layout) {
  return {{0, layout.gradients.front().logical_size()}};
}

template <class G>
MPI_Datatype mpi_type() {
  return std::is_same_v<G, double> ? MPI_DOUBLE : MPI_FLOAT;
}

template <class G>
void all_reduce(G* data, index_t count, MPI_Comm comm) {
  for (index_t begin = 0; begin < count; begin += k_chunk)
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, data + begin,
                            static_cast<int>(std::min(k_chunk, count - begin)), mpi_type<G>(),
                            MPI_SUM, comm),
              "MPI_Allreduce");
}

}  // namespace

template <class G>
index_t HolderSetReduce<G>::count_sets(ExchangeLayout const& layout) {
  const auto bucket = whole_model(layout);
  OwnerMap owners(layout, bucket);
  std::vector<TableMask> masks;
  for (Piece const& piece : owners.next_bucket()) masks.push_back(piece.holders);
  std::sort(masks.begin(), masks.end());
  return std::unique(masks.begin(), masks.end()) - masks.begin();
}

template <class G>
HolderSetReduce<G>::HolderSetReduce(World const& world, ExchangeLayout const& layout,
                                    ExecSpace exec)
    : m_exec(exec) {
  const auto bucket = whole_model(layout);
  OwnerMap owners(layout, bucket);
  std::map<TableMask, std::vector<IndexRange>> logical;
  for (Piece const& piece : owners.next_bucket()) logical[piece.holders].push_back(piece.logical);
  const int table = layout.table_of_worker[static_cast<std::size_t>(world.worker())];
  std::vector<kernels::CopySpan> spans;
  index_t largest = 0;
  for (auto const& [mask, pieces] : logical) {
    const bool member = (mask >> table & 1) != 0;
    Set set;
    check_mpi(MPI_Comm_split(world.comm(), member ? 0 : MPI_UNDEFINED, world.rank(), &set.comm),
              "MPI_Comm_split");
    if (!member) continue;
    set.holders = static_cast<int>(owners.workers(mask).size());
    FlatCursor cursor(owners.gradients(table));
    for (IndexRange const& piece : pieces) {
      const index_t flat = cursor.find(piece.begin);
      if (!set.ranges.empty() && set.ranges.back().end == flat)
        set.ranges.back().end += piece.size();
      else
        set.ranges.push_back({flat, flat + piece.size()});
      set.elements += piece.size();
    }
    if (set.ranges.size() > 1) {
      set.first_span = static_cast<index_t>(spans.size());
      index_t packed = 0;
      for (IndexRange const& range : set.ranges) {
        append_copy(spans, range.begin, packed, range.size());
        packed += range.size();
      }
      set.spans = static_cast<index_t>(spans.size()) - set.first_span;
      largest = std::max(largest, set.elements);
    }
    m_sets.push_back(std::move(set));
  }
  const MemoryScope scope(MemoryCategory::communication);
  m_spans = View1<kernels::CopySpan>("sdp::comm::holder_set_spans", spans.size());
  Kokkos::deep_copy(m_spans, HostView1<kernels::CopySpan const>(spans.data(), spans.size()));
  m_packed = View1<G>("sdp::comm::holder_set_elements", static_cast<std::size_t>(largest));
}

template <class G>
HolderSetReduce<G>::~HolderSetReduce() {
  int finalized = 0;
  if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized) return;
  for (Set& set : m_sets) MPI_Comm_free(&set.comm);
}

template <class G>
void HolderSetReduce<G>::average(View1<G> const& gradients) {
  for (Set const& set : m_sets) {
    G* data = gradients.data() + set.ranges.front().begin;
    const auto spans = copy_window(m_spans, set.first_span, set.spans);
    if (set.spans > 0) {
      kernels::pack_spans(m_exec, spans, gradients, m_packed);
      data = m_packed.data();
    }
    kernels::fence(m_exec, "sdp::comm::holder_set_reduce");
    all_reduce(data, set.elements, set.comm);
    kernels::scale(m_exec, 1.0 / set.holders,
                   Window1<G>(data, static_cast<std::size_t>(set.elements)));
    if (set.spans > 0) kernels::unpack_spans(m_exec, spans, m_packed, gradients);
  }
  kernels::fence(m_exec, "sdp::comm::holder_set_reduce");
}

template class HolderSetReduce<float>;
template class HolderSetReduce<double>;

}  // namespace sdp
