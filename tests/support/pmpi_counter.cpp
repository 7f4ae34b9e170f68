// SPDX-License-Identifier: Apache-2.0
#include "pmpi_counter.hpp"

#include <mpi.h>

namespace {

sdp::test::PmpiCounts g_counts;

std::int64_t bytes_of(int count, MPI_Datatype type) {
  int size = 0;
  PMPI_Type_size(type, &size);
  return static_cast<std::int64_t>(count) * size;
}

void count_send(int count, MPI_Datatype type, int peer) {
  g_counts.sent_bytes += bytes_of(count, type);
  if (peer >= 0 && peer < static_cast<int>(g_counts.sent_bytes_to.size()))
    g_counts.sent_bytes_to[static_cast<std::size_t>(peer)] += bytes_of(count, type);
  ++g_counts.sent_messages;
}

}  // namespace

namespace sdp::test {
PmpiCounts pmpi_counts() {
  return g_counts;
}
}  // namespace sdp::test

extern "C" {

int MPI_Send(void const* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm) {
  count_send(count, type, peer);
  return PMPI_Send(data, count, type, peer, tag, comm);
}

int MPI_Isend(void const* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm,
              MPI_Request* request) {
  count_send(count, type, peer);
  return PMPI_Isend(data, count, type, peer, tag, comm, request);
}

int MPI_Irecv(void* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm,
              MPI_Request* request) {
  g_counts.received_bytes += bytes_of(count, type);
  return PMPI_Irecv(data, count, type, peer, tag, comm, request);
}

int MPI_Iallreduce(void const* in, void* out, int count, MPI_Datatype type, MPI_Op op,
                   MPI_Comm comm, MPI_Request* request) {
  g_counts.all_reduced_bytes += bytes_of(count, type);
  return PMPI_Iallreduce(in, out, count, type, op, comm, request);
}

}  // extern "C"
