// SPDX-License-Identifier: Apache-2.0
#include "comm/delivery.hpp"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <utility>

#include "base/error.hpp"
#include "base/heartbeat.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "comm/copy_list.hpp"
#include "comm/idle_wait.hpp"
#include "comm/transport.hpp"
#include "kernels/core/bf16.hpp"
#include "kernels/core/compat.hpp"

namespace sdp {

template <class T>
Delivery<T>::Delivery(World const& world, DeliveryOptions options, ExecSpace exec)
    : m_world(world), m_options(std::move(options)), m_exec(exec) {
  m_message_elements = m_options.message_bytes / static_cast<index_t>(sizeof(T));
  if (m_message_elements < 1 || m_options.window < 1)
    throw std::invalid_argument(
        "Delivery: a message must have room for one element and the window "
        "for one message");
  MessagePlan plan;
  plan.messages = 2 * m_options.window;
  plan.pieces = static_cast<std::size_t>(2 * m_options.window);
  plan.max_message_bytes = m_options.message_bytes;
  m_queue = (m_options.queue ? m_options.queue : mpi_queue())(world, plan);
  if (m_queue->stream() != nullptr)
    throw std::invalid_argument("Delivery: the transport works on a stream");
}

template <class T>
Delivery<T>::~Delivery() = default;

template <class T>
void Delivery<T>::run(DeliveryPlan const& plan, View1<T> const& source, View1<T> const& target) {
  if (plan.workers != m_world.workers() || plan.worker != m_world.worker())
    throw std::invalid_argument("Delivery: the plan is for worker " + std::to_string(plan.worker) +
                                " of " + std::to_string(plan.workers));
  if (!m_queue->idle()) throw std::logic_error("Delivery::run: the one before has not finished");
  auto check = [](char const* name, View1<T> const& view, index_t size) {
    if (static_cast<index_t>(view.extent(0)) < size)
      throw std::invalid_argument("Delivery::run: the " + std::string(name) + " has " +
                                  std::to_string(view.extent(0)) + " elements, the plan " +
                                  std::to_string(size));
  };
  check("source", source, plan.source_size);
  check("target", target, plan.target_size);
  const Region region("sdp::comm::delivery");
  m_statistics = {};
  const View1<kernels::CopySpan> spans = build(plan);
  kernels::pack_spans(m_exec, copy_window(spans, 0, m_copies), source, target);

  IdleWait wait(m_options.timeout_seconds);
  while (post_receives(target), post_sends(spans, source), !m_queue->idle()) {
    auto const& finished = m_queue->test();
    for (int id : finished) completed(id, spans, target);
    if (!finished.empty())
      wait.moved();
    else if (wait.stuck())
      throw CommunicationError("a delivery has not moved for " +
                               std::to_string(static_cast<int>(m_options.timeout_seconds)) +
                               " s: " + describe());
    else if (wait.report_due())
      heartbeat::set_waiting(describe());
  }
  kernels::fence(m_exec, "sdp::comm::delivery");
  heartbeat::beat();
}

/// Lists the messages and what is to be packed for them; makes room for the messages that are.
template <class T>
View1<kernels::CopySpan> Delivery<T>::build(DeliveryPlan const& plan) {
  std::vector<kernels::CopySpan> spans;
  for (DeliveryCopy const& copy : plan.copies)
    append_copy(spans, copy.source, copy.target, copy.count);
  m_copies = static_cast<index_t>(spans.size());
  build(m_sends, plan.sends, spans);
  build(m_receives, plan.receives, spans);
  const MemoryScope scope(MemoryCategory::communication);
  View1<kernels::CopySpan> list("sdp::comm::copy_spans", spans.size());
  Kokkos::deep_copy(list, HostView1<kernels::CopySpan const>(spans.data(), spans.size()));
  return list;
}

template <class T>
void Delivery<T>::build(Side& side, std::vector<DeliveryPlan::Stream> const& streams,
                        std::vector<kernels::CopySpan>& spans) {
  side.messages.clear();
  side.next = 0;
  index_t slot_elements = 0;
  std::vector<std::pair<index_t, std::size_t>> order;  // number in its stream, number in the list
  for (auto const& stream : streams) {
    std::size_t run = 0;
    index_t into_run = 0;
    for (index_t begin = 0; begin < stream.elements; begin += m_message_elements) {
      Message message;
      message.peer = stream.peer;
      message.elements = std::min(m_message_elements, stream.elements - begin);
      message.first_span = static_cast<index_t>(spans.size());
      message.flat = stream.runs[run].begin + into_run;
      const bool direct = stream.runs[run].size() - into_run >= message.elements;
      for (index_t packed = 0; packed < message.elements;) {
        IndexRange const& range = stream.runs[run];
        const index_t count = std::min(message.elements - packed, range.size() - into_run);
        if (!direct) append_copy(spans, range.begin + into_run, packed, count);
        packed += count;
        into_run += count;
        if (into_run == range.size()) {
          ++run;
          into_run = 0;
        }
      }
      message.spans = static_cast<index_t>(spans.size()) - message.first_span;
      if (!direct) slot_elements = std::max(slot_elements, message.elements);
      order.emplace_back(begin / m_message_elements, side.messages.size());
      side.messages.push_back(message);
    }
  }
  // The first messages of all peers, then the second ones, ...: the order that all ranks agree on.
  std::stable_sort(order.begin(), order.end(),
                   [](auto const& a, auto const& b) { return a.first < b.first; });
  std::vector<Message> sorted;
  for (auto const& [number, index] : order) sorted.push_back(side.messages[index]);
  side.messages = std::move(sorted);

  side.message_of_slot.assign(static_cast<std::size_t>(m_options.window), -1);
  side.free_slots.clear();
  for (int slot = m_options.window; slot-- > 0;) side.free_slots.push_back(slot);
  side.slot_elements = slot_elements;
  const auto needed = static_cast<std::size_t>(slot_elements * m_options.window);
  if (side.staging.extent(0) < needed) {
    const MemoryScope scope(MemoryCategory::communication);
    side.staging = View1<T>();
    side.staging = View1<T>(
        Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::comm::delivery_staging"), needed);
  }
}

/// The next message of a side and the slot that it takes, -1 where there is none.
template <class T>
int Delivery<T>::take_slot(Side& side) {
  if (side.next == side.messages.size() || side.free_slots.empty()) return -1;
  const int slot = side.free_slots.back();
  side.free_slots.pop_back();
  side.message_of_slot[static_cast<std::size_t>(slot)] = static_cast<int>(side.next++);
  return slot;
}

template <class T>
void Delivery<T>::post_receives(View1<T> const& target) {
  for (int slot = take_slot(m_receives); slot >= 0; slot = take_slot(m_receives)) {
    Message const& message = m_receives.message(slot);
    T* const data = message.spans > 0 ? m_receives.memory(slot) : target.data() + message.flat;
    const auto bytes = message.elements * static_cast<index_t>(sizeof(T));
    m_statistics.received_bytes += bytes;
    m_queue->receive(m_options.window + slot, data, bytes, message.peer, 0);
  }
}

template <class T>
void Delivery<T>::post_sends(View1<kernels::CopySpan> const& spans, View1<T> const& source) {
  for (int slot = take_slot(m_sends); slot >= 0; slot = take_slot(m_sends)) {
    Message const& message = m_sends.message(slot);
    T const* data = source.data() + message.flat;
    if (message.spans > 0) {
      const Window1<T> packed(m_sends.memory(slot), static_cast<std::size_t>(message.elements));
      kernels::pack_spans(m_exec, copy_window(spans, message.first_span, message.spans), source,
                          packed);
      kernels::fence(m_exec, "sdp::comm::delivery");
      data = packed.data();
    }
    const auto bytes = message.elements * static_cast<index_t>(sizeof(T));
    m_statistics.sent_bytes += bytes;
    ++m_statistics.messages_sent;
    m_queue->send(slot, data, bytes, message.peer, 0);
  }
}

template <class T>
void Delivery<T>::completed(int id, View1<kernels::CopySpan> const& spans, View1<T> const& target) {
  Side& side = id < m_options.window ? m_sends : m_receives;
  const int slot = id % m_options.window;
  Message const& message = side.message(slot);
  if (&side == &m_receives && message.spans > 0) {
    const Window1<T> packed(side.memory(slot), static_cast<std::size_t>(message.elements));
    kernels::unpack_spans(m_exec, copy_window(spans, message.first_span, message.spans), packed,
                          target);
    kernels::fence(m_exec, "sdp::comm::delivery");
  }
  side.message_of_slot[static_cast<std::size_t>(slot)] = -1;
  side.free_slots.push_back(slot);
}

template <class T>
std::string Delivery<T>::describe() const {
  auto ranks = [&](Side const& side) {
    std::set<int> waiting;
    for (int index : side.message_of_slot)
      if (index >= 0)
        waiting.insert(m_world.rank_of(side.messages[static_cast<std::size_t>(index)].peer));
    std::string text;
    for (int rank : waiting) text += (text.empty() ? " " : ", ") + std::to_string(rank);
    return text;
  };
  const std::string from = ranks(m_receives);
  const std::string to = ranks(m_sends);
  if (from.empty() && to.empty()) return "no delivery is under way";
  std::string text = "a delivery waits for ";
  if (!from.empty()) text += "elements of ranks" + from + (to.empty() ? "" : "; ");
  if (!to.empty()) text += "sending to ranks" + to;
  return text;
}

template class Delivery<float>;
template class Delivery<double>;
template class Delivery<kernels::bf16>;

}  // namespace sdp
