// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "comm/buckets.hpp"
#include "comm/owners.hpp"

namespace sdp {

// Who sends what to whom, as plain data: pure functions of the workers' parameter tables, without
// MPI.

/// What becomes of an averaged slice: sent back to all holders, which update their own copies, or
/// kept by its owner, which updates the weights and returns those.
enum class GradientReturn { holders, none };

/// Elements that are contiguous on both sides, from which on sending them by themselves is cheaper
/// than packing them with others.
inline constexpr index_t k_part_elements = 24576;

/// What goes between this worker and a peer in one leg of one bucket. `runs` are the flat ranges of
/// this worker that it carries, in order: gradients, or weights in the weight legs. It travels as
/// one message, or as one for each of its parts, given by their numbers of elements; parts are
/// contiguous on both sides, and the same there. Elements that must be packed and long parts make
/// two of these.
struct ExchangeMessage {
  int peer = 0;
  index_t elements = 0;
  std::vector<IndexRange> runs;
  std::vector<index_t> parts;  ///< empty: one message

  index_t count() const { return parts.empty() ? index_t{1} : static_cast<index_t>(parts.size()); }
};

/// Where one contribution to a sum lies: `offset` elements into the received message number
/// `message`, or in this worker's own gradients when message is -1. `leaf` is its place in the tree
/// of the sum: the worker that it comes from, or the node in the second of two levels.
struct Contribution {
  int leaf = 0;
  int message = -1;
  index_t offset = 0;
  int peer = 0;            ///< the worker that sends it
  index_t peer_begin = 0;  ///< where it lies in the gradient buffer of that worker
};

/// Gradients of this worker's node that this worker sums for an owner, in place.
struct NodeRun {
  IndexRange gradients;
  std::vector<Contribution> contributions;  ///< of the node's holders, ascending
};

/// Elements that this worker owns, contiguous in its buffers and of one holder set.
struct OwnedRun {
  IndexRange gradients;
  index_t weight_begin = 0;
  int holders = 1;                          ///< what the sum is divided by
  std::vector<Contribution> contributions;  ///< of all holders, or of all nodes, ascending
};

/// The node legs are empty where there is one level.
struct BucketSchedule {
  IndexRange logical;
  IndexRange gradients;                        ///< the bucket in this worker's gradient buffer
  IndexRange weights;                          ///< and in its weight buffer
  std::vector<ExchangeMessage> node_sends;     ///< own gradients to who sums them in this node
  std::vector<ExchangeMessage> node_receives;  ///< contributions to the node sums; no runs
  std::vector<NodeRun> node_sums;
  std::vector<ExchangeMessage> reduce_sends;     ///< own gradients, or node sums, to the owners
  std::vector<ExchangeMessage> reduce_receives;  ///< contributions to own slices; no runs
  std::vector<OwnedRun> owned;
  std::vector<ExchangeMessage> return_sends;  ///< averaged own slices to who contributed
  std::vector<ExchangeMessage> return_receives;
  std::vector<ExchangeMessage> node_return_sends;  ///< averages to the other holders of this node
  std::vector<ExchangeMessage> node_return_receives;
  std::vector<ExchangeMessage> weight_sends;  ///< updated weights of own slices
  std::vector<ExchangeMessage> weight_receives;
  std::vector<ExchangeMessage> node_weight_sends;  ///< others' updated weights inside this node
  std::vector<ExchangeMessage> node_weight_receives;
};

/// Elements and messages of one step.
struct ExchangeTraffic {
  index_t gradients_sent = 0;
  index_t gradients_received = 0;
  index_t weights_sent = 0;
  index_t weights_received = 0;
  index_t messages_sent = 0;
  index_t gradients_sent_to_other_nodes = 0;
  index_t weights_sent_to_other_nodes = 0;
  index_t messages_sent_to_other_nodes = 0;

  friend bool operator==(ExchangeTraffic const&, ExchangeTraffic const&) = default;
};

/// An owned range of the gradient buffer and where the same elements begin in the weight buffer.
struct OwnedRange {
  IndexRange gradients;
  index_t weight_begin = 0;
};

/// The part of one worker. Messages of a phase start with the next higher worker and wrap around,
/// so that workers do not all send to the same peer first; both sides leave out empty messages.
struct ExchangeSchedule {
  int worker = 0;
  int workers = 1;
  GradientReturn gradient_return = GradientReturn::holders;
  int node_size = 1;  ///< ranks of a node that sum first; 1: there is one level
  bool dense = true;  ///< every worker holds every element
  index_t gradient_size = 0;
  index_t weight_size = 0;
  std::vector<BucketSchedule> buckets;
  std::vector<OwnedRange> owned;  ///< ascending, adjacent ranges merged
  ExchangeTraffic traffic;
};

/// Builds the part of `worker` from the owners of an OwnerMap, whose errors it throws. A pure
/// function of its arguments. Worker w is on node w / ranks_per_node.
///
/// One level (one worker on every node, or one node): every holder sends its gradients to their
/// owners. Averages go from the owner to the other holders (GradientReturn::holders), new weights
/// to every worker that stores the element and did not get its average.
///
/// Two levels: on every node with holders of a piece one of them, its delegate, sums the gradients
/// of the node's holders and sends one partial sum to the owner, which adds those of all nodes;
/// averages go back the same way. The delegate is the owner on its own node, elsewhere the holder
/// with the owner's place among the ranks of its node, or the holders take turns. New weights go to
/// one worker of every node that needs them, which passes them on; where averages have gone to
/// holders, a node with a holder gets them from its delegate. The sum is a tree over the workers of
/// each node, then over nodes: the same tree as with one level when ranks_per_node is a power of
/// two, another one otherwise.
///
/// Each element crosses between nodes once for each node but the owner's that has a holder (and
/// back), in weights once for each that stores it and has no updated copy. One message for each
/// peer, bucket and leg, but `part_elements` or more that are contiguous on both sides travel by
/// themselves, where something else would have to be packed with them.
ExchangeSchedule make_schedule(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                               int worker, GradientReturn gradient_return, int ranks_per_node = 1,
                               index_t part_elements = k_part_elements);

/// The same buckets and owned ranges without messages and sums: what is left to a worker whose
/// peers do not exist. Gradients then stay as they are, and weights that others own do not change.
ExchangeSchedule without_peers(ExchangeSchedule schedule);

/// Calls visit(i, bucket, owned) for every bucket and every worker workers[i]: its messages and
/// sums, the same as in its schedule, without ranges, and the elements of the bucket that it owns.
/// Divides the model among owners once for all workers. Throws as make_schedule does.
void visit_buckets(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                   std::vector<int> const& workers, GradientReturn gradient_return,
                   int ranks_per_node,
                   std::function<void(std::size_t, BucketSchedule const&, index_t)> const& visit);

/// Adds the messages that a worker sends and receives for a bucket to the traffic of a step.
void count_messages(BucketSchedule const& bucket, int worker, int ranks_per_node,
                    ExchangeTraffic& traffic);

}  // namespace sdp
