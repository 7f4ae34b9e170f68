// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/parameter_table.hpp"
#include "comm/buckets.hpp"

namespace sdp {

/// What every worker stores. Workers with the same subnetwork share a table.
struct ExchangeLayout {
  std::vector<ParameterTable> gradients;  ///< at most 64 distinct tables over the same tensors
  /// Tables of the weight buffers where they differ from those of the gradients (more is stored
  /// than gets a gradient here); empty where they do not.
  std::vector<ParameterTable> weights;
  std::vector<int> table_of_worker;

  int workers() const { return static_cast<int>(table_of_worker.size()); }
};

/// Every worker holds the whole table.
ExchangeLayout dense_layout(ParameterTable const& table, int workers);

/// A set of tables, one bit each.
using TableMask = std::uint64_t;

/// Logical range inside one tensor and one bucket with one set of holders (tables with its
/// gradient) and one set of storers (tables with its weight, the holders among them).
struct Segment {
  IndexRange logical;
  int tensor = 0;
  TableMask holders = 0;
  TableMask storers = 0;
};

/// Part of a segment that one worker owns: it sums the contributions of all holders.
struct Piece {
  IndexRange logical;
  int owner = 0;
  TableMask holders = 0;
  TableMask storers = 0;
};

/// A logical range that a table holds, and where it lies in the flat buffer.
struct HeldRange {
  IndexRange logical;
  index_t flat = 0;
};

/// Finds flat positions of ascending logical positions in one table.
class FlatCursor {
 public:
  explicit FlatCursor(std::vector<HeldRange> const& held) : m_held(&held) {}
  /// Flat position of `logical`, or -1 where the table does not hold it.
  index_t find(index_t logical);
  /// Flat position of the first held element at or after `logical`, `size` where there is none.
  index_t lower_bound(index_t logical, index_t size);

 private:
  std::vector<HeldRange> const* m_held;
  std::size_t m_next = 0;
};

/// Divides the model among owners, bucket by bucket, the same on every worker.
///
/// In every bucket the elements of one holder set with h holders are divided into h slices of equal
/// count, to the nearest row, or to the nearest end of a short segment: one slice to each holder,
/// the larger slices to those that own less so far. A row always has one owner, so a sum over a row
/// (of squares, for the norm) has one too.
class OwnerMap {
 public:
  /// Throws std::invalid_argument when an element is held by no worker, when a worker has a
  /// gradient without the weight, when tables disagree on the tensors, or on more than 64 tables.
  /// Keeps a reference to the layout.
  OwnerMap(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets);

  /// The pieces of the next bucket, in logical order.
  std::vector<Piece> next_bucket();
  /// Workers whose table is in the mask, ascending.
  std::vector<int> const& workers(TableMask mask);
  /// True when every worker holds every element.
  bool dense() const;

  std::vector<HeldRange> const& gradients(int table) const { return m_gradients[table]; }
  std::vector<HeldRange> const& weights(int table) const { return m_weights[table]; }

 private:
  void describe();
  void make_segments();
  std::vector<index_t> cut_slices(std::vector<Segment const*> const& segments, index_t holders,
                                  std::vector<Piece>& pieces) const;
  index_t nearest_cut(index_t position, Segment const& segment) const;
  std::vector<int> assign(std::vector<index_t> const& sizes, std::vector<int> const& holders);

  ExchangeLayout const& m_layout;
  std::vector<IndexRange> const& m_buckets;
  std::vector<index_t> m_offsets;  ///< logical, of each tensor, and the end
  std::vector<std::vector<HeldRange>> m_gradients;
  std::vector<std::vector<HeldRange>> m_weights;
  TableMask m_used = 0;
  index_t m_whole_elements = 0;  ///< segments up to this length have one owner
  std::vector<Segment> m_segments;
  std::size_t m_next_segment = 0;
  std::size_t m_next_bucket = 0;
  std::vector<index_t> m_owned;  ///< elements by worker
  std::map<TableMask, std::vector<int>> m_workers;
};

}  // namespace sdp
