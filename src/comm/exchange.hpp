// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "comm/contribution_sum.hpp"
#include "comm/exchange_legs.hpp"
#include "comm/message_queue.hpp"
#include "comm/schedule.hpp"
#include "comm/stream.hpp"
#include "comm/world.hpp"
#include "kernels/core/bf16.hpp"
#include "kernels/update/copy_spans.hpp"

namespace sdp {

/// How gradients are averaged: by the schedule and a sum in fixed order, or by MPI_Iallreduce over
/// every bucket (a reference: its bits depend on the buckets and on the MPI library).
enum class ReductionMethod { exchange, allreduce };

struct ExchangeOptions {
  ReductionMethod method = ReductionMethod::exchange;
  int staging_slots = 3;  ///< buckets whose contributions may be under way at the same time
  index_t max_message_bytes = index_t{1} << 30;
  bool bf16_wire = false;        ///< gradients cross as bf16; for float gradients and `exchange`
  double timeout_seconds = 0.0;  ///< longest time without progress while waiting; 0: for ever
  QueueFactory queue = {};       ///< how messages travel; empty: mpi_queue()
  /// By worker: its gradient buffer where this process addresses it, else null; of both of two
  /// workers or of neither. Empty: none. For `exchange` without bf16_wire, over MPI.
  std::vector<void*> node_gradients = {};
};

/// Of one step, counted on this rank when a message is posted.
struct ExchangeStatistics {
  std::int64_t gradient_sent_bytes = 0;
  std::int64_t gradient_received_bytes = 0;
  std::int64_t weight_sent_bytes = 0;
  std::int64_t weight_received_bytes = 0;
  std::int64_t messages_sent = 0;
  double blocked_ms = 0.0;  ///< time inside finish(), wait_weights() and finish_return()
};

/// Averages gradients over their holders while backward still runs.
///
///   exchange.begin(gradients);
///   for each layer of backward: { ...; exchange.ready(end of its gradients); }
///   ... exchange.poll() now and then ...
///   exchange.finish();
///
/// `exec` of the constructor is where gradients and weights are computed: what was given to it
/// before ready() and begin_return() takes place before their messages, and what is given to it
/// after finish(), wait_weights() and finish_return() takes place after them. Where the transport
/// works on a stream of the device, none of these waits for the device.
///
/// For every bucket: each holder sends its gradients to the owner of the slice (reduce-scatter
/// inside every holder set), the owner sums them with kernels::ordered_sum over worker ids and
/// divides by the number of holders, and the average returns to the holders. The result is the same
/// for any buckets, owners and timing. A schedule of two levels sums inside each node first, in
/// place in the gradients of the node's delegates. With GradientReturn::none averages stay with
/// their owner (the other elements of the buffer keep this worker's own gradients or the sums of
/// its node), which updates its owned()
/// weights and returns them while the next forward pass already runs:
///
///   exchange.begin_return(weights);
///   for each layer of forward: { exchange.wait_weights(begin of its weights); ... poll() ... }
///   exchange.finish_return();
///
/// Forward reads the weight buffer from its end to its beginning, so buckets return in that order.
///
/// A step is the same sequence on every rank: begin, finish, then begin_return and finish_return
/// where the schedule has weights to return; ready, poll and wait_weights come any number of times
/// in between. Nothing waits for messages outside finish, wait_weights and finish_return; no call
/// allocates.
/// Staging memory is bounded: contributions of at
/// most `staging_slots` buckets are accepted at a time, in bucket order on every rank, so the
/// lowest unfinished bucket can always proceed. Slices that are contiguous are sent and received in
/// the gradient buffer itself.
///
/// Where processes of a node address each other's gradients (ExchangeOptions::node_gradients) an
/// owner adds them where they lie and stores the average there; what travels between the two is
/// the word that they are ready. A worker may then write to its gradients again when finish() has
/// returned, but with GradientReturn::none only after sum() or finish_return(): owners may still be
/// reading.
///
/// With bf16_wire contributions, node sums and averages are rounded to bf16, on the worker that
/// they stay on too, and sums are formed in float: all holders have the same average, which depends
/// on no owner. What one worker alone holds is not rounded. Every gradient then passes through
/// staging memory.
///
/// G: type of the gradients and of the wire; W: type of the weights. Instantiated for (float,
/// float), (double, double) and (float, bf16).
///
/// A failed or stuck exchange throws CommunicationError; the process must then end through
/// MpiSession::abort, since messages are still under way.
template <class G, class W = G>
class Exchange {
 public:
  /// Collective. Throws ConfigError on every rank when `allreduce` is asked for where not every
  /// worker holds everything. Sums and copies run on the stream of the transport, or on one of the
  /// exchange's own where the device has streams. The world must outlive the exchange, at the same
  /// place.
  Exchange(World const& world, ExchangeSchedule schedule, ExchangeOptions options = {},
           ExecSpace exec = ExecSpace());
  ~Exchange();
  Exchange(Exchange const&) = delete;
  Exchange& operator=(Exchange const&) = delete;

  /// Starts a step on a buffer of schedule().gradient_size elements, which stays in use until
  /// finish() returns.
  void begin(View1<G> const& gradients);
  /// All gradients in [0, flat_end) are final once the work given to `exec` until now has taken
  /// place. Starts sending the buckets that are complete, and polls.
  void ready(index_t flat_end);
  /// Moves the exchange on without waiting.
  void poll();
  /// Declares every gradient ready and waits for the step to end.
  void finish();

  /// Starts to send the updated weights that this worker has to those that store them, and to
  /// receive the others. The buffer has schedule().weight_size elements; its updates have been
  /// given to `exec`. Until finish_return() nobody writes to it, and only what wait_weights() has
  /// waited for may be read beside this worker's own updates.
  void begin_return(View1<W> const& weights);
  /// Waits until all weights in [flat_begin, weight_size) have arrived; at once where no return is
  /// under way.
  void wait_weights(index_t flat_begin);
  /// Waits for all weights to arrive and to be sent; at once where no return is under way.
  void finish_return();
  /// begin_return and finish_return.
  void return_weights(View1<W> const& weights) {
    begin_return(weights);
    finish_return();
  }

  /// Collective, between finish() and begin_return(): values(i) = sum over ranks of values(i), in
  /// place, exact, and in order with the work of `exec`. Over MPI the host waits for it.
  void sum(View1<std::int64_t> const& values);

  ExchangeSchedule const& schedule() const { return m_schedule; }
  std::vector<OwnedRange> const& owned() const { return m_schedule.owned; }
  ExchangeStatistics const& statistics() const { return m_statistics; }
  /// What the exchange waits for: phase, bucket and ranks, in one line.
  std::string describe() const;

 private:
  /// Where a bucket is in the step.
  struct Bucket {
    std::array<int, k_leg_kinds> left;  ///< messages that have not finished
    std::size_t moment = 0;             ///< of its gradients, in m_moments
    int slot = -1;
    bool admitted = false;  ///< has its slot (where it needs one) and accepts contributions
    bool ready = false;
    bool offered = false;   ///< own gradients are sent inside the node
    bool sent = false;      ///< own gradients or node sums are sent to the owners
    bool summed = false;    ///< owned slices are averaged and sent
    bool spread = false;    ///< what has come from owners is unpacked and sent on inside the node
    bool unpacked = false;  ///< everything that comes back is in the flat buffer
    bool done = false;
  };

  std::size_t number(Bucket const& bucket) const {
    return static_cast<std::size_t>(&bucket - m_buckets.data());
  }
  Leg const& leg(Bucket const& bucket, LegKind kind) const {
    return m_legs.buckets()[number(bucket)].legs[kind];
  }
  Bucket& bucket_in_order(std::size_t place);
  bool all_reduces(std::size_t bucket) const;
  void reset();
  void take_ready();
  void admit();
  void release(Bucket& bucket);
  void progress(Bucket& bucket);
  void progress_weights(Bucket& bucket);
  bool try_offer(Bucket& bucket);
  bool try_send(Bucket& bucket);
  bool try_sum(Bucket& bucket);
  bool try_spread(Bucket& bucket);
  void try_release(Bucket& bucket);
  void all_reduce(Bucket& bucket);
  void scale_all_reduced(Bucket& bucket);
  char* slot_of(Bucket const& bucket) const {
    return bucket.slot < 0 ? nullptr : m_staging.data() + bucket.slot * m_legs.slot_bytes();
  }
  void completed(int id);
  bool advance();
  template <class Done>
  void wait_until(Done&& done);
  void post(Bucket& bucket, LegKind kind, int message);
  void post_all(Bucket& bucket, LegKind kind);
  void copy(Bucket& bucket, LegKind kind);
  void fence() const;
  /// Bytes of a gradient in a message.
  static index_t wire_bytes(ExchangeOptions const& options) {
    return static_cast<index_t>(options.bf16_wire ? sizeof(kernels::bf16) : sizeof(G));
  }
  void order(ExecSpace const& later, ExecSpace const& earlier);

  World const& m_world;
  ExchangeSchedule m_schedule;
  ExchangeOptions m_options;
  ExecSpace m_user;  ///< computes gradients and weights
  ExchangeLegs m_legs;
  std::vector<Bucket> m_buckets;
  std::unique_ptr<MessageQueue> m_queue;
  std::unique_ptr<Stream> m_stream;  ///< where the queue has none
  ExecSpace m_exec;                  ///< runs sums and copies
  bool m_ordered = false;            ///< messages are work on m_exec
  View1<char> m_staging;
  View1<kernels::CopySpan> m_spans;
  std::vector<int> m_free_slots;
  std::unique_ptr<ContributionSum<G>> m_sum;  ///< of `exchange`
  std::vector<char> m_message_done;
  std::vector<std::int64_t> m_sums;  ///< scratch of sum(Views)

  View1<G> m_gradients;
  View1<W> m_weights;
  std::vector<StreamEvent> m_moments;  ///< of buckets: gradients are final; weights are here
  StreamEvent m_order;
  std::size_t m_next_marked = 0;  ///< buckets that ready() has reached
  std::size_t m_held = 0;         ///< buckets of weights that m_user waits for, of m_arrived
  bool m_open = false;            ///< between begin and finish
  bool m_weight_phase = false;    ///< between begin_return and finish_return
  index_t m_ready_end = 0;
  std::size_t m_next_ready = 0;
  std::size_t m_next_admitted = 0;
  std::size_t m_done = 0;     ///< buckets
  std::size_t m_arrived = 0;  ///< buckets of which all weights are here, from the last one on
  ExchangeStatistics m_statistics;
};

}  // namespace sdp
