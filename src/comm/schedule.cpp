// SPDX-License-Identifier: Apache-2.0
#include "comm/schedule.hpp"

#include <map>

namespace sdp {

namespace {

/// Messages of one phase by peer, in the order in which they are posted.
class Messages {
 public:
  Messages(int worker, int workers) : m_worker(worker), m_workers(workers) {}

  /// Adds `count` elements to the message with `peer`; a flat position makes them part of its runs.
  /// Returns their offset in the message.
  index_t add(int peer, index_t count, index_t flat = -1) {
    ExchangeMessage& message = m_messages[(peer - m_worker + m_workers) % m_workers];
    message.peer = peer;
    const index_t offset = message.elements;
    message.elements += count;
    if (flat < 0) return offset;
    if (!message.runs.empty() && message.runs.back().end == flat)
      message.runs.back().end += count;
    else
      message.runs.push_back({flat, flat + count});
    return offset;
  }

  /// The messages, leaving none behind; their elements are added to the total.
  std::vector<ExchangeMessage> take(index_t& total) {
    std::vector<ExchangeMessage> list;
    for (auto& [distance, message] : m_messages) {
      total += message.elements;
      list.push_back(std::move(message));
    }
    m_messages.clear();
    return list;
  }

 private:
  int m_worker;
  int m_workers;
  std::map<int, ExchangeMessage> m_messages;  // by distance from this worker
};

/// Collects what one worker does with the pieces of one bucket.
class BucketBuilder {
 public:
  BucketBuilder(ExchangeSchedule const& schedule, OwnerMap& owners)
      : m_worker(schedule.worker),
        m_workers(schedule.workers),
        m_returns(schedule.gradient_return == GradientReturn::holders),
        m_owners(owners) {}

  /// A piece of another owner that this worker holds or stores; -1 where it does not.
  void add_foreign(Piece const& piece, index_t gradient, index_t weight) {
    const index_t count = piece.logical.size();
    if (gradient >= 0) {
      m_reduce_sends.add(piece.owner, count, gradient);
      if (m_returns) m_return_receives.add(piece.owner, count, gradient);
    }
    if (weight >= 0 && !(m_returns && gradient >= 0))
      m_weight_receives.add(piece.owner, count, weight);
  }

  void add_owned(Piece const& piece, index_t gradient, index_t weight) {
    const index_t count = piece.logical.size();
    const TableMask updated = m_returns ? piece.storers & ~piece.holders : piece.storers;
    for (int peer : m_owners.workers(updated))
      if (peer != m_worker) m_weight_sends.add(peer, count, weight);
    OwnedRun* run = m_runs.empty() ? nullptr : &m_runs.back();
    const bool grows = run != nullptr && m_run_holders == piece.holders &&
                       run->gradients.end == gradient &&
                       run->weight_begin + run->gradients.size() == weight;
    if (!grows) run = &m_runs.emplace_back(OwnedRun{{gradient, gradient}, weight, {}});
    run->gradients.end += count;
    m_run_holders = piece.holders;
    for (int peer : m_owners.workers(piece.holders)) {
      const bool self = peer == m_worker;
      const index_t offset = self ? 0 : m_reduce_receives.add(peer, count);
      if (!self && m_returns) m_return_sends.add(peer, count, gradient);
      if (!grows) run->contributions.push_back({peer, -1, offset});
    }
  }

  BucketSchedule finish(ExchangeTraffic& traffic) {
    BucketSchedule bucket;
    bucket.reduce_sends = m_reduce_sends.take(traffic.gradients_sent);
    bucket.reduce_receives = m_reduce_receives.take(traffic.gradients_received);
    bucket.return_sends = m_return_sends.take(traffic.gradients_sent);
    bucket.return_receives = m_return_receives.take(traffic.gradients_received);
    bucket.weight_sends = m_weight_sends.take(traffic.weights_sent);
    bucket.weight_receives = m_weight_receives.take(traffic.weights_received);
    traffic.messages_sent += static_cast<index_t>(
        bucket.reduce_sends.size() + bucket.return_sends.size() + bucket.weight_sends.size());
    std::vector<int> message_of(static_cast<std::size_t>(m_workers), -1);
    for (std::size_t m = 0; m < bucket.reduce_receives.size(); ++m)
      message_of[static_cast<std::size_t>(bucket.reduce_receives[m].peer)] = static_cast<int>(m);
    for (OwnedRun& run : m_runs)
      for (Contribution& contribution : run.contributions)
        contribution.message = message_of[static_cast<std::size_t>(contribution.worker)];
    bucket.owned = std::move(m_runs);
    return bucket;
  }

 private:
  int m_worker;
  int m_workers;
  bool m_returns;
  OwnerMap& m_owners;
  Messages m_reduce_sends{m_worker, m_workers};
  Messages m_reduce_receives{m_worker, m_workers};
  Messages m_return_sends{m_worker, m_workers};
  Messages m_return_receives{m_worker, m_workers};
  Messages m_weight_sends{m_worker, m_workers};
  Messages m_weight_receives{m_worker, m_workers};
  std::vector<OwnedRun> m_runs;
  TableMask m_run_holders = 0;
};

/// The held elements of a logical range in a flat buffer.
IndexRange flat_range(FlatCursor& cursor, IndexRange const& logical, index_t size) {
  const index_t begin = cursor.lower_bound(logical.begin, size);
  return {begin, cursor.lower_bound(logical.end, size)};
}

void add_owned_ranges(std::vector<OwnedRun> const& runs, std::vector<OwnedRange>& owned) {
  for (OwnedRun const& run : runs) {
    OwnedRange* const last = owned.empty() ? nullptr : &owned.back();
    if (last != nullptr && last->gradients.end == run.gradients.begin &&
        last->weight_begin + last->gradients.size() == run.weight_begin)
      last->gradients.end = run.gradients.end;
    else
      owned.push_back({run.gradients, run.weight_begin});
  }
}

}  // namespace

ExchangeSchedule make_schedule(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                               int worker, GradientReturn gradient_return) {
  OwnerMap owners(layout, buckets);
  const int table = layout.table_of_worker.at(static_cast<std::size_t>(worker));
  const auto t = static_cast<std::size_t>(table);
  ExchangeSchedule schedule;
  schedule.worker = worker;
  schedule.workers = layout.workers();
  schedule.gradient_return = gradient_return;
  schedule.dense = owners.dense();
  schedule.gradient_size = layout.gradients[t].size();
  schedule.weight_size = layout.weights.empty() ? schedule.gradient_size : layout.weights[t].size();

  FlatCursor gradients(owners.gradients(table));
  FlatCursor weights(owners.weights(table));
  FlatCursor gradient_limits(owners.gradients(table));
  FlatCursor weight_limits(owners.weights(table));
  for (IndexRange const& logical : buckets) {
    BucketBuilder builder(schedule, owners);
    for (Piece const& piece : owners.next_bucket()) {
      const index_t gradient = gradients.find(piece.logical.begin);
      const index_t weight = weights.find(piece.logical.begin);
      if (piece.owner == worker)
        builder.add_owned(piece, gradient, weight);
      else
        builder.add_foreign(piece, gradient, weight);
    }
    BucketSchedule bucket = builder.finish(schedule.traffic);
    bucket.logical = logical;
    bucket.gradients = flat_range(gradient_limits, logical, schedule.gradient_size);
    bucket.weights = flat_range(weight_limits, logical, schedule.weight_size);
    add_owned_ranges(bucket.owned, schedule.owned);
    schedule.buckets.push_back(std::move(bucket));
  }
  return schedule;
}

}  // namespace sdp
