// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl_queue.hpp"

#include <algorithm>
#include <utility>

namespace sdp {

namespace {
/// Longer operations are cut: NCCL keeps the progress of one in 32 bits in places.
constexpr index_t k_longest_operation = index_t{1} << 29;
}  // namespace

NcclQueue::NcclQueue(World const& world, std::shared_ptr<NcclCommunicator> communicator,
                     MessagePlan const& plan)
    : GroupedQueue(world, plan), m_communicator(std::move(communicator)) {}

void NcclQueue::begin_pass(int pass) {
  GroupedQueue::begin_pass(pass);
  m_connected.insert(m_pass);
  m_pass = pass;
}

std::vector<int> const& NcclQueue::test() {
  m_communicator->require_health();
  return GroupedQueue::test();
}

void NcclQueue::issue(std::vector<Post> const& posts) {
  const auto run = [&] {
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    for (Post const& post : posts) start(post);
    check_nccl(ncclGroupEnd(), "ncclGroupEnd");
  };
  // NCCL allocates where two ranks meet for the first time.
  if (m_connected.count(m_pass) == 0)
    m_communicator->count_memory(run);
  else
    run();
}

void NcclQueue::start(Post const& post) {
  char* const data = static_cast<char*>(post.data);
  const ncclComm_t comm = m_communicator->comm();
  const cudaStream_t stream = m_communicator->stream();
  if (post.kind == Kind::all_reduce_float || post.kind == Kind::all_reduce_double) {
    const bool single = post.kind == Kind::all_reduce_float;
    check_nccl(ncclAllReduce(data, data, static_cast<std::size_t>(post.count),
                             single ? ncclFloat32 : ncclFloat64, ncclSum, comm, stream),
               "ncclAllReduce");
    return;
  }
  const index_t limit = std::min(max_message_bytes(), k_longest_operation);
  for (index_t begin = 0; begin < post.count; begin += limit) {
    const auto bytes = static_cast<std::size_t>(std::min(limit, post.count - begin));
    if (post.kind == Kind::send)
      check_nccl(ncclSend(data + begin, bytes, ncclUint8, post.rank, comm, stream), "ncclSend");
    else
      check_nccl(ncclRecv(data + begin, bytes, ncclUint8, post.rank, comm, stream), "ncclRecv");
  }
}

void NcclQueue::sum(std::int64_t* data, index_t count) {
  const auto run = [&] {
    check_nccl(ncclAllReduce(data, data, static_cast<std::size_t>(count), ncclInt64, ncclSum,
                             m_communicator->comm(), m_communicator->stream()),
               "ncclAllReduce");
  };
  // The first collective makes the channels of all.
  if (m_has_summed)
    run();
  else
    m_communicator->count_memory(run);
  m_has_summed = true;
}

}  // namespace sdp
