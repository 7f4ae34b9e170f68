// SPDX-License-Identifier: Apache-2.0
#include "comm/schedule.hpp"

#include <algorithm>
#include <map>
#include <span>
#include <stdexcept>
#include <string>

namespace sdp {

namespace {

/// Flat positions of pieces that come in ascending order, in the buffers of any worker.
class Positions {
 public:
  Positions(ExchangeLayout const& layout, OwnerMap const& owners) : m_layout(layout) {
    for (int t = 0; t < static_cast<int>(layout.gradients.size()); ++t) {
      m_gradients.emplace_back(owners.gradients(t));
      m_weights.emplace_back(owners.weights(t));
    }
  }
  /// -1 where the worker does not have it.
  index_t gradient(int worker, index_t logical) { return m_gradients[table(worker)].find(logical); }
  index_t weight(int worker, index_t logical) { return m_weights[table(worker)].find(logical); }

 private:
  std::size_t table(int worker) const {
    return static_cast<std::size_t>(m_layout.table_of_worker[static_cast<std::size_t>(worker)]);
  }

  ExchangeLayout const& m_layout;
  std::vector<FlatCursor> m_gradients;
  std::vector<FlatCursor> m_weights;
};

/// Elements of a message: where they begin here and in the buffer of the peer.
struct Ends {
  index_t here = 0;
  index_t there = 0;
};

/// Messages of one leg by peer, in the order in which they are posted.
class Messages {
 public:
  Messages(int worker, int workers, bool runs)
      : m_worker(worker), m_workers(workers), m_runs(runs) {}

  /// Notes `count` elements for or from a peer; their number among those of this peer.
  index_t add(int peer, index_t count, Ends const& begin) {
    Traffic& traffic = m_traffic[(peer - m_worker + m_workers) % m_workers];
    traffic.peer = peer;
    traffic.entries.push_back({count, begin});
    return static_cast<index_t>(traffic.entries.size()) - 1;
  }

  /// Divides what was noted into messages: for each peer one with what is to be packed, and one
  /// whose parts travel by themselves.
  std::vector<ExchangeMessage> make(index_t part_elements) {
    std::vector<ExchangeMessage> list;
    for (auto& [distance, traffic] : m_traffic) {
      const std::vector<index_t> parts = parts_of(traffic.entries);
      ExchangeMessage packed{traffic.peer, 0, {}, {}};
      ExchangeMessage divided = packed;
      auto is_long = [&](index_t part) { return parts.size() > 1 && part >= part_elements; };
      const auto first = static_cast<int>(list.size());
      const bool packs = !std::all_of(parts.begin(), parts.end(), is_long);
      std::size_t part = 0;
      index_t into_part = 0;
      for (Entry& entry : traffic.entries) {
        const bool alone = is_long(parts[part]);
        ExchangeMessage& message = alone ? divided : packed;
        if (alone && into_part == 0) message.parts.push_back(parts[part]);
        entry.message = first + (alone && packs ? 1 : 0);
        entry.offset = message.elements;
        message.elements += entry.count;
        if (m_runs) add_run(message.runs, entry);
        into_part += entry.count;
        if (into_part < parts[part]) continue;
        ++part;
        into_part = 0;
      }
      if (divided.parts.size() == 1) divided.parts = {};
      if (packed.elements > 0) list.push_back(std::move(packed));
      if (divided.elements > 0) list.push_back(std::move(divided));
    }
    return list;
  }

  /// Replaces peer and number by message and offset, after make().
  void resolve(int peer, index_t number, int& message, index_t& offset) const {
    Entry const& entry = m_traffic.at((peer - m_worker + m_workers) % m_workers)
                             .entries[static_cast<std::size_t>(number)];
    message = entry.message;
    offset = entry.offset;
  }

 private:
  struct Entry {
    index_t count = 0;
    Ends begin;
    int message = 0;
    index_t offset = 0;
  };
  struct Traffic {
    int peer = 0;
    std::vector<Entry> entries;
  };

  /// Numbers of elements that are contiguous on both sides.
  static std::vector<index_t> parts_of(std::vector<Entry> const& entries) {
    std::vector<index_t> parts;
    Ends end{-1, -1};
    for (Entry const& entry : entries) {
      if (end.here == entry.begin.here && end.there == entry.begin.there)
        parts.back() += entry.count;
      else
        parts.push_back(entry.count);
      end = {entry.begin.here + entry.count, entry.begin.there + entry.count};
    }
    return parts;
  }

  static void add_run(std::vector<IndexRange>& runs, Entry const& entry) {
    if (!runs.empty() && runs.back().end == entry.begin.here)
      runs.back().end += entry.count;
    else
      runs.push_back({entry.begin.here, entry.begin.here + entry.count});
  }

  int m_worker;
  int m_workers;
  bool m_runs;
  std::map<int, Traffic> m_traffic;  // by distance from this worker
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
  BucketBuilder(ExchangeSchedule const& schedule, OwnerMap& owners, Positions& positions)
      : m_worker(schedule.worker),
        m_workers(schedule.workers),
        m_returns(schedule.gradient_return == GradientReturn::holders),
        m_nodes(schedule.node_size),
        m_node(m_nodes.of(m_worker)),
        m_owners(owners),
        m_positions(positions) {}

  /// `turn`: number of the piece among those of its holder set.
  void add(Piece const& piece, int turn) {
    const index_t gradient = m_positions.gradient(m_worker, piece.logical.begin);
    const index_t weight = m_positions.weight(m_worker, piece.logical.begin);
    if (gradient >= 0) add_gradient(piece, gradient, turn);
    if (piece.owner == m_worker) add_owned(piece, gradient, weight, turn);
    if (weight >= 0) add_weight(piece, weight, turn);
  }

  BucketSchedule finish_messages(index_t part_elements) {
    BucketSchedule bucket;
    bucket.node_sends = m_node_sends.make(part_elements);
    bucket.node_receives = m_node_receives.make(part_elements);
    bucket.reduce_sends = m_reduce_sends.make(part_elements);
    bucket.reduce_receives = m_reduce_receives.make(part_elements);
    bucket.return_sends = m_return_sends.make(part_elements);
    bucket.return_receives = m_return_receives.make(part_elements);
    bucket.node_return_sends = m_node_return_sends.make(part_elements);
    bucket.node_return_receives = m_node_return_receives.make(part_elements);
    bucket.weight_sends = m_weight_sends.make(part_elements);
    bucket.weight_receives = m_weight_receives.make(part_elements);
    bucket.node_weight_sends = m_node_weight_sends.make(part_elements);
    bucket.node_weight_receives = m_node_weight_receives.make(part_elements);
    return bucket;
  }

  /// Moves the sums to a bucket whose messages are finished.
  void finish_sums(BucketSchedule& bucket) {
    for (NodeRun& run : m_node_sums) {
      resolve(m_node_receives, run.contributions);
      if (bucket.node_sums.empty() || !join(bucket.node_sums.back(), run))
        bucket.node_sums.push_back(std::move(run));
    }
    for (OwnedRun& run : m_owned) {
      resolve(m_reduce_receives, run.contributions);
      OwnedRun* const last = bucket.owned.empty() ? nullptr : &bucket.owned.back();
      const bool beside = last != nullptr && last->holders == run.holders &&
                          last->weight_begin + last->gradients.size() == run.weight_begin;
      if (!beside || !join(*last, run)) bucket.owned.push_back(std::move(run));
    }
  }

 private:
  /// The gradients of this worker: to who sums them in its node, or with those that it sums itself.
  void add_gradient(Piece const& piece, index_t gradient, int turn) {
    const index_t count = piece.logical.size();
    const auto local = m_nodes.members(m_owners.workers(piece.holders), m_node);
    const int delegate = m_nodes.delegate(local, piece.owner, turn);
    if (delegate != m_worker) {
      const Ends ends = gradient_ends(piece, gradient, delegate);
      m_node_sends.add(delegate, count, ends);
      if (m_returns) m_node_return_receives.add(delegate, count, ends);
      return;
    }
    if (local.size() > 1) {
      std::vector<Contribution> terms;
      for (int peer : local) {
        const bool self = peer == m_worker;
        const Ends ends = gradient_ends(piece, gradient, peer);
        terms.push_back(
            {peer, peer, self ? 0 : m_node_receives.add(peer, count, ends), peer, ends.there});
        if (!self && m_returns) m_node_return_sends.add(peer, count, ends);
      }
      m_node_sums.push_back({{gradient, gradient + count}, std::move(terms)});
    }
    if (piece.owner == m_worker) return;
    const Ends ends = gradient_ends(piece, gradient, piece.owner);
    m_reduce_sends.add(piece.owner, count, ends);
    if (m_returns) m_return_receives.add(piece.owner, count, ends);
  }

  /// The sums of all nodes with holders, of which this worker makes the average.
  void add_owned(Piece const& piece, index_t gradient, index_t weight, int turn) {
    const index_t count = piece.logical.size();
    auto const& holders = m_owners.workers(piece.holders);
    std::vector<Contribution> terms;
    m_nodes.for_each(holders, [&](int node, std::span<int const> members) {
      const int peer = m_nodes.delegate(members, piece.owner, turn);
      const bool self = peer == m_worker;
      const Ends ends = gradient_ends(piece, gradient, peer);
      terms.push_back(
          {node, peer, self ? 0 : m_reduce_receives.add(peer, count, ends), peer, ends.there});
      if (!self && m_returns) m_return_sends.add(peer, count, ends);
    });
    m_owned.push_back(
        {{gradient, gradient + count}, weight, static_cast<int>(holders.size()), std::move(terms)});
  }

  /// A piece that this worker stores: who of its node has the updated weights, and who gets them.
  void add_weight(Piece const& piece, index_t weight, int turn) {
    auto const& receivers =
        m_owners.workers(m_returns ? piece.storers & ~piece.holders : piece.storers);
    const auto local = m_nodes.members(receivers, m_node);
    const bool owner = piece.owner == m_worker;
    auto add = [&](Messages& messages, int peer) {
      messages.add(peer, piece.logical.size(),
                   {weight, m_positions.weight(peer, piece.logical.begin)});
    };
    if (owner)
      m_nodes.for_each(receivers, [&](int node, std::span<int const> members) {
        if (node != m_node && !updated_on(node, piece))
          add(m_weight_sends, m_nodes.delegate(members, piece.owner, turn));
      });
    if (local.empty()) return;
    const bool updated = m_nodes.of(piece.owner) == m_node || updated_on(m_node, piece);
    const int source =
        m_nodes.delegate(updated ? m_nodes.members(m_owners.workers(piece.holders), m_node) : local,
                         piece.owner, turn);
    if (source == m_worker) {
      for (int peer : local)
        if (peer != m_worker) add(owner ? m_weight_sends : m_node_weight_sends, peer);
      if (!updated) add(m_weight_receives, piece.owner);
    } else if (std::binary_search(local.begin(), local.end(), m_worker)) {
      add(source == piece.owner ? m_weight_receives : m_node_weight_receives, source);
    }
  }

  Ends gradient_ends(Piece const& piece, index_t gradient, int peer) {
    return {gradient, m_positions.gradient(peer, piece.logical.begin)};
  }

  /// Whether a node has updated weights of its own: those of a holder that got the average.
  bool updated_on(int node, Piece const& piece) const {
    return m_returns && !m_nodes.members(m_owners.workers(piece.holders), node).empty();
  }

  /// Adds a run to the one before where it goes on in the buffer and in every contribution.
  template <class Run>
  static bool join(Run& last, Run const& run) {
    const bool goes_on =
        last.gradients.end == run.gradients.begin &&
        std::equal(last.contributions.begin(), last.contributions.end(), run.contributions.begin(),
                   run.contributions.end(), [&](Contribution const& a, Contribution const& b) {
                     const index_t count = last.gradients.size();
                     return a.leaf == b.leaf && a.message == b.message &&
                            (a.message < 0 || (a.offset + count == b.offset &&
                                               a.peer_begin + count == b.peer_begin));
                   });
    if (goes_on) last.gradients.end = run.gradients.end;
    return goes_on;
  }

  /// Until the bucket is finished contributions have a peer in place of the message, and the number
  /// of their elements among those of the peer in place of the offset.
  void resolve(Messages const& messages, std::vector<Contribution>& contributions) const {
    for (Contribution& contribution : contributions)
      if (contribution.message == m_worker)
        contribution.message = -1;
      else
        messages.resolve(contribution.message, contribution.offset, contribution.message,
                         contribution.offset);
  }

  int m_worker;
  int m_workers;
  bool m_returns;
  Nodes m_nodes;
  int m_node;
  OwnerMap& m_owners;
  Positions& m_positions;
  Messages m_node_sends{m_worker, m_workers, true};
  Messages m_node_receives{m_worker, m_workers, false};
  Messages m_reduce_sends{m_worker, m_workers, true};
  Messages m_reduce_receives{m_worker, m_workers, false};
  Messages m_return_sends{m_worker, m_workers, true};
  Messages m_return_receives{m_worker, m_workers, true};
  Messages m_node_return_sends{m_worker, m_workers, true};
  Messages m_node_return_receives{m_worker, m_workers, true};
  Messages m_weight_sends{m_worker, m_workers, true};
  Messages m_weight_receives{m_worker, m_workers, true};
  Messages m_node_weight_sends{m_worker, m_workers, true};
  Messages m_node_weight_receives{m_worker, m_workers, true};
  std::vector<NodeRun> m_node_sums;
  std::vector<OwnedRun> m_owned;
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

/// The schedule of one worker as far as it is known before its buckets.
ExchangeSchedule empty_schedule(ExchangeLayout const& layout, OwnerMap const& owners, int worker,
                                GradientReturn gradient_return, int ranks_per_node) {
  if (ranks_per_node < 1)
    throw std::invalid_argument("make_schedule: " + std::to_string(ranks_per_node) +
                                " ranks on a node");
  const auto t =
      static_cast<std::size_t>(layout.table_of_worker.at(static_cast<std::size_t>(worker)));
  ExchangeSchedule schedule;
  schedule.worker = worker;
  schedule.workers = layout.workers();
  schedule.node_size = ranks_per_node < layout.workers() ? ranks_per_node : 1;
  schedule.gradient_return = gradient_return;
  schedule.dense = owners.dense();
  schedule.gradient_size = layout.gradients[t].size();
  schedule.weight_size = layout.weights.empty() ? schedule.gradient_size : layout.weights[t].size();
  return schedule;
}

}  // namespace

void count_messages(BucketSchedule const& bucket, int worker, int ranks_per_node,
                    ExchangeTraffic& traffic) {
  auto sent = [&](std::vector<ExchangeMessage> const& messages, index_t& all, index_t& away) {
    for (ExchangeMessage const& message : messages) {
      all += message.elements;
      traffic.messages_sent += message.count();
      if (message.peer / ranks_per_node == worker / ranks_per_node) continue;
      away += message.elements;
      traffic.messages_sent_to_other_nodes += message.count();
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

ExchangeSchedule make_schedule(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                               int worker, GradientReturn gradient_return, int ranks_per_node,
                               index_t part_elements) {
  OwnerMap owners(layout, buckets);
  ExchangeSchedule schedule =
      empty_schedule(layout, owners, worker, gradient_return, ranks_per_node);
  const int table = layout.table_of_worker[static_cast<std::size_t>(worker)];
  Positions positions(layout, owners);
  FlatCursor gradient_limits(owners.gradients(table));
  FlatCursor weight_limits(owners.weights(table));
  std::map<TableMask, int> turns;
  for (IndexRange const& logical : buckets) {
    BucketBuilder builder(schedule, owners, positions);
    for (Piece const& piece : owners.next_bucket()) builder.add(piece, turns[piece.holders]++);
    BucketSchedule bucket = builder.finish_messages(part_elements);
    builder.finish_sums(bucket);
    bucket.logical = logical;
    bucket.gradients = flat_range(gradient_limits, logical, schedule.gradient_size);
    bucket.weights = flat_range(weight_limits, logical, schedule.weight_size);
    add_owned_ranges(bucket.owned, schedule.owned);
    count_messages(bucket, worker, ranks_per_node, schedule.traffic);
    schedule.buckets.push_back(std::move(bucket));
  }
  return schedule;
}

ExchangeSchedule without_peers(ExchangeSchedule schedule) {
  for (BucketSchedule& bucket : schedule.buckets) {
    BucketSchedule alone;
    alone.logical = bucket.logical;
    alone.gradients = bucket.gradients;
    alone.weights = bucket.weights;
    bucket = std::move(alone);
  }
  schedule.traffic = {};
  return schedule;
}

void visit_buckets(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                   std::vector<int> const& workers, GradientReturn gradient_return,
                   int ranks_per_node,
                   std::function<void(std::size_t, BucketSchedule const&, index_t)> const& visit) {
  OwnerMap owners(layout, buckets);
  std::vector<ExchangeSchedule> schedules;
  std::vector<Positions> positions;  // of each worker: they are walked through one after the other
  for (int worker : workers) {
    schedules.push_back(empty_schedule(layout, owners, worker, gradient_return, ranks_per_node));
    positions.emplace_back(layout, owners);
  }
  std::map<TableMask, int> next_turn;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    const std::vector<Piece> pieces = owners.next_bucket();
    std::vector<int> turns;
    for (Piece const& piece : pieces) turns.push_back(next_turn[piece.holders]++);
    for (std::size_t i = 0; i < workers.size(); ++i) {
      BucketBuilder builder(schedules[i], owners, positions[i]);
      index_t owned = 0;
      for (std::size_t p = 0; p < pieces.size(); ++p) {
        builder.add(pieces[p], turns[p]);
        if (pieces[p].owner == workers[i]) owned += pieces[p].logical.size();
      }
      BucketSchedule bucket = builder.finish_messages(k_part_elements);
      builder.finish_sums(bucket);
      visit(i, bucket, owned);
    }
  }
}

}  // namespace sdp
