// SPDX-License-Identifier: Apache-2.0
#include "comm/exchange.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <utility>

#include "base/device_pool.hpp"
#include "base/error.hpp"
#include "base/heartbeat.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "base/timer.hpp"
#include "comm/copy_list.hpp"
#include "comm/idle_wait.hpp"
#include "comm/transport.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/update/scale.hpp"

namespace sdp {

namespace {
template <class T>
Window1<T> elements_at(char* slot, std::size_t bytes) {
  return Window1<T>(reinterpret_cast<T*>(slot), bytes / sizeof(T));
}
}  // namespace

template <class G, class W>
Exchange<G, W>::Exchange(World const& world, ExchangeSchedule schedule, ExchangeOptions options,
                         ExecSpace exec)
    : m_world(world),
      m_schedule(std::move(schedule)),
      m_options(std::move(options)),
      m_user(exec),
      m_legs(m_schedule, wire_bytes(m_options), sizeof(W),
             m_options.method == ReductionMethod::allreduce, m_options.bf16_wire,
             [this](int worker) {
               auto const& all = m_options.node_gradients;
               return !all.empty() && all[static_cast<std::size_t>(worker)] != nullptr;
             }),
      m_buckets(m_schedule.buckets.size()),
      m_moments(m_schedule.buckets.size()) {
  if (m_schedule.workers != world.workers() || m_schedule.worker != world.worker())
    throw std::invalid_argument("Exchange: the schedule is for worker " +
                                std::to_string(m_schedule.worker) + " of " +
                                std::to_string(m_schedule.workers));
  if (m_options.max_message_bytes < 1)
    throw std::invalid_argument("Exchange: max_message_bytes must be at least 1");
  if (m_options.bf16_wire &&
      (!std::is_same_v<G, float> || m_options.method == ReductionMethod::allreduce))
    throw std::invalid_argument("Exchange: bf16_wire needs float gradients and own sums");
  if (m_options.method == ReductionMethod::allreduce && !m_schedule.dense)
    throw on_all_ranks(ConfigError(
        "system.reduction = \"allreduce\" needs every worker to hold every parameter; subnetworks "
        "need \"exchange\""));
  if (!m_options.node_gradients.empty() &&
      (m_options.node_gradients.size() != static_cast<std::size_t>(m_schedule.workers) ||
       m_options.bf16_wire || m_options.method == ReductionMethod::allreduce))
    throw std::invalid_argument(
        "Exchange: node_gradients need one for each worker, gradients as they are and own sums");
  m_queue = (m_options.queue ? m_options.queue : mpi_queue())(
      m_world, m_legs.message_plan(m_schedule, m_options.max_message_bytes,
                                   [this](std::size_t bucket) { return all_reduces(bucket); }));
  m_ordered = m_queue->stream() != nullptr;
  if (!m_ordered) m_stream = std::make_unique<Stream>(m_user);
  m_exec = m_ordered ? *m_queue->stream() : m_stream->exec();
  m_message_done.assign(m_legs.addresses().size(), 0);

  const index_t slots =
      std::min<index_t>(m_legs.slot_users(), std::max(1, m_options.staging_slots));
  const MemoryScope scope(MemoryCategory::communication);
  m_staging = allocate<View1<char>>("sdp::comm::staging", slots * m_legs.slot_bytes());
  if (m_options.method == ReductionMethod::exchange)
    m_sum = std::make_unique<ContributionSum<G>>(m_schedule, m_legs, m_options.bf16_wire,
                                                 m_options.node_gradients);
  for (index_t slot = slots; slot-- > 0;) m_free_slots.push_back(static_cast<int>(slot));
  auto const& spans = m_legs.spans();
  m_spans = allocate<View1<kernels::CopySpan>>("sdp::comm::copy_spans", spans.size());
  Kokkos::deep_copy(m_spans, HostView1<kernels::CopySpan const>(spans.data(), spans.size()));
}

template <class G, class W>
Exchange<G, W>::~Exchange() = default;

/// Whether a bucket goes through the all-reduce of the transport.
template <class G, class W>
bool Exchange<G, W>::all_reduces(std::size_t bucket) const {
  return m_options.method == ReductionMethod::allreduce && m_schedule.workers > 1 &&
         m_schedule.buckets[bucket].gradients.size() > 0;
}

template <class G, class W>
void Exchange<G, W>::reset() {
  m_next_ready = m_next_admitted = m_next_marked = 0;
  m_done = m_arrived = m_held = 0;
  std::fill(m_message_done.begin(), m_message_done.end(), 0);
  for (Bucket& bucket : m_buckets) {
    bucket = {};
    for (int kind = 0; kind < k_leg_kinds; ++kind)
      bucket.left[static_cast<std::size_t>(kind)] = leg(bucket, LegKind(kind)).size();
  }
}

template <class G, class W>
void Exchange<G, W>::begin(View1<G> const& gradients) {
  if (m_open || m_weight_phase)
    throw std::logic_error("Exchange::begin: the step before has not finished");
  if (static_cast<index_t>(gradients.extent(0)) != m_schedule.gradient_size)
    throw std::invalid_argument("Exchange::begin: " + std::to_string(gradients.extent(0)) +
                                " gradients, but the schedule has " +
                                std::to_string(m_schedule.gradient_size));
  if (auto const& node = m_options.node_gradients;
      !node.empty() && node[static_cast<std::size_t>(m_schedule.worker)] != gradients.data())
    throw std::invalid_argument("Exchange::begin: not the gradients that the node addresses");
  m_gradients = gradients;
  m_open = true;
  m_ready_end = 0;
  m_statistics = {};
  m_queue->begin_pass(0);
  reset();
  admit();
}

template <class G, class W>
void Exchange<G, W>::ready(index_t flat_end) {
  if (!m_open) throw std::logic_error("Exchange::ready: no step is open");
  m_ready_end = std::max(m_ready_end, flat_end);
  const std::size_t before = m_next_marked;
  while (m_next_marked < m_buckets.size() &&
         m_schedule.buckets[m_next_marked].gradients.end <= m_ready_end)
    ++m_next_marked;
  if (m_next_marked > before) {
    StreamEvent& moment = m_moments[m_next_marked - 1];
    moment.mark(m_user);
    if (m_ordered) moment.hold(m_exec);
    for (std::size_t b = before; b < m_next_marked; ++b) m_buckets[b].moment = m_next_marked - 1;
  }
  take_ready();
  poll();
}

/// Takes up the buckets whose gradients are final by now; those of an ordered transport are by the
/// time that their messages take place.
template <class G, class W>
void Exchange<G, W>::take_ready() {
  while (m_next_ready < m_next_marked) {
    Bucket& bucket = m_buckets[m_next_ready];
    if (!m_ordered && !m_moments[bucket.moment].come()) return;
    ++m_next_ready;
    bucket.ready = true;
    progress(bucket);
  }
}

template <class G, class W>
void Exchange<G, W>::poll() {
  if (!m_open && !m_weight_phase) return;
  while (advance() && m_ordered) {
  }
}

template <class G, class W>
void Exchange<G, W>::finish() {
  const Region region("sdp::comm::exchange/finish");
  const Timer timer;
  ready(m_schedule.gradient_size);
  wait_until([&] { return m_done == m_buckets.size(); });
  order(m_user, m_exec);
  m_open = false;
  m_gradients = {};
  m_statistics.blocked_ms += timer.milliseconds();
}

template <class G, class W>
void Exchange<G, W>::begin_return(View1<W> const& weights) {
  if (m_open || m_weight_phase)
    throw std::logic_error("Exchange::begin_return: the step has not finished");
  if (static_cast<index_t>(weights.extent(0)) != m_schedule.weight_size)
    throw std::invalid_argument("Exchange::begin_return: " + std::to_string(weights.extent(0)) +
                                " weights, but the schedule has " +
                                std::to_string(m_schedule.weight_size));
  const Region region("sdp::comm::exchange/begin_return");
  m_weights = weights;
  m_weight_phase = true;
  m_queue->begin_pass(1);
  reset();
  order(m_exec, m_user);
  poll();
}

template <class G, class W>
void Exchange<G, W>::wait_weights(index_t flat_begin) {
  if (!m_weight_phase) return;
  const Region region("sdp::comm::exchange/wait_weights");
  const Timer timer;
  wait_until([&] {
    for (; m_arrived < m_buckets.size(); ++m_arrived) {
      const std::size_t b = m_buckets.size() - 1 - m_arrived;
      if (m_schedule.buckets[b].weights.end <= flat_begin) return true;
      if (!m_buckets[b].unpacked) return false;
    }
    return true;
  });
  for (; m_ordered && m_held < m_arrived; ++m_held)
    m_moments[m_buckets.size() - 1 - m_held].hold(m_user);
  m_statistics.blocked_ms += timer.milliseconds();
}

template <class G, class W>
void Exchange<G, W>::finish_return() {
  if (!m_weight_phase) return;
  const Region region("sdp::comm::exchange/finish_return");
  const Timer timer;
  wait_until([&] { return m_done == m_buckets.size(); });
  if (m_ordered) order(m_user, m_exec);
  m_weight_phase = false;
  m_weights = {};
  m_statistics.blocked_ms += timer.milliseconds();
}

template <class G, class W>
void Exchange<G, W>::sum(View1<std::int64_t> const& values) {
  if (m_world.size() == 1) return;
  if (m_ordered) {
    order(m_exec, m_user);
    m_queue->sum(values.data(), static_cast<index_t>(values.extent(0)));
    order(m_user, m_exec);
    return;
  }
  kernels::fence(m_user, "sdp::comm::exchange/sum");
  const auto host = Kokkos::create_mirror_view_and_copy(HostSpace(), values);
  m_sums.assign(host.data(), host.data() + host.extent(0));
  m_world.sum_in_place(m_sums);
  std::copy(m_sums.begin(), m_sums.end(), host.data());
  Kokkos::deep_copy(values, host);
}

/// Gradients leave in the order of the buckets, weights return in the opposite one.
template <class G, class W>
typename Exchange<G, W>::Bucket& Exchange<G, W>::bucket_in_order(std::size_t place) {
  return m_buckets[m_weight_phase ? m_buckets.size() - 1 - place : place];
}

/// Gives slots to buckets in order; a bucket that needs none passes at once.
template <class G, class W>
void Exchange<G, W>::admit() {
  while (m_next_admitted < m_buckets.size()) {
    Bucket& bucket = bucket_in_order(m_next_admitted);
    auto const& bytes = m_legs.buckets()[number(bucket)];
    if ((m_weight_phase ? bytes.weight_bytes : bytes.gradient_bytes) > 0) {
      if (m_free_slots.empty()) return;
      bucket.slot = m_free_slots.back();
      m_free_slots.pop_back();
    }
    ++m_next_admitted;
    bucket.admitted = true;
    if (m_weight_phase) {
      post_all(bucket, weight_receive);
      post_all(bucket, node_weight_receive);
      copy(bucket, weight_send);
      post_all(bucket, weight_send);
      progress_weights(bucket);
    } else {
      post_all(bucket, node_receive);
      post_all(bucket, reduce_receive);
      progress(bucket);
    }
  }
}

template <class G, class W>
void Exchange<G, W>::release(Bucket& bucket) {
  if (bucket.slot < 0) return;
  m_free_slots.push_back(bucket.slot);
  bucket.slot = -1;
}

/// Takes a bucket as far through the step as it can go now.
template <class G, class W>
void Exchange<G, W>::progress(Bucket& bucket) {
  bucket.offered = bucket.offered || try_offer(bucket);
  bucket.sent = bucket.sent || try_send(bucket);
  bucket.summed = bucket.summed || try_sum(bucket);
  bucket.spread = bucket.spread || try_spread(bucket);
  if (bucket.done || !bucket.summed) return;
  auto const& left = bucket.left;
  if (bucket.spread && !bucket.unpacked && left[node_return_receive] == 0) {
    copy(bucket, node_return_receive);
    bucket.unpacked = true;
  }
  try_release(bucket);
  if (bucket.unpacked &&
      left[node_send] + left[reduce_send] + left[return_send] + left[node_return_send] == 0) {
    bucket.done = true;
    ++m_done;
  }
}

/// Sends this worker's gradients of a bucket to who sums them in its node, once they are final, and
/// packed where they must be.
template <class G, class W>
bool Exchange<G, W>::try_offer(Bucket& bucket) {
  if (!bucket.ready || (leg(bucket, node_send).spans > 0 && !bucket.admitted)) return false;
  copy(bucket, node_send);
  post_all(bucket, node_send);
  return true;
}

/// Sums the gradients of the node where this worker is to do that, and sends the sums, and own
/// gradients that nobody else of the node holds, to the owners.
template <class G, class W>
bool Exchange<G, W>::try_send(Bucket& bucket) {
  auto const& sums = m_schedule.buckets[number(bucket)].node_sums;
  const bool needs_slot = !sums.empty() || leg(bucket, reduce_send).spans > 0;
  if (!bucket.offered || bucket.left[node_receive] > 0 || (needs_slot && !bucket.admitted))
    return false;
  if (m_options.method == ReductionMethod::allreduce) {
    all_reduce(bucket);
    return true;
  }
  m_sum->add_node(m_exec, number(bucket), m_gradients, slot_of(bucket));
  if (!sums.empty() && leg(bucket, reduce_send).size() > 0) fence();
  copy(bucket, reduce_send);
  post_all(bucket, reduce_send);
  return true;
}

/// Averages the slices that this worker owns once all contributions are here, and returns them.
template <class G, class W>
bool Exchange<G, W>::try_sum(Bucket& bucket) {
  if (!bucket.admitted || !bucket.sent || bucket.left[reduce_receive] > 0) return false;
  if (m_options.method == ReductionMethod::allreduce) {
    if (bucket.left[reduce_send] > 0) return false;
    scale_all_reduced(bucket);
    return true;
  }
  m_sum->average(m_exec, number(bucket), m_gradients, slot_of(bucket));
  if (leg(bucket, return_send).size() > 0) {
    copy(bucket, return_send);
    fence();
    post_all(bucket, return_send);
  }
  return true;
}

/// Unpacks the averages of other owners once all are here, and passes averages on inside the node.
template <class G, class W>
bool Exchange<G, W>::try_spread(Bucket& bucket) {
  if (!bucket.summed || bucket.left[return_receive] > 0) return false;
  copy(bucket, return_receive);
  if (leg(bucket, node_return_send).size() > 0) {
    m_sum->hand_back(m_exec, number(bucket), m_gradients);
    copy(bucket, node_return_send);
    fence();
    post_all(bucket, node_return_send);
  }
  return true;
}

/// Gives the slot of a bucket back as soon as nothing in it is needed.
template <class G, class W>
void Exchange<G, W>::try_release(Bucket& bucket) {
  if (bucket.slot < 0) return;
  for (LegKind kind : {node_send, reduce_send, return_send, node_return_send})
    if (leg(bucket, kind).spans > 0 && bucket.left[kind] > 0) return;
  if (leg(bucket, return_receive).spans > 0 && !bucket.spread) return;
  if (leg(bucket, node_return_receive).spans > 0 && !bucket.unpacked) return;
  fence();  // the sums and the copies read the slot
  release(bucket);
}

template <class G, class W>
void Exchange<G, W>::all_reduce(Bucket& bucket) {
  IndexRange const range = m_schedule.buckets[number(bucket)].gradients;
  const auto bytes = static_cast<std::int64_t>(range.size() * sizeof(G));
  const std::int64_t moved =
      2 * bytes * (m_schedule.workers - 1) / m_schedule.workers;  // of an optimal algorithm
  m_statistics.gradient_sent_bytes += moved;
  m_statistics.gradient_received_bytes += moved;
  if (!all_reduces(number(bucket))) return;
  bucket.left[reduce_send] = 1;
  m_queue->all_reduce(leg(bucket, reduce_send).first_id, m_gradients.data() + range.begin,
                      range.size(), 2 * (static_cast<int>(number(bucket)) * k_phases + 1));
}

template <class G, class W>
void Exchange<G, W>::scale_all_reduced(Bucket& bucket) {
  IndexRange const range = m_schedule.buckets[number(bucket)].gradients;
  kernels::scale(
      m_exec, 1.0 / m_schedule.workers,
      Window1<G>(m_gradients.data() + range.begin, static_cast<std::size_t>(range.size())));
}

template <class G, class W>
void Exchange<G, W>::completed(int id) {
  std::atomic_thread_fence(std::memory_order_acquire);  // of what peers of the node have stored
  const LegAddress address = m_legs.addresses()[static_cast<std::size_t>(id)];
  Bucket& bucket = m_buckets[static_cast<std::size_t>(address.bucket)];
  --bucket.left[address.kind];
  m_message_done[static_cast<std::size_t>(id)] = 1;
  if (m_weight_phase) {
    progress_weights(bucket);
    return;
  }
  // An average lands where the contribution was sent from, so it is accepted only now; both lists
  // have the same peers in the same order.
  for (auto [sent, returned] :
       {std::pair{node_send, node_return_receive}, std::pair{reduce_send, return_receive}})
    if (address.kind == sent && leg(bucket, returned).size() > 0)
      post(bucket, returned, address.message);
  progress(bucket);
}

/// Unpacks the weights of a bucket as they arrive, passes them on inside the node, and notes the
/// end.
template <class G, class W>
void Exchange<G, W>::progress_weights(Bucket& bucket) {
  if (!bucket.spread && bucket.left[weight_receive] == 0) {
    copy(bucket, weight_receive);
    if (leg(bucket, weight_receive).spans > 0) fence();
    copy(bucket, node_weight_send);
    post_all(bucket, node_weight_send);
    bucket.spread = true;
  }
  if (bucket.spread && !bucket.unpacked && bucket.left[node_weight_receive] == 0) {
    copy(bucket, node_weight_receive);
    if (leg(bucket, node_weight_receive).spans > 0) fence();
    if (m_ordered) m_moments[number(bucket)].mark(m_exec);
    bucket.unpacked = true;
  }
  if (bucket.done || !bucket.unpacked ||
      bucket.left[weight_send] + bucket.left[node_weight_send] > 0)
    return;
  bucket.done = true;
  ++m_done;
  release(bucket);
}

/// One round of progress; true when something moved.
template <class G, class W>
bool Exchange<G, W>::advance() {
  auto const& finished = m_queue->test();
  for (int id : finished) completed(id);
  if (m_open) take_ready();
  admit();
  return !finished.empty();
}

template <class G, class W>
template <class Done>
void Exchange<G, W>::wait_until(Done&& done) {
  IdleWait wait(m_options.timeout_seconds);
  while (!done()) {
    if (advance())
      wait.moved();
    else if (wait.stuck())
      throw CommunicationError("the exchange has not moved for " +
                               std::to_string(static_cast<int>(m_options.timeout_seconds)) +
                               " s: " + describe());
    else if (wait.report_due())
      heartbeat::set_waiting(describe());
  }
}

template <class G, class W>
void Exchange<G, W>::post(Bucket& bucket, LegKind kind, int index) {
  Leg const& leg = this->leg(bucket, kind);
  const auto i = static_cast<std::size_t>(index);
  ExchangeMessage const& message = (*leg.messages)[i];
  const bool weights = carries_weights(kind);
  const auto element_bytes = weights ? static_cast<index_t>(sizeof(W)) : wire_bytes(m_options);
  char* data = nullptr;
  if (leg.staging[i] >= 0)
    data = slot_of(bucket) + leg.staging[i];
  else if (weights)
    data = reinterpret_cast<char*>(m_weights.data());
  else
    data = reinterpret_cast<char*>(m_gradients.data());
  const int id = leg.first_id + index;
  // A peer has at most two messages in a leg, next to each other. Their tags differ, because those
  // that return are accepted in the order in which sends end.
  const int second = index > 0 && (*leg.messages)[i - 1].peer == message.peer ? 1 : 0;
  const int phase = static_cast<int>(number(bucket)) * k_phases + static_cast<int>(kind) / 2;
  const int tag = 2 * phase + second;
  auto post_part = [&](index_t begin, index_t elements) {
    const index_t bytes = elements * element_bytes;
    char* const part = data + begin * element_bytes;
    if (is_send(kind)) {
      (weights ? m_statistics.weight_sent_bytes : m_statistics.gradient_sent_bytes) += bytes;
      ++m_statistics.messages_sent;
      m_queue->send(id, part, bytes, message.peer, tag);
    } else {
      (weights ? m_statistics.weight_received_bytes : m_statistics.gradient_received_bytes) +=
          bytes;
      m_queue->receive(id, part, bytes, message.peer, tag);
    }
  };
  if (leg.staging[i] == k_in_node) {  // the peer only has to know
    (is_send(kind) ? m_statistics.gradient_sent_bytes : m_statistics.gradient_received_bytes) +=
        message.elements * element_bytes;
    std::atomic_thread_fence(std::memory_order_release);
  }
  for (IndexRange const& range : leg.parts[i]) post_part(range.begin, range.size());
}

template <class G, class W>
void Exchange<G, W>::post_all(Bucket& bucket, LegKind kind) {
  const int count = leg(bucket, kind).size();
  for (int message = 0; message < count; ++message) post(bucket, kind, message);
}

/// Packs the messages of a leg that is to be sent, or unpacks those that have been received. Before
/// a send the copy is complete when this returns.
template <class G, class W>
void Exchange<G, W>::copy(Bucket& bucket, LegKind kind) {
  Leg const& leg = this->leg(bucket, kind);
  if (leg.spans == 0) return;
  const auto spans = copy_window(m_spans, leg.first_span, leg.spans);
  char* const slot = slot_of(bucket);
  const auto bytes = static_cast<std::size_t>(m_legs.slot_bytes());
  auto move = [&](auto const& flat, auto const& packed) {
    if (is_send(kind))
      kernels::pack_spans(m_exec, spans, flat, packed);
    else
      kernels::unpack_spans(m_exec, spans, packed, flat);
  };
  if (carries_weights(kind))
    move(m_weights, elements_at<W>(slot, bytes));
  else if (m_options.bf16_wire)
    move(m_gradients, elements_at<kernels::bf16>(slot, bytes));
  else
    move(m_gradients, elements_at<G>(slot, bytes));
  if (is_send(kind)) fence();
}

/// Waits for sums and copies, unless messages wait for them by themselves.
template <class G, class W>
void Exchange<G, W>::fence() const {
  if (!m_ordered) kernels::fence(m_exec, "sdp::comm::exchange");
}

/// What is given to `later` from now on takes place after what `earlier` has been given.
template <class G, class W>
void Exchange<G, W>::order(ExecSpace const& later, ExecSpace const& earlier) {
  m_order.mark(earlier);
  m_order.hold(later);
}

template <class G, class W>
std::string Exchange<G, W>::describe() const {
  if (!m_open && !m_weight_phase) return "no exchange is under way";
  const std::size_t count = m_buckets.size();
  std::size_t b = 0;
  for (std::size_t place = 0; place <= count; ++place) {
    if (place == count) return "every bucket is done";
    b = m_weight_phase ? count - 1 - place : place;
    if (!m_buckets[b].done) break;
  }
  Bucket const& bucket = m_buckets[b];
  std::string waits;
  if (!m_weight_phase && !bucket.ready) waits = "this rank's own gradients";
  if (m_options.method == ReductionMethod::allreduce && bucket.left[reduce_send] > 0)
    waits = "MPI_Iallreduce";
  const std::string messages = m_legs.describe(b, m_weight_phase, m_message_done, m_world);
  if (!waits.empty() && !messages.empty()) waits += "; ";
  return (m_weight_phase ? "return of weights, bucket " : "gradients, bucket ") +
         std::to_string(b) + " of " + std::to_string(count) + " waits for " + waits + messages;
}

template class Exchange<float>;
template class Exchange<double>;
template class Exchange<float, kernels::bf16>;

}  // namespace sdp
