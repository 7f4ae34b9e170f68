// SPDX-License-Identifier: Apache-2.0
#include "comm/staged_queue.hpp"

#include <utility>

namespace sdp {

namespace {

template <class Space>
using Bytes =
    Kokkos::View<char*, Kokkos::LayoutRight, Space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

}  // namespace

StagedQueue::StagedQueue(std::unique_ptr<MessageQueue> queue, MessagePlan const& plan)
    : m_queue(std::move(queue)),
      m_stream(ExecSpace()),
      m_below(static_cast<std::size_t>(plan.messages)),
      m_left(static_cast<std::size_t>(plan.messages), 0) {
  m_finished.reserve(static_cast<std::size_t>(plan.messages));
}

void StagedQueue::send(int id, void const* data, index_t bytes, int peer, int tag) {
  leave({Kind::send, id, static_cast<char*>(const_cast<void*>(data)), bytes, peer, tag, {}, 0});
}
void StagedQueue::all_reduce(int id, float* data, index_t count, int tag) {
  const auto bytes = count * static_cast<index_t>(sizeof(float));
  leave({Kind::all_reduce_float, id, reinterpret_cast<char*>(data), bytes, 0, tag, {}, 0});
}
void StagedQueue::all_reduce(int id, double* data, index_t count, int tag) {
  const auto bytes = count * static_cast<index_t>(sizeof(double));
  leave({Kind::all_reduce_double, id, reinterpret_cast<char*>(data), bytes, 0, tag, {}, 0});
}
void StagedQueue::receive(int id, void* data, index_t bytes, int peer, int tag) {
  Post post{Kind::receive, id, static_cast<char*>(data), bytes, peer, tag, m_pool.take(bytes), 0};
  ++m_left[static_cast<std::size_t>(id)];
  forward(post);
}

/// Begins the way of a post by a copy to the host.
void StagedQueue::leave(Post post) {
  ++m_left[static_cast<std::size_t>(post.id)];
  post.block = m_pool.take(post.bytes);
  copy_to_host(post);
  post.event = mark();
  m_leaving.push_back(post);
}

/// Hands a post to the queue below.
void StagedQueue::forward(Post& post) {
  char* const data = post.block.data;
  switch (post.kind) {
    case Kind::send:
      m_queue->send(post.id, data, post.bytes, post.peer, post.tag);
      break;
    case Kind::receive:
      m_queue->receive(post.id, data, post.bytes, post.peer, post.tag);
      break;
    case Kind::all_reduce_float:
      m_queue->all_reduce(post.id, reinterpret_cast<float*>(data),
                          post.bytes / static_cast<index_t>(sizeof(float)), post.tag);
      break;
    case Kind::all_reduce_double:
      m_queue->all_reduce(post.id, reinterpret_cast<double*>(data),
                          post.bytes / static_cast<index_t>(sizeof(double)), post.tag);
      break;
  }
  m_below[static_cast<std::size_t>(post.id)].push_back(post);
}

std::vector<int> const& StagedQueue::test() {
  m_finished.clear();
  while (!m_leaving.empty() && m_events[m_leaving.front().event].come()) {
    m_free_events.push_back(m_leaving.front().event);
    forward(m_leaving.front());
    m_leaving.pop_front();
  }
  for (int id : m_queue->test()) {
    auto& posts = m_below[static_cast<std::size_t>(id)];
    for (Post& post : posts) {
      if (post.kind == Kind::send) {
        settle(post);
        continue;
      }
      copy_to_device(post);
      post.event = mark();
      m_arriving.push_back(post);
    }
    posts.clear();
  }
  while (!m_arriving.empty() && m_events[m_arriving.front().event].come()) {
    m_free_events.push_back(m_arriving.front().event);
    settle(m_arriving.front());
    m_arriving.pop_front();
  }
  return m_finished;
}

void StagedQueue::settle(Post& post) {
  m_pool.give_back(post.block);
  if (--m_left[static_cast<std::size_t>(post.id)] == 0) m_finished.push_back(post.id);
}

/// The number of an event at the end of the stream.
std::size_t StagedQueue::mark() {
  if (m_free_events.empty()) {
    m_free_events.push_back(m_events.size());
    m_events.emplace_back();
  }
  const std::size_t event = m_free_events.back();
  m_free_events.pop_back();
  m_events[event].mark(m_stream.exec());
  return event;
}

void StagedQueue::copy_to_host(Post const& post) {
  const auto size = static_cast<std::size_t>(post.bytes);
  Kokkos::deep_copy(m_stream.exec(), Bytes<HostSpace>(post.block.data, size),
                    Bytes<MemSpace>(post.device, size));
}
void StagedQueue::copy_to_device(Post const& post) {
  const auto size = static_cast<std::size_t>(post.bytes);
  Kokkos::deep_copy(m_stream.exec(), Bytes<MemSpace>(post.device, size),
                    Bytes<HostSpace>(post.block.data, size));
}

}  // namespace sdp
