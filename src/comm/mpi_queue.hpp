// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <vector>

#include "comm/message_queue.hpp"

namespace sdp {

/// Messages over MPI point-to-point, between buffers that MPI can address. Works on a duplicate of
/// the world's communicator. A long message travels in pieces, which the order guarantee of MPI
/// keeps together. Nothing moves but inside of calls.
class MpiQueue : public MessageQueue {
 public:
  /// Collective. Throws ConfigError on every rank when MPI cannot carry the tags of the plan.
  MpiQueue(World const& world, MessagePlan const& plan);
  ~MpiQueue() override;

  void send(int id, void const* data, index_t bytes, int peer, int tag) override;
  void receive(int id, void* data, index_t bytes, int peer, int tag) override;
  void all_reduce(int id, float* data, index_t count, int tag) override;
  void all_reduce(int id, double* data, index_t count, int tag) override;
  std::vector<int> const& test() override;
  bool idle() const override { return m_requests.empty(); }

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
