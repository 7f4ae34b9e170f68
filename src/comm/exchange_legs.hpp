// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "comm/message_queue.hpp"
#include "comm/schedule.hpp"
#include "comm/world.hpp"
#include "kernels/update/copy_spans.hpp"

namespace sdp {

/// What a message of an exchange does; sends are even, and followed by their receives.
enum LegKind : int {
  node_send,
  node_receive,
  reduce_send,
  reduce_receive,
  return_send,
  return_receive,
  node_return_send,
  node_return_receive,
  weight_send,
  weight_receive,
  node_weight_send,
  node_weight_receive
};
inline constexpr int k_leg_kinds = 12;
inline constexpr int k_weight_kinds = weight_send;  ///< the first of those that carry weights
inline constexpr int k_phases = k_leg_kinds / 2;

constexpr bool is_send(LegKind kind) {
  return kind % 2 == 0;
}
constexpr bool carries_weights(LegKind kind) {
  return kind >= k_weight_kinds;
}

/// Places of messages that take no staging memory: in the flat buffer of this worker; in that of
/// the peer, which this process addresses, so that the message itself is empty.
inline constexpr index_t k_in_flat = -1, k_in_node = -2;

/// The messages of one kind in one bucket, and where they lie in the staging slot of the bucket.
struct Leg {
  std::vector<ExchangeMessage> const* messages = nullptr;
  int first_id = 0;  ///< message ids count through all legs
  /// Bytes into the slot, of each message; or k_in_flat, or k_in_node.
  std::vector<index_t> staging;
  /// Ranges that travel by themselves: flat ones, or parts of the staged message.
  std::vector<std::vector<IndexRange>> parts;
  index_t first_span = 0;
  index_t spans = 0;  ///< to copy between the flat buffer and the slot; 0: nothing is packed

  int size() const { return static_cast<int>(messages->size()); }
};

struct LegAddress {
  int bucket = 0;
  LegKind kind = node_send;
  int message = 0;
};

/// All messages of a schedule by id, with their places in staging memory: what an exchange knows
/// before its first step. Keeps references into the schedule.
class ExchangeLegs {
 public:
  struct Bucket {
    std::array<Leg, k_leg_kinds> legs;
    index_t gradient_bytes = 0;  ///< of its slot in the gradient legs, and in the weight legs
    index_t weight_bytes = 0;
  };

  /// `gradient_bytes`, `weight_bytes`: of one element in a message. With `all_reduce` every bucket
  /// has one message, the first of its reduce_send leg, in place of the gradient legs. With
  /// `converted` gradients have another type in messages than in the flat buffer, so that every one
  /// of them passes through a slot. `addressed(worker)`: its gradients are read and written where
  /// they lie.
  ExchangeLegs(ExchangeSchedule const& schedule, index_t gradient_bytes, index_t weight_bytes,
               bool all_reduce, bool converted = false,
               std::function<bool(int)> const& addressed = {});

  std::vector<Bucket> const& buckets() const { return m_buckets; }
  std::vector<LegAddress> const& addresses() const { return m_addresses; }
  std::vector<kernels::CopySpan> const& spans() const { return m_spans; }
  /// Bytes of a staging slot, and the number of buckets that need one.
  index_t slot_bytes() const { return m_slot_bytes; }
  index_t slot_users() const;
  /// Pieces of at most this length that all messages make together, at most.
  std::size_t pieces(ExchangeSchedule const& schedule, index_t max_message_bytes) const;
  /// What a transport has to be ready for. The groups of a pass are the legs of a bucket, in the
  /// order in which a bucket needs them, bucket after bucket. `all_reduces(b)`: bucket b goes
  /// through the all-reduce of the transport.
  MessagePlan message_plan(ExchangeSchedule const& schedule, index_t max_message_bytes,
                           std::function<bool(std::size_t)> const& all_reduces) const;
  /// The unfinished messages of a bucket, "gradients of ranks 1, 3; ..."; empty where there are
  /// none. `done`: by message id.
  std::string describe(std::size_t bucket, bool weights, std::vector<char> const& done,
                       World const& world) const;

 private:
  void add_leg(int bucket, LegKind kind, std::vector<ExchangeMessage> const& messages,
               index_t element_bytes, std::function<bool(int)> const& addressed);

  bool m_converted = false;

  std::vector<Bucket> m_buckets;
  std::vector<LegAddress> m_addresses;
  std::vector<kernels::CopySpan> m_spans;
  index_t m_slot_bytes = 0;
};

}  // namespace sdp
