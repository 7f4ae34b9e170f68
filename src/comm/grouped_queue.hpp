// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "comm/message_queue.hpp"

namespace sdp {

/// A queue for transports whose sends may wait for the receiver and whose calls take effect in
/// their order: messages are held back until this rank has posted all of a group and the groups
/// before it have been issued, so that every rank issues the groups that it has part in in the same
/// order. Issued messages count as finished.
///
/// Nothing locks up: a post of a group depends on messages of earlier groups only (a receive of a
/// bucket on staging memory that earlier buckets give back, a return on the reduction before it),
/// so the first group that some rank has not issued can be issued by all that are in it.
class GroupedQueue : public MessageQueue {
 public:
  /// Throws std::invalid_argument when a group stands twice in a pass.
  GroupedQueue(World const& world, MessagePlan const& plan);

  void begin_pass(int pass) override;
  void send(int id, void const* data, index_t bytes, int peer, int tag) override;
  void receive(int id, void* data, index_t bytes, int peer, int tag) override;
  void all_reduce(int id, float* data, index_t count, int tag) override;
  void all_reduce(int id, double* data, index_t count, int tag) override;
  std::vector<int> const& test() override;
  bool idle() const override { return m_waiting == 0; }

 protected:
  enum class Kind { send, receive, all_reduce_float, all_reduce_double };
  struct Post {
    Kind kind = Kind::send;
    int id = 0;
    void* data = nullptr;
    index_t count = 0;  ///< elements of all_reduce, else bytes
    int rank = 0;       ///< of the peer
    int tag = 0;
  };

  /// Starts all posts of a group at once. Posts between two ranks stand in the same order on both.
  virtual void issue(std::vector<Post> const& posts) = 0;
  index_t max_message_bytes() const { return m_max_message_bytes; }

 private:
  struct Group {
    int expected = 0;
    std::vector<Post> posts;
  };

  void post(Post const& post);

  World const& m_world;
  index_t m_max_message_bytes;
  std::vector<std::vector<int>> m_order;     ///< groups of each pass
  std::vector<std::vector<Group>> m_groups;  ///< of each pass, by group
  std::size_t m_pass = 0;
  std::size_t m_next = 0;     ///< in the order of the pass
  std::size_t m_waiting = 0;  ///< posts that have not been issued
  std::vector<int> m_finished;
};

}  // namespace sdp
