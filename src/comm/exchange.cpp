// SPDX-License-Identifier: Apache-2.0
#include "comm/exchange.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "base/error.hpp"
#include "base/heartbeat.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "base/timer.hpp"
#include "comm/copy_list.hpp"
#include "comm/idle_wait.hpp"
#include "kernels/core/compat.hpp"

namespace sdp {

template <class G, class W>
Exchange<G, W>::Exchange(World const& world, ExchangeSchedule schedule, ExchangeOptions options,
                         ExecSpace exec)
    : m_world(world),
      m_schedule(std::move(schedule)),
      m_options(options),
      m_exec(exec),
      m_legs(m_schedule, wire_bytes(options), sizeof(W),
             options.method == ReductionMethod::allreduce, options.bf16_wire),
      m_buckets(m_schedule.buckets.size()) {
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
  constexpr bool k_host_memory =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, MemSpace>::accessible;
  if (!k_host_memory && !m_options.gpu_aware_mpi && world.size() > 1)
    throw on_all_ranks(ConfigError(
        "system.gpu_aware_mpi is off, but the exchange between devices needs an MPI that can "
        "address their memory"));
  m_queue = std::make_unique<MessageQueue>(m_world, static_cast<int>(m_legs.addresses().size()),
                                           m_legs.pieces(m_schedule, m_options.max_message_bytes),
                                           static_cast<int>(m_buckets.size()) * k_phases * 2,
                                           m_options.max_message_bytes);
  m_message_done.assign(m_legs.addresses().size(), 0);
  m_terms.reserve(static_cast<std::size_t>(m_schedule.workers));
  if (m_options.bf16_wire) m_wire_terms.reserve(static_cast<std::size_t>(m_schedule.workers));

  const index_t slots =
      std::min<index_t>(m_legs.slot_users(), std::max(1, m_options.staging_slots));
  const MemoryScope scope(MemoryCategory::communication);
  m_staging = View1<char>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::comm::staging"),
                          static_cast<std::size_t>(slots * m_legs.slot_bytes()));
  if (const index_t partials = m_legs.partial_elements(m_schedule.workers); partials > 0)
    m_partials =
        View1<G>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::comm::partials"), partials);
  for (index_t slot = slots; slot-- > 0;) m_free_slots.push_back(static_cast<int>(slot));
  auto const& spans = m_legs.spans();
  m_spans = View1<kernels::CopySpan>("sdp::comm::copy_spans", spans.size());
  Kokkos::deep_copy(m_spans, HostView1<kernels::CopySpan const>(spans.data(), spans.size()));
}

template <class G, class W>
Exchange<G, W>::~Exchange() = default;

template <class G, class W>
void Exchange<G, W>::reset() {
  m_next_ready = m_next_admitted = 0;
  m_done = m_arrived = 0;
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
  m_gradients = gradients;
  m_open = true;
  m_ready_end = 0;
  m_statistics = {};
  reset();
  admit();
}

template <class G, class W>
void Exchange<G, W>::ready(index_t flat_end) {
  if (!m_open) throw std::logic_error("Exchange::ready: no step is open");
  m_ready_end = std::max(m_ready_end, flat_end);
  while (m_next_ready < m_buckets.size() &&
         m_schedule.buckets[m_next_ready].gradients.end <= m_ready_end) {
    Bucket& bucket = m_buckets[m_next_ready++];
    bucket.ready = true;
    progress(bucket);
  }
  poll();
}

template <class G, class W>
void Exchange<G, W>::poll() {
  if (m_open || m_weight_phase) advance();
}

template <class G, class W>
void Exchange<G, W>::finish() {
  const Region region("sdp::comm::exchange/finish");
  const Timer timer;
  ready(m_schedule.gradient_size);
  wait_until([&] { return m_done == m_buckets.size(); });
  fence();
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
  reset();
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
  m_statistics.blocked_ms += timer.milliseconds();
}

template <class G, class W>
void Exchange<G, W>::finish_return() {
  if (!m_weight_phase) return;
  const Region region("sdp::comm::exchange/finish_return");
  const Timer timer;
  wait_until([&] { return m_done == m_buckets.size(); });
  m_weight_phase = false;
  m_weights = {};
  m_statistics.blocked_ms += timer.milliseconds();
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
  for (NodeRun const& run : sums) sum(bucket, node_receive, run.contributions, 1.0, run.gradients);
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
  for (OwnedRun const& run : m_schedule.buckets[number(bucket)].owned)
    if (run.holders > 1)  // the average of one contribution is itself
      sum(bucket, reduce_receive, run.contributions, 1.0 / run.holders, run.gradients);
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
  if (range.size() == 0 || m_schedule.workers == 1) return;
  bucket.left[reduce_send] = 1;
  m_queue->all_reduce(leg(bucket, reduce_send).first_id, m_gradients.data() + range.begin,
                      range.size());
}

template <class G, class W>
void Exchange<G, W>::scale_all_reduced(Bucket& bucket) {
  IndexRange const range = m_schedule.buckets[number(bucket)].gradients;
  kernels::SumTerms<G> terms;
  terms.add(0, m_gradients.data() + range.begin);
  kernels::ordered_sum(
      m_exec, terms, 1.0 / m_schedule.workers,
      Window1<G>(m_gradients.data() + range.begin, static_cast<std::size_t>(range.size())));
}

/// gradients = scale * sum of the contributions, one of which is what stands there already.
template <class G, class W>
void Exchange<G, W>::sum(Bucket& bucket, LegKind kind,
                         std::vector<Contribution> const& contributions, double scale,
                         IndexRange const& gradients) {
  G* const own = m_gradients.data() + gradients.begin;
  char* const slot = m_staging.data() + bucket.slot * m_legs.slot_bytes();
  auto const& staging = leg(bucket, kind).staging;
  const Window1<G> result(own, static_cast<std::size_t>(gradients.size()));
  if constexpr (std::is_same_v<G, float>) {
    if (m_options.bf16_wire) {
      m_wire_terms.clear();
      for (Contribution const& term : contributions)
        m_wire_terms.push_back(
            {term.leaf, term.message < 0
                            ? nullptr
                            : reinterpret_cast<kernels::bf16*>(
                                  slot + staging[static_cast<std::size_t>(term.message)]) +
                                  term.offset});
      kernels::rounded_ordered_sum(m_exec, m_wire_terms, scale, result,
                                   Window1<G>(m_partials.data(), m_partials.extent(0)), m_terms);
      return;
    }
  }
  m_terms.clear();
  for (Contribution const& term : contributions)
    m_terms.push_back(
        {term.leaf, term.message < 0 ? own
                                     : reinterpret_cast<G*>(
                                           slot + staging[static_cast<std::size_t>(term.message)]) +
                                           term.offset});
  kernels::ordered_sum(m_exec, m_terms, scale, result);
}

template <class G, class W>
void Exchange<G, W>::completed(int id) {
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
    data = m_staging.data() + bucket.slot * m_legs.slot_bytes() + leg.staging[i];
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
  char* const slot = m_staging.data() + bucket.slot * m_legs.slot_bytes();
  const auto bytes = static_cast<std::size_t>(m_legs.slot_bytes());
  auto move = [&]<class T>(auto const& flat, T*) {
    const Window1<T> packed(reinterpret_cast<T*>(slot), bytes / sizeof(T));
    if (is_send(kind))
      kernels::pack_spans(m_exec, spans, flat, packed);
    else
      kernels::unpack_spans(m_exec, spans, packed, flat);
  };
  if (carries_weights(kind))
    move(m_weights, static_cast<W*>(nullptr));
  else if (m_options.bf16_wire)
    move(m_gradients, static_cast<kernels::bf16*>(nullptr));
  else
    move(m_gradients, static_cast<G*>(nullptr));
  if (is_send(kind)) fence();
}

template <class G, class W>
void Exchange<G, W>::fence() const {
  kernels::fence(m_exec, "sdp::comm::exchange");
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
