// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <vector>

#include "base/types.hpp"
#include "comm/world.hpp"

namespace sdp {

/// Asynchronous messages of one exchange over MPI point-to-point: the only place where the exchange
/// meets its transport. Buffers must be memory that MPI can address.
///
/// Works on a duplicate of the world's communicator, so that its messages meet nobody else's. A
/// message is known by an id from 0; one longer than `max_message_bytes` travels in pieces, which
/// the order guarantee of MPI keeps together. Nothing moves but inside of calls.
class MessageQueue {
 public:
  /// Collective. `messages`: number of ids; `capacity`: the most pieces ever under way, so that
  /// posting allocates nothing; `max_tag`: checked against what MPI can carry.
  MessageQueue(World const& world, int messages, std::size_t capacity, int max_tag,
               index_t max_message_bytes);
  ~MessageQueue();
  MessageQueue(MessageQueue const&) = delete;
  MessageQueue& operator=(MessageQueue const&) = delete;

  /// Posts message `id`; the buffer is busy until the message is reported as finished.
  void send(int id, void const* data, index_t bytes, int peer, int tag);
  void receive(int id, void* data, index_t bytes, int peer, int tag);
  /// data(i) = sum over ranks of data(i), in place, in an order that belongs to MPI.
  void all_reduce(int id, float* data, index_t count);
  void all_reduce(int id, double* data, index_t count);

  /// Moves what can be moved and returns the ids that finished in this call. The list is valid
  /// until the next call.
  std::vector<int> const& test();
  bool idle() const { return m_requests.empty(); }

 private:
  template <class Post>
  void post(int id, index_t count, index_t limit, Post&& post_piece);
  void all_reduce(int id, char* data, index_t count, MPI_Datatype type, index_t bytes_per_element);

  MPI_Comm m_comm = MPI_COMM_NULL;
  World const& m_world;
  index_t m_max_message_bytes;
  std::vector<MPI_Request> m_requests;
  std::vector<int> m_ids;   ///< of each request
  std::vector<int> m_left;  ///< unfinished pieces of each message
  std::vector<int> m_completed;
  std::vector<int> m_finished;
};

}  // namespace sdp
