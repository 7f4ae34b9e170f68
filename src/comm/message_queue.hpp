// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/types.hpp"
#include "comm/world.hpp"

namespace sdp {

/// What a queue has to know before the first message.
struct MessagePlan {
  /// Messages with the tags 2 * group and 2 * group + 1 belong together.
  struct Group {
    int group = 0;
    int posts = 0;  ///< of this rank: one for every send, receive and all_reduce
  };
  int messages = 0;        ///< ids count from 0
  std::size_t pieces = 0;  ///< the most under way, so that posting allocates nothing
  int max_tag = 0;
  index_t max_message_bytes = index_t{1} << 30;  ///< longer ones travel in pieces
  /// The groups of each pass, in an order in which every rank can finish them one after the other.
  /// Groups without a post of this rank may be missing.
  std::vector<std::vector<Group>> passes;
};

/// Asynchronous messages of one exchange: the only place where the exchange meets its transport.
/// Messages meet those of no other queue. A message is known by an id from 0; several posts of the
/// same id make one message. Between two ranks and with one tag, posts meet in their order.
class MessageQueue {
 public:
  MessageQueue() = default;
  virtual ~MessageQueue() = default;
  MessageQueue(MessageQueue const&) = delete;
  MessageQueue& operator=(MessageQueue const&) = delete;

  /// A pass of the plan begins; the one before has finished.
  virtual void begin_pass([[maybe_unused]] int pass) {}
  /// Posts a message of `bytes` >= 0; the buffer is busy until the message is reported as finished.
  virtual void send(int id, void const* data, index_t bytes, int peer, int tag) = 0;
  virtual void receive(int id, void* data, index_t bytes, int peer, int tag) = 0;
  /// data(i) = sum over ranks of data(i), in place, in an order that belongs to the transport.
  virtual void all_reduce(int id, float* data, index_t count, int tag) = 0;
  virtual void all_reduce(int id, double* data, index_t count, int tag) = 0;

  /// Moves what can be moved and returns the ids that finished in this call. The list is valid
  /// until the next call.
  virtual std::vector<int> const& test() = 0;
  virtual bool idle() const = 0;

  /// Where messages are work on a stream of the device: an execution space on that stream. A
  /// message is then reported as finished when it has been queued, what is queued on the space
  /// before a post has taken place before the message, and what is queued after the report takes
  /// place after it. Null where the host waits for messages: memory must then be ready at a post.
  virtual ExecSpace const* stream() const { return nullptr; }
  /// Collective, where there is a stream, and queued on it: data(i) = sum over ranks of data(i), in
  /// place and exact.
  virtual void sum([[maybe_unused]] std::int64_t* data, [[maybe_unused]] index_t count) {
    throw std::logic_error("MessageQueue::sum: this transport has no stream");
  }
};

/// Makes the queue of one exchange; collective.
using QueueFactory =
    std::function<std::unique_ptr<MessageQueue>(World const& world, MessagePlan const& plan)>;

}  // namespace sdp
