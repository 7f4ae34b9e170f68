// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "comm/message_queue.hpp"
#include "comm/pinned_pool.hpp"
#include "comm/stream.hpp"

namespace sdp {

/// Messages of another queue that pass through host memory, for an MPI that cannot address the
/// memory of the device. What is sent is copied to the host first, what is received is copied to
/// the device once it has arrived; copies run on a stream of their own, and test() moves them on.
/// Takes as much host memory as is under way at a time, and keeps it.
class StagedQueue : public MessageQueue {
 public:
  StagedQueue(std::unique_ptr<MessageQueue> queue, MessagePlan const& plan);

  void begin_pass(int pass) override { m_queue->begin_pass(pass); }
  void send(int id, void const* data, index_t bytes, int peer, int tag) override;
  void receive(int id, void* data, index_t bytes, int peer, int tag) override;
  void all_reduce(int id, float* data, index_t count, int tag) override;
  void all_reduce(int id, double* data, index_t count, int tag) override;
  std::vector<int> const& test() override;
  bool idle() const override { return m_queue->idle() && m_leaving.empty() && m_arriving.empty(); }

 private:
  enum class Kind { send, receive, all_reduce_float, all_reduce_double };
  /// One post; it is on its way to the host, in the queue below, or on its way to the device.
  struct Post {
    Kind kind = Kind::send;
    int id = 0;
    char* device = nullptr;
    index_t bytes = 0;
    int peer = 0;
    int tag = 0;
    PinnedPool::Block block;
    std::size_t event = 0;  ///< of the copy under way
  };

  void leave(Post post);
  void forward(Post& post);
  void settle(Post& post);
  std::size_t mark();
  void copy_to_host(Post const& post);
  void copy_to_device(Post const& post);

  std::unique_ptr<MessageQueue> m_queue;
  Stream m_stream;
  PinnedPool m_pool;
  std::vector<StreamEvent> m_events;
  std::vector<std::size_t> m_free_events;
  std::deque<Post> m_leaving;              ///< copies to the host, in the order of the stream
  std::deque<Post> m_arriving;             ///< copies to the device, likewise
  std::vector<std::vector<Post>> m_below;  ///< in the queue, by message
  std::vector<int> m_left;                 ///< posts of each message that have not finished
  std::vector<int> m_finished;
};

}  // namespace sdp
