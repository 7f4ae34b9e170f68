// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_queue.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"
#include "comm/mpi_error.hpp"

namespace sdp {

MpiQueue::MpiQueue(World const& world, MessagePlan const& plan)
    : m_world(world), m_max_message_bytes(plan.max_message_bytes) {
  check_mpi(MPI_Comm_dup(world.comm(), &m_comm), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(m_comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  int* largest_tag = nullptr;
  int found = 0;
  check_mpi(MPI_Comm_get_attr(m_comm, MPI_TAG_UB, &largest_tag, &found), "MPI_Comm_get_attr");
  if (found && plan.max_tag > *largest_tag)
    throw on_all_ranks(ConfigError("system.bucket_mb makes " + std::to_string(plan.max_tag) +
                                   " message tags, but this MPI has " +
                                   std::to_string(*largest_tag) + "; larger buckets need fewer"));
  m_requests.reserve(plan.pieces);
  m_ids.reserve(plan.pieces);
  m_completed.resize(plan.pieces);
  m_finished.reserve(plan.pieces);
  m_left.assign(static_cast<std::size_t>(plan.messages), 0);
}

MpiQueue::~MpiQueue() {
  int finalized = 0;
  if (MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized && m_comm != MPI_COMM_NULL)
    MPI_Comm_free(&m_comm);
}

/// Posts `count` units in pieces of at most `limit`; post_piece(begin, units, request) posts one.
template <class Post>
void MpiQueue::post(int id, index_t count, index_t limit, Post&& post_piece) {
  index_t begin = 0;
  do {  // an empty message is one too
    MPI_Request request = MPI_REQUEST_NULL;
    post_piece(begin, static_cast<int>(std::min(limit, count - begin)), &request);
    m_requests.push_back(request);
    m_ids.push_back(id);
    ++m_left[static_cast<std::size_t>(id)];
    begin += limit;
  } while (begin < count);
}

void MpiQueue::send(int id, void const* data, index_t bytes, int peer, int tag) {
  post(id, bytes, m_max_message_bytes, [&](index_t begin, int count, MPI_Request* request) {
    check_mpi(MPI_Isend(static_cast<char const*>(data) + begin, count, MPI_BYTE,
                        m_world.rank_of(peer), tag, m_comm, request),
              "MPI_Isend");
  });
}

void MpiQueue::receive(int id, void* data, index_t bytes, int peer, int tag) {
  post(id, bytes, m_max_message_bytes, [&](index_t begin, int count, MPI_Request* request) {
    check_mpi(MPI_Irecv(static_cast<char*>(data) + begin, count, MPI_BYTE, m_world.rank_of(peer),
                        tag, m_comm, request),
              "MPI_Irecv");
  });
}

void MpiQueue::all_reduce(int id, char* data, index_t count, MPI_Datatype type,
                          index_t bytes_per_element) {
  const index_t limit = std::max<index_t>(1, m_max_message_bytes / bytes_per_element);
  post(id, count, limit, [&](index_t begin, int elements, MPI_Request* request) {
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, data + begin * bytes_per_element, elements, type,
                             MPI_SUM, m_comm, request),
              "MPI_Iallreduce");
  });
}
void MpiQueue::all_reduce(int id, float* data, index_t count, int) {
  all_reduce(id, reinterpret_cast<char*>(data), count, MPI_FLOAT, sizeof(float));
}
void MpiQueue::all_reduce(int id, double* data, index_t count, int) {
  all_reduce(id, reinterpret_cast<char*>(data), count, MPI_DOUBLE, sizeof(double));
}

std::vector<int> const& MpiQueue::test() {
  m_finished.clear();
  if (m_requests.empty()) return m_finished;
  if (m_completed.size() < m_requests.size()) m_completed.resize(m_requests.size());
  int count = 0;
  check_mpi(MPI_Testsome(static_cast<int>(m_requests.size()), m_requests.data(), &count,
                         m_completed.data(), MPI_STATUSES_IGNORE),
            "MPI_Testsome");
  if (count <= 0) return m_finished;
  for (int i = 0; i < count; ++i) {
    const int id = m_ids[static_cast<std::size_t>(m_completed[static_cast<std::size_t>(i)])];
    if (--m_left[static_cast<std::size_t>(id)] == 0) m_finished.push_back(id);
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < m_requests.size(); ++i) {
    if (m_requests[i] == MPI_REQUEST_NULL) continue;
    m_requests[kept] = m_requests[i];
    m_ids[kept++] = m_ids[i];
  }
  m_requests.resize(kept);
  m_ids.resize(kept);
  return m_finished;
}

}  // namespace sdp
