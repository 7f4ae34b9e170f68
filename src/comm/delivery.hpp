// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "base/types.hpp"
#include "comm/message_queue.hpp"
#include "comm/owners.hpp"
#include "comm/world.hpp"
#include "kernels/update/copy_spans.hpp"

namespace sdp {

/// How the elements of one worker lie in a flat buffer: as its gradient table, as its weight table,
/// or the ranges that it owns end to end in logical order (the state of a sharded optimizer).
enum class BufferLayout { gradients, weights, packed };

/// Where elements of the model come from: every logical element once, with the worker that has it
/// and its position in that worker's buffer.
struct DeliverySource {
  struct Range {
    IndexRange logical;
    int worker = 0;
    index_t flat = 0;
  };
  std::vector<Range> ranges;   ///< ascending, without gaps
  std::vector<index_t> sizes;  ///< elements of the buffer, by worker

  int workers() const { return static_cast<int>(sizes.size()); }
};

/// The owners of a layout, each with the elements that it owns. Throws as OwnerMap does.
DeliverySource owned_source(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                            BufferLayout buffer);

/// What every worker wants, and where it puts it. Workers with equal wishes share an entry.
struct DeliveryTarget {
  struct Wish {
    std::vector<HeldRange> ranges;  ///< ascending by logical position
    index_t size = 0;               ///< elements of the buffer
  };
  std::vector<Wish> wishes;
  std::vector<int> wish_of_worker;
};

/// Every worker wants all of [begin, end) in a buffer of that size, element i at i - begin.
DeliveryTarget whole_target(int workers, IndexRange logical);
/// Every worker wants what its table holds inside of `logical`, in the flat layout of the table.
DeliveryTarget table_target(std::vector<ParameterTable> const& tables,
                            std::vector<int> const& table_of_worker, IndexRange logical);
/// Every worker wants what it owns in a layout, placed as `buffer` says. Throws as OwnerMap does.
DeliveryTarget owned_target(ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
                            BufferLayout buffer);

/// `count` elements from `source` to `target`, positions in flat buffers.
struct DeliveryCopy {
  index_t source = 0;
  index_t target = 0;
  index_t count = 0;
};

/// The part of one worker in a delivery, as plain data. A message has the elements for one peer in
/// logical order; `runs` are the flat ranges of this worker that it carries.
struct DeliveryPlan {
  struct Stream {
    int peer = 0;
    index_t elements = 0;
    std::vector<IndexRange> runs;
  };
  int worker = 0;
  int workers = 1;
  index_t source_size = 0;
  index_t target_size = 0;
  std::vector<Stream> sends;         ///< by distance of the peer above this worker
  std::vector<Stream> receives;      ///< by distance of the peer below this worker
  std::vector<DeliveryCopy> copies;  ///< what this worker has itself
};

/// A pure function of its arguments, which are the same on every worker. Throws
/// std::invalid_argument when a wish has no source or the numbers of workers differ.
DeliveryPlan make_delivery_plan(DeliverySource const& source, DeliveryTarget const& target,
                                int worker);

struct DeliveryOptions {
  index_t message_bytes = index_t{1} << 20;  ///< longest message
  int window = 8;                            ///< messages under way at a time, in each direction
  double timeout_seconds = 0.0;              ///< longest time without progress; 0: for ever
  QueueFactory queue = {};                   ///< of MPI; empty: mpi_queue()
};

/// Of one delivery.
struct DeliveryStatistics {
  std::int64_t sent_bytes = 0;
  std::int64_t received_bytes = 0;
  std::int64_t messages_sent = 0;
};

/// Sends elements of the model from the workers that have them to those that want them, outside of
/// a step: rows of the merged model for evaluation, weights and moments after a change of masks.
///
///   Delivery<float> delivery(world, options);
///   const auto source = owned_source(layout, buckets, BufferLayout::weights);
///   for each block: delivery.run(make_delivery_plan(source, whole_target(workers, rows), worker),
///                                weights, block);
///
/// Beside the two buffers a rank uses at most 2 * window * message_bytes of staging memory, and a
/// description of what it packs. Messages whose elements are contiguous are sent and received in
/// the buffers themselves. Every rank takes its messages in an order that all agree on, at most
/// `window` of them at a time in each direction, so the first unfinished message can always move.
///
/// T: float, double, bf16. A failed or stuck delivery throws CommunicationError; the process must
/// then end through MpiSession::abort, since messages are still under way.
template <class T>
class Delivery {
 public:
  /// Collective. The world must outlive the delivery, at the same place. The transport must be one
  /// for which the host waits.
  explicit Delivery(World const& world, DeliveryOptions options = {}, ExecSpace exec = ExecSpace());
  ~Delivery();
  Delivery(Delivery const&) = delete;
  Delivery& operator=(Delivery const&) = delete;

  /// Collective. Reads elements of `source` and overwrites those elements of `target` that this
  /// worker wants, no others; waits. The buffers have at least the sizes of the plan and do not
  /// overlap; kernels that wrote the source or use the target have been fenced by the caller.
  void run(DeliveryPlan const& plan, View1<T> const& source, View1<T> const& target);

  DeliveryStatistics const& statistics() const { return m_statistics; }
  /// What the delivery waits for, in one line.
  std::string describe() const;

 private:
  /// Elements for or from one peer, contiguous from `flat` on unless there are spans to pack.
  struct Message {
    int peer = 0;
    index_t elements = 0;
    index_t flat = 0;
    index_t first_span = 0;
    index_t spans = 0;
  };
  /// The messages of one direction, in the order in which they are posted.
  struct Side {
    std::vector<Message> messages;
    std::size_t next = 0;
    std::vector<int> message_of_slot;  ///< -1: free
    std::vector<int> free_slots;
    index_t slot_elements = 0;
    View1<T> staging;

    Message const& message(int slot) const {
      return messages[static_cast<std::size_t>(message_of_slot[static_cast<std::size_t>(slot)])];
    }
    T* memory(int slot) const { return staging.data() + slot * slot_elements; }
  };

  View1<kernels::CopySpan> build(DeliveryPlan const& plan);
  void build(Side& side, std::vector<DeliveryPlan::Stream> const& streams,
             std::vector<kernels::CopySpan>& spans);
  static int take_slot(Side& side);
  void post_receives(View1<T> const& target);
  void post_sends(View1<kernels::CopySpan> const& spans, View1<T> const& source);
  void completed(int id, View1<kernels::CopySpan> const& spans, View1<T> const& target);

  World const& m_world;
  DeliveryOptions m_options;
  ExecSpace m_exec;
  index_t m_message_elements = 0;
  std::unique_ptr<MessageQueue> m_queue;
  Side m_sends;
  Side m_receives;
  index_t m_copies = 0;  ///< spans that this rank copies for itself
  DeliveryStatistics m_statistics;
};

}  // namespace sdp
