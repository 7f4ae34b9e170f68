// SPDX-License-Identifier: Apache-2.0
#include "comm/exchange_legs.hpp"

#include <algorithm>

#include "comm/copy_list.hpp"

namespace sdp {

namespace {

constexpr index_t k_alignment = 64;  // bytes, of messages in a slot

index_t aligned(index_t bytes) {
  return (bytes + k_alignment - 1) / k_alignment * k_alignment;
}

using Messages = std::vector<ExchangeMessage>;

constexpr std::array<Messages BucketSchedule::*, k_leg_kinds> k_lists = {
    &BucketSchedule::node_sends,        &BucketSchedule::node_receives,
    &BucketSchedule::reduce_sends,      &BucketSchedule::reduce_receives,
    &BucketSchedule::return_sends,      &BucketSchedule::return_receives,
    &BucketSchedule::node_return_sends, &BucketSchedule::node_return_receives,
    &BucketSchedule::weight_sends,      &BucketSchedule::weight_receives,
    &BucketSchedule::node_weight_sends, &BucketSchedule::node_weight_receives};

/// What of a message travels by itself: ranges of the staged message, or of the flat buffer.
std::vector<IndexRange> ranges(ExchangeMessage const& message, bool staged) {
  if (message.parts.empty())
    return {staged ? IndexRange{0, message.elements} : message.runs.front()};
  std::vector<IndexRange> list;
  index_t begin = 0;
  std::size_t run = 0;
  for (index_t part : message.parts) {
    if (!staged && (list.empty() || begin == message.runs[run].end)) {
      if (!list.empty()) ++run;
      begin = message.runs[run].begin;
    }
    list.push_back({begin, begin + part});
    begin += part;
  }
  return list;
}

constexpr std::array<char const*, k_leg_kinds> k_what = {
    "sending gradients inside the node to ranks",
    "gradients inside the node of ranks",
    "sending gradients to ranks",
    "gradients of ranks",
    "sending averages to ranks",
    "averages of ranks",
    "sending averages inside the node to ranks",
    "averages inside the node of ranks",
    "sending weights to ranks",
    "weights of ranks",
    "sending weights inside the node to ranks",
    "weights inside the node of ranks"};

}  // namespace

ExchangeLegs::ExchangeLegs(ExchangeSchedule const& schedule, index_t gradient_bytes,
                           index_t weight_bytes, bool all_reduce, bool converted,
                           std::function<bool(int)> const& addressed)
    : m_converted(converted), m_buckets(schedule.buckets.size()) {
  static Messages const none;
  for (std::size_t b = 0; b < m_buckets.size(); ++b) {
    for (int kind = 0; kind < k_leg_kinds; ++kind) {
      const bool weights = carries_weights(LegKind(kind));
      add_leg(static_cast<int>(b), LegKind(kind),
              all_reduce && !weights ? none
                                     : schedule.buckets[b].*k_lists[static_cast<std::size_t>(kind)],
              weights ? weight_bytes : gradient_bytes, addressed);
    }
    if (all_reduce) {
      m_buckets[b].legs[reduce_send].first_id = static_cast<int>(m_addresses.size());
      m_addresses.push_back({static_cast<int>(b), reduce_send, 0});
    }
    m_slot_bytes = std::max({m_slot_bytes, m_buckets[b].gradient_bytes, m_buckets[b].weight_bytes});
  }
}

void ExchangeLegs::add_leg(int bucket, LegKind kind, Messages const& messages,
                           index_t element_bytes, std::function<bool(int)> const& addressed) {
  Bucket& owner = m_buckets[static_cast<std::size_t>(bucket)];
  index_t& bytes = carries_weights(kind) ? owner.weight_bytes : owner.gradient_bytes;
  Leg& leg = owner.legs[static_cast<std::size_t>(kind)];
  leg.messages = &messages;
  leg.first_id = static_cast<int>(m_addresses.size());
  leg.first_span = static_cast<index_t>(m_spans.size());
  for (std::size_t m = 0; m < messages.size(); ++m) {
    ExchangeMessage const& message = messages[m];
    m_addresses.push_back({bucket, kind, static_cast<int>(m)});
    if (!carries_weights(kind) && addressed && addressed(message.peer)) {
      leg.staging.push_back(k_in_node);
      leg.parts.push_back({{0, 0}});
      continue;
    }
    const bool staged = message.runs.empty();
    const bool direct = !staged && (carries_weights(kind) || !m_converted) &&
                        (message.runs.size() == 1 || !message.parts.empty());
    leg.parts.push_back(ranges(message, !direct));
    if (direct) {
      leg.staging.push_back(k_in_flat);
      continue;
    }
    bytes = aligned(bytes);
    leg.staging.push_back(bytes);
    index_t packed = bytes / element_bytes;
    for (IndexRange const& run : message.runs) {
      append_copy(m_spans, run.begin, packed, run.size());
      packed += run.size();
    }
    bytes = aligned(bytes + message.elements * element_bytes);
  }
  leg.spans = static_cast<index_t>(m_spans.size()) - leg.first_span;
}

index_t ExchangeLegs::slot_users() const {
  return std::count_if(m_buckets.begin(), m_buckets.end(), [](Bucket const& bucket) {
    return bucket.gradient_bytes > 0 || bucket.weight_bytes > 0;
  });
}

std::size_t ExchangeLegs::pieces(ExchangeSchedule const& schedule,
                                 index_t max_message_bytes) const {
  index_t pieces = 0;
  auto add = [&](index_t elements) {
    pieces += elements * static_cast<index_t>(sizeof(double)) / max_message_bytes + 1;
  };
  for (BucketSchedule const& bucket : schedule.buckets) {
    add(bucket.gradients.size());
    for (auto const list : k_lists)
      for (ExchangeMessage const& message : bucket.*list) {
        add(message.elements);
        pieces += message.count();
      }
  }
  return static_cast<std::size_t>(pieces);
}

MessagePlan ExchangeLegs::message_plan(ExchangeSchedule const& schedule, index_t max_message_bytes,
                                       std::function<bool(std::size_t)> const& all_reduces) const {
  MessagePlan plan;
  plan.messages = static_cast<int>(m_addresses.size());
  plan.pieces = pieces(schedule, max_message_bytes);
  plan.max_tag = static_cast<int>(m_buckets.size()) * k_phases * 2;
  plan.max_message_bytes = max_message_bytes;
  plan.passes.resize(2);
  auto add = [&](std::size_t pass, std::size_t b, int phase) {
    int posts = 0;
    for (int kind : {2 * phase, 2 * phase + 1})
      for (auto const& parts : m_buckets[b].legs[static_cast<std::size_t>(kind)].parts)
        posts += static_cast<int>(parts.size());
    if (2 * phase == reduce_send && all_reduces(b)) posts = 1;
    plan.passes[pass].push_back({static_cast<int>(b) * k_phases + phase, posts});
  };
  for (std::size_t b = 0; b < m_buckets.size(); ++b) {
    for (int phase = 0; phase < k_weight_kinds / 2; ++phase) add(0, b, phase);
    for (int phase = k_weight_kinds / 2; phase < k_phases; ++phase)
      add(1, m_buckets.size() - 1 - b, phase);
  }
  return plan;
}

std::string ExchangeLegs::describe(std::size_t bucket, bool weights, std::vector<char> const& done,
                                   World const& world) const {
  std::string waits;
  for (int kind = weights ? k_weight_kinds : 0; kind < (weights ? k_leg_kinds : k_weight_kinds);
       ++kind) {
    Leg const& leg = m_buckets[bucket].legs[static_cast<std::size_t>(kind)];
    std::string ranks;
    int last = -1;
    for (int m = 0; m < leg.size(); ++m) {
      const int peer = (*leg.messages)[static_cast<std::size_t>(m)].peer;
      if (done[static_cast<std::size_t>(leg.first_id + m)] || peer == last) continue;
      ranks += (ranks.empty() ? " " : ", ") + std::to_string(world.rank_of(peer));
      last = peer;
    }
    if (ranks.empty()) continue;
    waits +=
        (waits.empty() ? "" : "; ") + std::string(k_what[static_cast<std::size_t>(kind)]) + ranks;
  }
  return waits;
}

}  // namespace sdp
