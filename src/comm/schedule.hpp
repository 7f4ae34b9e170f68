// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "comm/buckets.hpp"
#include "comm/owners.hpp"

namespace sdp {

// Who sends what to whom, as plain data: pure functions of the workers' parameter tables, without
// MPI.

/// What becomes of an averaged slice: sent back to all holders, which update their own copies, or
/// kept by its owner, which updates the weights and returns those.
enum class GradientReturn { holders, none };

/// One message between this worker and a peer in one phase of one bucket. `runs` are the flat
/// ranges of this worker that it carries, in order: gradients, or weights in the weight phase.
struct ExchangeMessage {
  int peer = 0;
  index_t elements = 0;
  std::vector<IndexRange> runs;
};

/// Where one holder's contribution to an owned run lies: `offset` elements into the received
/// message number `message`, or in this worker's own gradients when message is -1.
struct Contribution {
  int worker = 0;
  int message = -1;
  index_t offset = 0;
};

/// Elements that this worker owns, contiguous in its buffers and of one holder set.
struct OwnedRun {
  IndexRange gradients;
  index_t weight_begin = 0;
  std::vector<Contribution> contributions;  ///< of all holders, ascending by worker
};

struct BucketSchedule {
  IndexRange logical;
  IndexRange gradients;                          ///< the bucket in this worker's gradient buffer
  IndexRange weights;                            ///< and in its weight buffer
  std::vector<ExchangeMessage> reduce_sends;     ///< own gradients to the owners
  std::vector<ExchangeMessage> reduce_receives;  ///< contributions to own slices; no runs
  std::vector<ExchangeMessage> return_sends;     ///< averaged own slices to the other holders
  std::vector<ExchangeMessage> return_receives;
  std::vector<ExchangeMessage> weight_sends;  ///< updated weights of own slices
  std::vector<ExchangeMessage> weight_receives;
  std::vector<OwnedRun> owned;
};

/// Elements and messages of one step.
struct ExchangeTraffic {
  index_t gradients_sent = 0;
  index_t gradients_received = 0;
  index_t weights_sent = 0;
  index_t weights_received = 0;
  index_t messages_sent = 0;
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
  bool dense = true;  ///< every worker holds every element
  index_t gradient_size = 0;
  index_t weight_size = 0;
  std::vector<BucketSchedule> buckets;
  std::vector<OwnedRange> owned;  ///< ascending, adjacent ranges merged
  ExchangeTraffic traffic;
};

/// Builds the part of `worker` from the owners of an OwnerMap, whose errors it throws.
///
/// Every holder sends its gradients to their owners. Averages go from the owner to the other
/// holders (GradientReturn::holders), new weights to every worker that stores the element and did
/// not get its average. One message for each peer, bucket and phase.
ExchangeSchedule make_schedule(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                               int worker, GradientReturn gradient_return);

}  // namespace sdp
