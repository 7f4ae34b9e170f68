// SPDX-License-Identifier: Apache-2.0
#include "subnet/subnetwork.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.hpp"

namespace sdp {

namespace {

/// The spans of every tensor, shared rows in the gaps between the units.
std::vector<std::vector<Span>> all_spans(std::vector<TensorSpec> const& tensors,
                                         UnitSet const& units) {
  std::vector<std::vector<Span>> spans(tensors.size());
  for (std::size_t u = 0; u < units.units.size(); ++u)
    for (RowRange const& rows : units.units[u].rows) {
      if (rows.tensor < 0 || rows.tensor >= static_cast<int>(tensors.size()) || rows.begin < 0 ||
          rows.count < 0 ||
          rows.begin + rows.count > tensors[static_cast<std::size_t>(rows.tensor)].rows)
        throw std::invalid_argument("subnetwork_table: unit " + units.units[u].name +
                                    " has rows that the model does not have");
      if (rows.count > 0)
        spans[static_cast<std::size_t>(rows.tensor)].push_back(
            {rows.tensor, rows.begin, rows.count, 0, static_cast<int>(u)});
    }
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    auto& own = spans[t];
    std::sort(own.begin(), own.end(),
              [](Span const& a, Span const& b) { return a.row_begin < b.row_begin; });
    std::vector<Span> filled;
    index_t next = 0;
    const auto add = [&](Span const& span) {
      const bool grows = !filled.empty() && filled.back().unit == span.unit;
      if (grows)
        filled.back().rows += span.rows;
      else
        filled.push_back(span);
      next = span.row_begin + span.rows;
    };
    for (Span const& span : own) {
      if (span.row_begin < next)
        throw std::invalid_argument(
            fmt::format("subnetwork_table: row {} of {} belongs to two units", span.row_begin,
                        tensors[t].name));
      if (span.row_begin > next)
        add({static_cast<int>(t), next, span.row_begin - next, 0, k_shared});
      add(span);
    }
    if (next < tensors[t].rows)
      add({static_cast<int>(t), next, tensors[t].rows - next, 0, k_shared});
    own = std::move(filled);
  }
  return spans;
}

}  // namespace

ParameterTable subnetwork_table(std::vector<TensorSpec> const& tensors, UnitSet const& units,
                                Mask const& mask, int subnetwork) {
  auto held = all_spans(tensors, units);
  for (auto& spans : held)
    std::erase_if(spans, [&](Span const& span) {
      return span.unit != k_shared && !mask.holds(subnetwork, span.unit);
    });
  return ParameterTable(tensors, held);
}

ParameterTable full_table(std::vector<TensorSpec> const& tensors, UnitSet const& units) {
  return ParameterTable(tensors, all_spans(tensors, units));
}

int subnetwork_of(int rank, Placement placement, int ranks_per_node, int subnetworks) {
  return (placement == Placement::round_robin ? rank : rank / ranks_per_node) % subnetworks;
}

std::vector<int> place_ranks(int ranks, Placement placement, int ranks_per_node, int subnetworks) {
  const int groups =
      placement == Placement::round_robin ? ranks : (ranks + ranks_per_node - 1) / ranks_per_node;
  if (groups < subnetworks)
    throw ConfigError(
        placement == Placement::round_robin
            ? fmt::format("sdp.subnetworks is {}, but it must be at most the number of ranks ({})",
                          subnetworks, ranks)
            : fmt::format("sdp.placement \"node_aligned\" gives each node one subnetwork, but {} "
                          "ranks with {} a node make {} node{} and sdp.subnetworks is {}; use more "
                          "nodes, fewer subnetworks or \"round_robin\"",
                          ranks, ranks_per_node, groups, groups == 1 ? "" : "s", subnetworks));
  std::vector<int> placed;
  for (int rank = 0; rank < ranks; ++rank)
    placed.push_back(subnetwork_of(rank, placement, ranks_per_node, subnetworks));
  return placed;
}

}  // namespace sdp
