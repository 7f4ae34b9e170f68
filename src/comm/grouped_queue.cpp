// SPDX-License-Identifier: Apache-2.0
#include "comm/grouped_queue.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace sdp {

GroupedQueue::GroupedQueue(World const& world, MessagePlan const& plan)
    : m_world(world), m_max_message_bytes(plan.max_message_bytes) {
  for (auto const& pass : plan.passes) {
    std::vector<int> order;
    std::vector<Group> groups;
    for (MessagePlan::Group const& entry : pass) {
      const auto at = static_cast<std::size_t>(entry.group);
      if (groups.size() <= at) groups.resize(at + 1);
      if (groups[at].expected != 0)
        throw std::invalid_argument("GroupedQueue: group " + std::to_string(entry.group) +
                                    " stands twice in a pass");
      if (entry.posts == 0) continue;
      order.push_back(entry.group);
      groups[at].expected = entry.posts;
      groups[at].posts.reserve(static_cast<std::size_t>(entry.posts));
    }
    m_order.push_back(std::move(order));
    m_groups.push_back(std::move(groups));
  }
  m_finished.reserve(static_cast<std::size_t>(plan.messages));
}

void GroupedQueue::begin_pass(int pass) {
  if (m_waiting > 0) throw std::logic_error("GroupedQueue: the pass before has not finished");
  m_pass = static_cast<std::size_t>(pass);
  m_next = 0;
}

void GroupedQueue::post(Post const& post) {
  auto& groups = m_groups[m_pass];
  const auto at = static_cast<std::size_t>(post.tag / 2);
  if (at >= groups.size() || static_cast<int>(groups[at].posts.size()) == groups[at].expected)
    throw std::logic_error("GroupedQueue: tag " + std::to_string(post.tag) +
                           " has a post that is not in the plan");
  groups[at].posts.push_back(post);
  ++m_waiting;
}

void GroupedQueue::send(int id, void const* data, index_t bytes, int peer, int tag) {
  post({Kind::send, id, const_cast<void*>(data), bytes, m_world.rank_of(peer), tag});
}
void GroupedQueue::receive(int id, void* data, index_t bytes, int peer, int tag) {
  post({Kind::receive, id, data, bytes, m_world.rank_of(peer), tag});
}
void GroupedQueue::all_reduce(int id, float* data, index_t count, int tag) {
  post({Kind::all_reduce_float, id, data, count, 0, tag});
}
void GroupedQueue::all_reduce(int id, double* data, index_t count, int tag) {
  post({Kind::all_reduce_double, id, data, count, 0, tag});
}

std::vector<int> const& GroupedQueue::test() {
  m_finished.clear();
  if (m_order.empty()) return m_finished;
  auto const& order = m_order[m_pass];
  for (; m_next < order.size(); ++m_next) {
    Group& group = m_groups[m_pass][static_cast<std::size_t>(order[m_next])];
    if (static_cast<int>(group.posts.size()) < group.expected) break;
    // Posts of one tag stand in order already.
    std::stable_sort(group.posts.begin(), group.posts.end(),
                     [](Post const& a, Post const& b) { return a.tag < b.tag; });
    issue(group.posts);
    m_waiting -= group.posts.size();
    for (Post const& post : group.posts) m_finished.push_back(post.id);
    group.posts.clear();
  }
  std::sort(m_finished.begin(), m_finished.end());
  m_finished.erase(std::unique(m_finished.begin(), m_finished.end()), m_finished.end());
  return m_finished;
}

}  // namespace sdp
