// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/flat_pieces.hpp"

#include <stdexcept>
#include <string>
#include <tuple>

namespace sdp {

std::vector<FlatPiece> flat_pieces(ParameterTable const& table,
                                   std::vector<IndexRange> const& ranges, bool packed) {
  std::vector<FlatPiece> cut;
  auto const& spans = table.spans();  // ascending by offset
  index_t packed_begin = 0;
  for (IndexRange const& range : ranges) {
    if (range.begin < 0 || range.begin > range.end || range.end > table.size())
      throw std::invalid_argument("flat_pieces: range [" + std::to_string(range.begin) + ", " +
                                  std::to_string(range.end) + ") lies outside a buffer of " +
                                  std::to_string(table.size()) + " elements");
    auto span = std::upper_bound(
        spans.begin(), spans.end(), range.begin,
        [](index_t offset, Span const& candidate) { return offset < candidate.offset; });
    if (span != spans.begin()) --span;
    for (index_t at = range.begin; at < range.end; ++span) {
      const index_t cols = table.tensors()[span->tensor].cols;
      const index_t end = std::min(range.end, span->offset + span->rows * cols);
      if (end <= at) continue;
      cut.push_back({span->tensor, span->row_begin * cols + (at - span->offset), end - at,
                     packed ? packed_begin + (at - range.begin) : at});
      at = end;
    }
    packed_begin += range.end - range.begin;
  }
  std::sort(cut.begin(), cut.end(), [](FlatPiece const& a, FlatPiece const& b) {
    return std::tie(a.tensor, a.begin) < std::tie(b.tensor, b.begin);
  });
  std::vector<FlatPiece> joined;
  for (FlatPiece const& piece : cut) {
    if (!joined.empty()) {
      FlatPiece& last = joined.back();
      if (last.tensor == piece.tensor && last.begin + last.count == piece.begin &&
          last.source + last.count == piece.source) {
        last.count += piece.count;
        continue;
      }
    }
    joined.push_back(piece);
  }
  return joined;
}

std::vector<FlatPiece> flat_pieces(ParameterTable const& table) {
  return flat_pieces(table, {{0, table.size()}});
}

}  // namespace sdp
