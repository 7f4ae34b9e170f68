// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>

#include "comm/delivery.hpp"

namespace sdp {

namespace {

/// Calls f(range, wish, count, into_range, into_wish) for the common parts of two ascending lists.
template <class Ranges, class F>
void intersect(Ranges const& ranges, std::vector<HeldRange> const& wishes, F&& f) {
  auto range = ranges.begin();
  for (HeldRange const& wish : wishes) {
    while (range != ranges.end() && range->logical.end <= wish.logical.begin) ++range;
    for (auto at = range; at != ranges.end() && at->logical.begin < wish.logical.end; ++at) {
      const index_t begin = std::max(at->logical.begin, wish.logical.begin);
      const index_t end = std::min(at->logical.end, wish.logical.end);
      f(*at, wish, end - begin, begin - at->logical.begin, begin - wish.logical.begin);
    }
  }
}

void append(DeliveryPlan::Stream& stream, index_t flat, index_t count) {
  stream.elements += count;
  if (!stream.runs.empty() && stream.runs.back().end == flat)
    stream.runs.back().end += count;
  else
    stream.runs.push_back({flat, flat + count});
}

template <class Range>
void append(std::vector<Range>& ranges, Range range) {
  if (!ranges.empty()) {
    Range& last = ranges.back();
    const bool joins =
        last.logical.end == range.logical.begin && last.flat + last.logical.size() == range.flat;
    bool same = true;
    if constexpr (requires { range.worker; }) same = last.worker == range.worker;
    if (joins && same) {
      last.logical.end = range.logical.end;
      return;
    }
  }
  ranges.push_back(range);
}

}  // namespace

DeliverySource owned_source(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                            BufferLayout buffer) {
  OwnerMap owners(layout, buckets);
  DeliverySource source;
  std::vector<FlatCursor> cursors;
  const bool weights = buffer == BufferLayout::weights;
  for (std::size_t t = 0; t < layout.gradients.size(); ++t)
    cursors.emplace_back(weights ? owners.weights(static_cast<int>(t))
                                 : owners.gradients(static_cast<int>(t)));
  for (int table : layout.table_of_worker) {
    const auto t = static_cast<std::size_t>(table);
    auto const& stored =
        weights && !layout.weights.empty() ? layout.weights[t] : layout.gradients[t];
    source.sizes.push_back(buffer == BufferLayout::packed ? 0 : stored.size());
  }
  for (std::size_t b = 0; b < buckets.size(); ++b)
    for (Piece const& piece : owners.next_bucket()) {
      const auto w = static_cast<std::size_t>(piece.owner);
      index_t flat = source.sizes[w];
      if (buffer == BufferLayout::packed)
        source.sizes[w] += piece.logical.size();
      else
        flat =
            cursors[static_cast<std::size_t>(layout.table_of_worker[w])].find(piece.logical.begin);
      append(source.ranges, DeliverySource::Range{piece.logical, piece.owner, flat});
    }
  return source;
}

DeliveryTarget whole_target(int workers, IndexRange logical) {
  DeliveryTarget target;
  target.wishes.push_back({{{logical, 0}}, logical.size()});
  target.wish_of_worker.assign(static_cast<std::size_t>(workers), 0);
  return target;
}

DeliveryTarget table_target(std::vector<ParameterTable> const& tables,
                            std::vector<int> const& table_of_worker, IndexRange logical) {
  DeliveryTarget target;
  for (ParameterTable const& table : tables) {
    std::vector<index_t> begins{0};
    for (TensorSpec const& tensor : table.tensors())
      begins.push_back(begins.back() + tensor.size());
    auto& wish = target.wishes.emplace_back();
    wish.size = table.size();
    for (Span const& span : table.spans()) {
      const auto t = static_cast<std::size_t>(span.tensor);
      const index_t cols = table.tensors()[t].cols;
      const index_t first = begins[t] + span.row_begin * cols;
      const index_t begin = std::max(first, logical.begin);
      const index_t end = std::min(first + span.rows * cols, logical.end);
      if (begin < end) append(wish.ranges, HeldRange{{begin, end}, span.offset + begin - first});
    }
  }
  target.wish_of_worker = table_of_worker;
  return target;
}

DeliveryTarget owned_target(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                            BufferLayout buffer) {
  const DeliverySource owned = owned_source(layout, buckets, buffer);
  DeliveryTarget target;
  for (std::size_t w = 0; w < owned.sizes.size(); ++w) {
    target.wishes.push_back({{}, owned.sizes[w]});
    target.wish_of_worker.push_back(static_cast<int>(w));
  }
  for (DeliverySource::Range const& range : owned.ranges)
    append(target.wishes[static_cast<std::size_t>(range.worker)].ranges,
           HeldRange{range.logical, range.flat});
  return target;
}

DeliveryPlan make_delivery_plan(DeliverySource const& source, DeliveryTarget const& target,
                                int worker) {
  const int workers = source.workers();
  if (static_cast<int>(target.wish_of_worker.size()) != workers)
    throw std::invalid_argument("make_delivery_plan: " + std::to_string(workers) +
                                " workers have elements, " +
                                std::to_string(target.wish_of_worker.size()) + " want some");
  auto wish_of = [&](int w) -> DeliveryTarget::Wish const& {
    return target.wishes.at(
        static_cast<std::size_t>(target.wish_of_worker.at(static_cast<std::size_t>(w))));
  };
  DeliveryTarget::Wish const& mine = wish_of(worker);
  DeliveryPlan plan;
  plan.worker = worker;
  plan.workers = workers;
  plan.source_size = source.sizes[static_cast<std::size_t>(worker)];
  plan.target_size = mine.size;

  std::vector<HeldRange> owned;
  for (DeliverySource::Range const& range : source.ranges)
    if (range.worker == worker) owned.push_back({range.logical, range.flat});

  // What a wish takes from here is found once for all workers that share it.
  std::map<int, DeliveryPlan::Stream> by_wish;
  for (int distance = 1; distance < workers; ++distance) {
    const int peer = (worker + distance) % workers;
    const int wish = target.wish_of_worker[static_cast<std::size_t>(peer)];
    auto [found, inserted] = by_wish.try_emplace(wish);
    if (inserted)
      intersect(owned, wish_of(peer).ranges,
                [&](HeldRange const& range, HeldRange const&, index_t count, index_t at, index_t) {
                  append(found->second, range.flat + at, count);
                });
    if (found->second.elements == 0) continue;
    plan.sends.push_back(found->second);
    plan.sends.back().peer = peer;
  }

  index_t wanted = 0;
  for (HeldRange const& range : mine.ranges) wanted += range.logical.size();
  std::map<int, DeliveryPlan::Stream> by_distance;
  intersect(source.ranges, mine.ranges,
            [&](DeliverySource::Range const& range, HeldRange const& wish, index_t count,
                index_t from, index_t to) {
              wanted -= count;
              if (range.worker == worker) {
                plan.copies.push_back({range.flat + from, wish.flat + to, count});
                return;
              }
              auto& stream = by_distance[(worker - range.worker + workers) % workers];
              stream.peer = range.worker;
              append(stream, wish.flat + to, count);
            });
  if (wanted != 0)
    throw std::invalid_argument("make_delivery_plan: nobody has " + std::to_string(wanted) +
                                " of the elements that worker " + std::to_string(worker) +
                                " wants");
  for (auto& [distance, stream] : by_distance) plan.receives.push_back(std::move(stream));
  return plan;
}

}  // namespace sdp
