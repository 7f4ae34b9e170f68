// SPDX-License-Identifier: Apache-2.0
#include "comm/owners.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace sdp {

namespace {

constexpr std::size_t k_max_tables = 64;

// Segments that are not divided: their messages would be short runs that all have to be packed.
// What a worker owns differs from its fair share by little more than one of them.
constexpr index_t k_whole_elements = 16384;
constexpr index_t k_whole_fraction = 128;  // of a worker's fair share of the model, at most

std::vector<index_t> logical_offsets(ParameterTable const& table) {
  std::vector<index_t> offsets{0};
  for (TensorSpec const& tensor : table.tensors())
    offsets.push_back(offsets.back() + tensor.size());
  return offsets;
}

std::vector<HeldRange> held_ranges(ParameterTable const& table,
                                   std::vector<index_t> const& offsets) {
  std::vector<HeldRange> held;
  for (Span const& span : table.spans()) {
    const index_t cols = table.tensors()[static_cast<std::size_t>(span.tensor)].cols;
    const index_t begin = offsets[static_cast<std::size_t>(span.tensor)] + span.row_begin * cols;
    const index_t count = span.rows * cols;
    if (count == 0) continue;
    // Neighbours count as one, so that owners do not depend on how a tensor is divided into units.
    if (!held.empty() && held.back().logical.end == begin &&
        held.back().flat + held.back().logical.size() == span.offset)
      held.back().logical.end += count;
    else
      held.push_back({{begin, begin + count}, span.offset});
  }
  return held;
}

}  // namespace

ExchangeLayout dense_layout(ParameterTable const& table, int workers) {
  ExchangeLayout layout;
  layout.gradients.push_back(table);
  layout.table_of_worker.assign(static_cast<std::size_t>(workers), 0);
  return layout;
}

index_t FlatCursor::find(index_t logical) {
  while (m_next < m_held->size() && (*m_held)[m_next].logical.end <= logical) ++m_next;
  if (m_next == m_held->size() || (*m_held)[m_next].logical.begin > logical) return -1;
  return (*m_held)[m_next].flat + logical - (*m_held)[m_next].logical.begin;
}

index_t FlatCursor::lower_bound(index_t logical, index_t size) {
  const index_t found = find(logical);
  if (found >= 0) return found;
  return m_next < m_held->size() ? (*m_held)[m_next].flat : size;
}

OwnerMap::OwnerMap(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets)
    : m_layout(layout), m_buckets(buckets), m_owned(layout.table_of_worker.size(), 0) {
  describe();
  make_segments();
  m_whole_elements = std::min(
      k_whole_elements, m_offsets.back() / (k_whole_fraction * std::max(1, layout.workers())));
}

void OwnerMap::describe() {
  const std::size_t tables = m_layout.gradients.size();
  if (tables == 0 || tables > k_max_tables)
    throw std::invalid_argument("make_schedule: " + std::to_string(tables) +
                                " tables; 1 to 64 are possible");
  if (!m_layout.weights.empty() && m_layout.weights.size() != tables)
    throw std::invalid_argument("make_schedule: " + std::to_string(m_layout.weights.size()) +
                                " weight tables beside " + std::to_string(tables) +
                                " gradient tables");
  m_offsets = logical_offsets(m_layout.gradients[0]);
  for (std::size_t t = 0; t < tables; ++t) {
    auto const& stored = m_layout.weights.empty() ? m_layout.gradients[t] : m_layout.weights[t];
    if (logical_offsets(m_layout.gradients[t]) != m_offsets || logical_offsets(stored) != m_offsets)
      throw std::invalid_argument("make_schedule: table " + std::to_string(t) +
                                  " is not over the same tensors as table 0");
    m_gradients.push_back(held_ranges(m_layout.gradients[t], m_offsets));
    m_weights.push_back(held_ranges(stored, m_offsets));
  }
  for (int table : m_layout.table_of_worker) {
    if (table < 0 || table >= static_cast<int>(tables))
      throw std::invalid_argument("make_schedule: a worker has table " + std::to_string(table) +
                                  " of " + std::to_string(tables));
    m_used |= TableMask{1} << table;
  }
}

void OwnerMap::make_segments() {
  std::vector<index_t> cuts = m_offsets;
  for (IndexRange const& bucket : m_buckets) cuts.push_back(bucket.begin);
  for (auto const* tables : {&m_gradients, &m_weights})
    for (auto const& held : *tables)
      for (HeldRange const& range : held) {
        cuts.push_back(range.logical.begin);
        cuts.push_back(range.logical.end);
      }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());

  std::vector<FlatCursor> gradients(m_gradients.begin(), m_gradients.end());
  std::vector<FlatCursor> weights(m_weights.begin(), m_weights.end());
  int tensor = 0;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    while (m_offsets[static_cast<std::size_t>(tensor) + 1] <= cuts[i]) ++tensor;
    Segment segment{{cuts[i], cuts[i + 1]}, tensor, 0, 0};
    for (std::size_t t = 0; t < gradients.size(); ++t) {
      const TableMask bit = TableMask{1} << t;
      if ((m_used & bit) == 0) continue;
      if (gradients[t].find(cuts[i]) >= 0) segment.holders |= bit;
      if (weights[t].find(cuts[i]) >= 0) segment.storers |= bit;
    }
    auto const& name = m_layout.gradients[0].tensors()[static_cast<std::size_t>(tensor)].name;
    if (segment.holders == 0)
      throw std::invalid_argument("make_schedule: part of " + name + " is held by no worker");
    if ((segment.holders & ~segment.storers) != 0)
      throw std::invalid_argument("make_schedule: a worker has a gradient of " + name +
                                  " without the weight");
    m_segments.push_back(segment);
  }
}

bool OwnerMap::dense() const {
  return std::all_of(m_segments.begin(), m_segments.end(),
                     [&](Segment const& segment) { return segment.holders == m_used; });
}

std::vector<int> const& OwnerMap::workers(TableMask mask) {
  auto [found, inserted] = m_workers.try_emplace(mask);
  if (inserted)
    for (int worker = 0; worker < m_layout.workers(); ++worker)
      if ((mask >> m_layout.table_of_worker[static_cast<std::size_t>(worker)] & 1) != 0)
        found->second.push_back(worker);
  return found->second;
}

std::vector<Piece> OwnerMap::next_bucket() {
  const index_t end = m_buckets[m_next_bucket++].end;
  std::map<TableMask, std::vector<Segment const*>> sets;
  for (; m_next_segment < m_segments.size() && m_segments[m_next_segment].logical.begin < end;
       ++m_next_segment)
    sets[m_segments[m_next_segment].holders].push_back(&m_segments[m_next_segment]);

  std::vector<Piece> pieces;
  for (auto const& [mask, segments] : sets) {
    const std::size_t first = pieces.size();
    auto const& holders = workers(mask);
    const auto sizes = cut_slices(segments, static_cast<index_t>(holders.size()), pieces);
    const auto owners = assign(sizes, holders);
    for (std::size_t i = first; i < pieces.size(); ++i)
      pieces[i].owner = owners[static_cast<std::size_t>(pieces[i].owner)];
  }
  std::sort(pieces.begin(), pieces.end(),
            [](Piece const& a, Piece const& b) { return a.logical.begin < b.logical.begin; });
  return pieces;
}

/// Divides the segments of one holder set into a slice for each of `holders`; appends the pieces
/// with the number of their slice as owner and returns the size of each slice.
std::vector<index_t> OwnerMap::cut_slices(std::vector<Segment const*> const& segments,
                                          index_t holders, std::vector<Piece>& pieces) const {
  index_t total = 0;
  for (auto const* segment : segments) total += segment->logical.size();
  std::vector<index_t> sizes(static_cast<std::size_t>(holders), 0);
  index_t slice = 0;
  index_t before = 0;  // elements of the set ahead of the segment
  for (auto const* segment : segments) {
    index_t begin = segment->logical.begin;
    const index_t end = segment->logical.end;
    while (begin < end) {
      const bool last = slice + 1 == holders;
      const index_t fair =  // end of the slice, counted in elements of the set
          last ? total : total / holders * (slice + 1) + total % holders * (slice + 1) / holders;
      const index_t target = segment->logical.begin + fair - before;
      index_t stop = end;
      if (target < end)
        stop = target <= begin ? begin : std::max(begin, nearest_cut(target, *segment));
      if (stop > begin) {
        pieces.push_back(
            {{begin, stop}, static_cast<int>(slice), segment->holders, segment->storers});
        sizes[static_cast<std::size_t>(slice)] += stop - begin;
        begin = stop;
      }
      if (target < end) ++slice;
    }
    before += segment->logical.size();
  }
  return sizes;
}

/// The row boundary nearest to `position`, which lies inside the segment; of a short segment the
/// nearer end.
index_t OwnerMap::nearest_cut(index_t position, Segment const& segment) const {
  IndexRange const& range = segment.logical;
  if (range.size() <= m_whole_elements)
    return 2 * (position - range.begin) <= range.size() ? range.begin : range.end;
  const auto tensor = static_cast<std::size_t>(segment.tensor);
  const index_t cols = m_layout.gradients[0].tensors()[tensor].cols;
  const index_t inside_row = (position - m_offsets[tensor]) % cols;
  return 2 * inside_row <= cols ? position - inside_row : position - inside_row + cols;
}

/// Owner of each slice: the largest slice to the worker that owns least, and so on. Empty slices,
/// of which there are many where workers are more than rows, have none.
std::vector<int> OwnerMap::assign(std::vector<index_t> const& sizes,
                                  std::vector<int> const& holders) {
  std::vector<int> slices;
  for (std::size_t slice = 0; slice < sizes.size(); ++slice)
    if (sizes[slice] > 0) slices.push_back(static_cast<int>(slice));
  std::stable_sort(slices.begin(), slices.end(), [&](int a, int b) {
    return sizes[static_cast<std::size_t>(a)] > sizes[static_cast<std::size_t>(b)];
  });
  std::vector<int> order = holders;
  const auto owns_less = [&](int a, int b) {
    const index_t of_a = m_owned[static_cast<std::size_t>(a)];
    const index_t of_b = m_owned[static_cast<std::size_t>(b)];
    return of_a != of_b ? of_a < of_b : a < b;
  };
  const auto needed = order.begin() + static_cast<std::ptrdiff_t>(slices.size());
  if (needed != order.end()) std::nth_element(order.begin(), needed, order.end(), owns_less);
  std::sort(order.begin(), needed, owns_less);
  std::vector<int> owners(sizes.size(), -1);
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const auto slice = static_cast<std::size_t>(slices[i]);
    owners[slice] = order[i];
    m_owned[static_cast<std::size_t>(order[i])] += sizes[slice];
  }
  return owners;
}

}  // namespace sdp
