// SPDX-License-Identifier: Apache-2.0
#include "comm/schedule.hpp"

#include <algorithm>
#include <map>
#include <span>
#include <stdexcept>
#include <string>

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

  /// The messages, leaving none behind.
  std::vector<ExchangeMessage> take() {
    std::vector<ExchangeMessage> list;
    for (auto& [distance, message] : m_messages) list.push_back(std::move(message));
    m_messages.clear();
    return list;
  }

 private:
  int m_worker;
  int m_workers;
  std::map<int, ExchangeMessage> m_messages;  // by distance from this worker
};

/// The nodes of the workers, and who speaks for a node.
class Nodes {
 public:
  explicit Nodes(int size) : m_size(size) {}

  int size() const { return m_size; }
  int of(int worker) const { return worker / m_size; }
  /// The members of an ascending list that are on a node.
  std::span<int const> members(std::vector<int> const& list, int node) const {
    const auto first = std::lower_bound(list.begin(), list.end(), node * m_size);
    return {first, std::lower_bound(first, list.end(), (node + 1) * m_size)};
  }
  /// Calls f(node, members) for every node with members in the list, ascending.
  template <class F>
  void for_each(std::vector<int> const& list, F&& f) const {
    for (auto first = list.begin(); first != list.end();) {
      const int node = of(*first);
      const auto last = std::lower_bound(first, list.end(), (node + 1) * m_size);
      f(node, std::span<int const>(first, last));
      first = last;
    }
  }
  /// Who of the members of a node deals with an owner: the owner itself, the one with the owner's
  /// place in its node (they share network cards in many machines), or one after the other.
  int delegate(std::span<int const> members, int owner, int turn) const {
    const int node = of(members.front());
    if (node == of(owner)) return owner;
    const int twin = node * m_size + owner % m_size;
    if (std::binary_search(members.begin(), members.end(), twin)) return twin;
    return members[static_cast<std::size_t>(turn) % members.size()];
  }

 private:
  int m_size;
};

/// Collects what one worker does with the pieces of one bucket.
class BucketBuilder {
 public:
  BucketBuilder(ExchangeSchedule const& schedule, OwnerMap& owners)
      : m_worker(schedule.worker),
        m_workers(schedule.workers),
        m_returns(schedule.gradient_return == GradientReturn::holders),
        m_nodes(schedule.node_size),
        m_node(m_nodes.of(m_worker)),
        m_owners(owners) {}

  /// A piece and its flat positions, -1 where this worker does not hold or store it. `turn`: number
  /// of the piece among those of its holder set.
  void add(Piece const& piece, index_t gradient, index_t weight, int turn) {
    if (gradient >= 0) add_gradient(piece, gradient, turn);
    if (piece.owner == m_worker) add_owned(piece, gradient, weight, turn);
    if (weight >= 0) add_weight(piece, weight, turn);
  }

  BucketSchedule finish() {
    BucketSchedule bucket;
    bucket.node_sends = m_node_sends.take();
    bucket.node_receives = m_node_receives.take();
    bucket.reduce_sends = m_reduce_sends.take();
    bucket.reduce_receives = m_reduce_receives.take();
    bucket.return_sends = m_return_sends.take();
    bucket.return_receives = m_return_receives.take();
    bucket.node_return_sends = m_node_return_sends.take();
    bucket.node_return_receives = m_node_return_receives.take();
    bucket.weight_sends = m_weight_sends.take();
    bucket.weight_receives = m_weight_receives.take();
    bucket.node_weight_sends = m_node_weight_sends.take();
    bucket.node_weight_receives = m_node_weight_receives.take();
    bucket.node_sums = std::move(m_node_sums);
    bucket.owned = std::move(m_owned);
    for (NodeRun& run : bucket.node_sums) find_messages(bucket.node_receives, run.contributions);
    for (OwnedRun& run : bucket.owned) find_messages(bucket.reduce_receives, run.contributions);
    return bucket;
  }

 private:
  /// The gradients of this worker: to who sums them in its node, or with those that it sums itself.
  void add_gradient(Piece const& piece, index_t gradient, int turn) {
    const index_t count = piece.logical.size();
    const auto local = m_nodes.members(m_owners.workers(piece.holders), m_node);
    const int delegate = m_nodes.delegate(local, piece.owner, turn);
    if (delegate != m_worker) {
      m_node_sends.add(delegate, count, gradient);
      if (m_returns) m_node_return_receives.add(delegate, count, gradient);
      return;
    }
    if (local.size() > 1) {
      std::vector<Contribution> terms;
      for (int peer : local) {
        const bool self = peer == m_worker;
        terms.push_back({peer, peer, self ? 0 : m_node_receives.add(peer, count)});
        if (!self && m_returns) m_node_return_sends.add(peer, count, gradient);
      }
      NodeRun* run = m_node_sums.empty() ? nullptr : &m_node_sums.back();
      if (run == nullptr || !continues(run->gradients, gradient, run->contributions, terms))
        run = &m_node_sums.emplace_back(NodeRun{{gradient, gradient}, std::move(terms)});
      run->gradients.end += count;
    }
    if (piece.owner == m_worker) return;
    m_reduce_sends.add(piece.owner, count, gradient);
    if (m_returns) m_return_receives.add(piece.owner, count, gradient);
  }

  /// The sums of all nodes with holders, of which this worker makes the average.
  void add_owned(Piece const& piece, index_t gradient, index_t weight, int turn) {
    const index_t count = piece.logical.size();
    auto const& holders = m_owners.workers(piece.holders);
    std::vector<Contribution> terms;
    m_nodes.for_each(holders, [&](int node, std::span<int const> members) {
      const int peer = m_nodes.delegate(members, piece.owner, turn);
      const bool self = peer == m_worker;
      terms.push_back({node, peer, self ? 0 : m_reduce_receives.add(peer, count)});
      if (!self && m_returns) m_return_sends.add(peer, count, gradient);
    });
    OwnedRun* run = m_owned.empty() ? nullptr : &m_owned.back();
    const auto divisor = static_cast<int>(holders.size());
    if (run == nullptr || run->holders != divisor ||
        run->weight_begin + run->gradients.size() != weight ||
        !continues(run->gradients, gradient, run->contributions, terms))
      run =
          &m_owned.emplace_back(OwnedRun{{gradient, gradient}, weight, divisor, std::move(terms)});
    run->gradients.end += count;
  }

  /// A piece that this worker stores: who of its node has the updated weights, and who gets them.
  void add_weight(Piece const& piece, index_t weight, int turn) {
    const index_t count = piece.logical.size();
    auto const& receivers =
        m_owners.workers(m_returns ? piece.storers & ~piece.holders : piece.storers);
    const auto local = m_nodes.members(receivers, m_node);
    const bool owner = piece.owner == m_worker;
    if (owner)
      m_nodes.for_each(receivers, [&](int node, std::span<int const> members) {
        if (node != m_node && !updated_on(node, piece))
          m_weight_sends.add(m_nodes.delegate(members, piece.owner, turn), count, weight);
      });
    const bool updated = m_nodes.of(piece.owner) == m_node || updated_on(m_node, piece);
    if (local.empty()) return;
    const int source =
        m_nodes.delegate(updated ? m_nodes.members(m_owners.workers(piece.holders), m_node) : local,
                         piece.owner, turn);
    if (source == m_worker) {
      for (int peer : local)
        if (peer != m_worker)
          (owner ? m_weight_sends : m_node_weight_sends).add(peer, count, weight);
      if (!updated) m_weight_receives.add(piece.owner, count, weight);
    } else if (std::binary_search(local.begin(), local.end(), m_worker)) {
      (source == piece.owner ? m_weight_receives : m_node_weight_receives)
          .add(source, count, weight);
    }
  }

  /// Whether a node has updated weights of its own: those of a holder that got the average.
  bool updated_on(int node, Piece const& piece) const {
    return m_returns && !m_nodes.members(m_owners.workers(piece.holders), node).empty();
  }

  /// Whether elements at `flat` with these terms go on where a run ends. Contributions name the
  /// peer in place of the message until the bucket is finished.
  static bool continues(IndexRange const& run, index_t flat,
                        std::vector<Contribution> const& of_run,
                        std::vector<Contribution> const& terms) {
    return run.end == flat && std::equal(of_run.begin(), of_run.end(), terms.begin(), terms.end(),
                                         [](Contribution const& a, Contribution const& b) {
                                           return a.message == b.message;
                                         });
  }

  void find_messages(std::vector<ExchangeMessage> const& messages,
                     std::vector<Contribution>& contributions) const {
    for (Contribution& contribution : contributions) {
      const int peer = contribution.message;
      const auto found =
          std::find_if(messages.begin(), messages.end(),
                       [&](ExchangeMessage const& message) { return message.peer == peer; });
      contribution.message = peer == m_worker ? -1 : static_cast<int>(found - messages.begin());
    }
  }

  int m_worker;
  int m_workers;
  bool m_returns;
  Nodes m_nodes;
  int m_node;
  OwnerMap& m_owners;
  Messages m_node_sends{m_worker, m_workers};
  Messages m_node_receives{m_worker, m_workers};
  Messages m_reduce_sends{m_worker, m_workers};
  Messages m_reduce_receives{m_worker, m_workers};
  Messages m_return_sends{m_worker, m_workers};
  Messages m_return_receives{m_worker, m_workers};
  Messages m_node_return_sends{m_worker, m_workers};
  Messages m_node_return_receives{m_worker, m_workers};
  Messages m_weight_sends{m_worker, m_workers};
  Messages m_weight_receives{m_worker, m_workers};
  Messages m_node_weight_sends{m_worker, m_workers};
  Messages m_node_weight_receives{m_worker, m_workers};
  std::vector<NodeRun> m_node_sums;
  std::vector<OwnedRun> m_owned;
};

/// Adds the messages of a bucket to the traffic of a step.
void count(BucketSchedule const& bucket, int worker, int ranks_per_node, ExchangeTraffic& traffic) {
  auto sent = [&](std::vector<ExchangeMessage> const& messages, index_t& all, index_t& away) {
    for (ExchangeMessage const& message : messages) {
      all += message.elements;
      if (message.peer / ranks_per_node != worker / ranks_per_node) away += message.elements;
      ++traffic.messages_sent;
    }
  };
  auto received = [](std::vector<ExchangeMessage> const& messages, index_t& all) {
    for (ExchangeMessage const& message : messages) all += message.elements;
  };
  for (auto const* messages :
       {&bucket.node_sends, &bucket.reduce_sends, &bucket.return_sends, &bucket.node_return_sends})
    sent(*messages, traffic.gradients_sent, traffic.gradients_sent_to_other_nodes);
  for (auto const* messages : {&bucket.weight_sends, &bucket.node_weight_sends})
    sent(*messages, traffic.weights_sent, traffic.weights_sent_to_other_nodes);
  for (auto const* messages : {&bucket.node_receives, &bucket.reduce_receives,
                               &bucket.return_receives, &bucket.node_return_receives})
    received(*messages, traffic.gradients_received);
  for (auto const* messages : {&bucket.weight_receives, &bucket.node_weight_receives})
    received(*messages, traffic.weights_received);
}

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
                               int worker, GradientReturn gradient_return, int ranks_per_node) {
  if (ranks_per_node < 1)
    throw std::invalid_argument("make_schedule: " + std::to_string(ranks_per_node) +
                                " ranks on a node");
  OwnerMap owners(layout, buckets);
  const int table = layout.table_of_worker.at(static_cast<std::size_t>(worker));
  const auto t = static_cast<std::size_t>(table);
  ExchangeSchedule schedule;
  schedule.worker = worker;
  schedule.workers = layout.workers();
  schedule.node_size = ranks_per_node < layout.workers() ? ranks_per_node : 1;
  schedule.gradient_return = gradient_return;
  schedule.dense = owners.dense();
  schedule.gradient_size = layout.gradients[t].size();
  schedule.weight_size = layout.weights.empty() ? schedule.gradient_size : layout.weights[t].size();

  FlatCursor gradients(owners.gradients(table));
  FlatCursor weights(owners.weights(table));
  FlatCursor gradient_limits(owners.gradients(table));
  FlatCursor weight_limits(owners.weights(table));
  std::map<TableMask, int> turns;
  for (IndexRange const& logical : buckets) {
    BucketBuilder builder(schedule, owners);
    for (Piece const& piece : owners.next_bucket())
      builder.add(piece, gradients.find(piece.logical.begin), weights.find(piece.logical.begin),
                  turns[piece.holders]++);
    BucketSchedule bucket = builder.finish();
    bucket.logical = logical;
    bucket.gradients = flat_range(gradient_limits, logical, schedule.gradient_size);
    bucket.weights = flat_range(weight_limits, logical, schedule.weight_size);
    add_owned_ranges(bucket.owned, schedule.owned);
    count(bucket, worker, ranks_per_node, schedule.traffic);
    schedule.buckets.push_back(std::move(bucket));
  }
  return schedule;
}

}  // namespace sdp
