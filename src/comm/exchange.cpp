// SPDX-License-Identifier: Apache-2.0
#include "comm/exchange.hpp"

#include <algorithm>
#include <stdexcept>

#include "base/error.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "base/timer.hpp"
#include "comm/copy_list.hpp"
#include "comm/idle_wait.hpp"
#include "kernels/core/compat.hpp"

namespace sdp {

namespace {

constexpr index_t k_alignment = 64;  // bytes, of messages in a slot

index_t aligned(index_t bytes) {
  return (bytes + k_alignment - 1) / k_alignment * k_alignment;
}

}  // namespace

template <class G, class W>
Exchange<G, W>::Exchange(World const& world, ExchangeSchedule schedule, ExchangeOptions options,
                         ExecSpace exec)
    : m_world(world), m_schedule(std::move(schedule)), m_options(options), m_exec(exec) {
  if (m_schedule.workers != world.workers() || m_schedule.worker != world.worker())
    throw std::invalid_argument("Exchange: the schedule is for worker " +
                                std::to_string(m_schedule.worker) + " of " +
                                std::to_string(m_schedule.workers));
  if (m_options.max_message_bytes < 1)
    throw std::invalid_argument("Exchange: max_message_bytes must be at least 1");
  if (m_options.method == ReductionMethod::allreduce && !m_schedule.dense)
    throw ConfigError(
        "system.reduction = \"allreduce\" needs every worker to hold every parameter; subnetworks "
        "need \"exchange\"");
  constexpr bool k_host_memory =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, MemSpace>::accessible;
  if (!k_host_memory && !m_options.gpu_aware_mpi && m_schedule.workers > 1)
    throw ConfigError(
        "system.gpu_aware_mpi is off, but the exchange between devices needs an MPI that can "
        "address their memory");
  build();
}

template <class G, class W>
Exchange<G, W>::~Exchange() = default;

/// Lays out slots, ids and copy lists, and allocates everything a step needs.
template <class G, class W>
void Exchange<G, W>::build() {
  std::vector<kernels::CopySpan> spans;
  m_buckets.resize(m_schedule.buckets.size());
  for (std::size_t b = 0; b < m_buckets.size(); ++b) {
    BucketSchedule const& plan = m_schedule.buckets[b];
    Bucket& bucket = m_buckets[b];
    auto gradient_leg = [&](Kind kind, std::vector<ExchangeMessage> const& messages) {
      build_leg(bucket, kind, messages, sizeof(G), bucket.gradient_bytes, spans);
    };
    auto weight_leg = [&](Kind kind, std::vector<ExchangeMessage> const& messages) {
      build_leg(bucket, kind, messages, sizeof(W), bucket.weight_bytes, spans);
    };
    static std::vector<ExchangeMessage> const none;
    const bool direct = m_options.method == ReductionMethod::allreduce;
    gradient_leg(reduce_send, direct ? none : plan.reduce_sends);
    gradient_leg(reduce_receive, direct ? none : plan.reduce_receives);
    gradient_leg(return_send, direct ? none : plan.return_sends);
    gradient_leg(return_receive, direct ? none : plan.return_receives);
    weight_leg(weight_send, plan.weight_sends);
    weight_leg(weight_receive, plan.weight_receives);
    if (direct) {  // one id for the whole bucket
      bucket.legs[reduce_send].first_id = static_cast<int>(m_addresses.size());
      m_addresses.push_back({static_cast<int>(b), reduce_send, 0});
    }
    m_slot_bytes = std::max({m_slot_bytes, bucket.gradient_bytes, bucket.weight_bytes});
  }

  // Pieces of messages that can be under way at the same time, at most.
  std::size_t pieces = 0;
  auto add_pieces = [&](index_t elements) {
    pieces += static_cast<std::size_t>(
        elements * static_cast<index_t>(sizeof(double)) / m_options.max_message_bytes + 1);
  };
  for (std::size_t b = 0; b < m_buckets.size(); ++b) {
    add_pieces(m_schedule.buckets[b].gradients.size());
    for (Leg const& leg : m_buckets[b].legs)
      for (ExchangeMessage const& message : *leg.messages) add_pieces(message.elements);
  }
  m_queue = std::make_unique<MessageQueue>(
      m_world, static_cast<int>(m_addresses.size()), pieces + m_buckets.size(),
      static_cast<int>(m_buckets.size()) * 3, m_options.max_message_bytes);
  m_message_done.assign(m_addresses.size(), 0);
  m_terms.reserve(static_cast<std::size_t>(m_schedule.workers));

  index_t users = 0;
  for (Bucket const& bucket : m_buckets)
    users += bucket.gradient_bytes > 0 || bucket.weight_bytes > 0 ? 1 : 0;
  const index_t slots = std::min<index_t>(users, std::max(1, m_options.staging_slots));
  const MemoryScope scope(MemoryCategory::communication);
  m_staging = View1<char>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::comm::staging"),
                          static_cast<std::size_t>(slots * m_slot_bytes));
  for (index_t slot = slots; slot-- > 0;) m_free_slots.push_back(static_cast<int>(slot));
  m_spans = View1<kernels::CopySpan>("sdp::comm::copy_spans", spans.size());
  Kokkos::deep_copy(m_spans, HostView1<kernels::CopySpan const>(spans.data(), spans.size()));
}

template <class G, class W>
void Exchange<G, W>::build_leg(Bucket& bucket, Kind kind,
                               std::vector<ExchangeMessage> const& messages, index_t element_bytes,
                               index_t& bytes, std::vector<kernels::CopySpan>& spans) {
  Leg& leg = bucket.legs[kind];
  leg.messages = &messages;
  leg.first_id = static_cast<int>(m_addresses.size());
  leg.first_span = static_cast<index_t>(spans.size());
  for (std::size_t m = 0; m < messages.size(); ++m) {
    ExchangeMessage const& message = messages[m];
    m_addresses.push_back(
        {static_cast<int>(&bucket - m_buckets.data()), kind, static_cast<int>(m)});
    if (message.runs.size() == 1) {
      leg.staging.push_back(-1);
      continue;
    }
    bytes = aligned(bytes);
    leg.staging.push_back(bytes);
    index_t packed = bytes / element_bytes;
    for (IndexRange const& run : message.runs) {
      append_copy(spans, run.begin, packed, run.size());
      packed += run.size();
    }
    bytes = aligned(bytes + message.elements * element_bytes);
  }
  leg.spans = static_cast<index_t>(spans.size()) - leg.first_span;
}

template <class G, class W>
void Exchange<G, W>::reset_bucket(Bucket& bucket) {
  for (Leg& leg : bucket.legs) leg.left = static_cast<int>(leg.messages->size());
  bucket.slot = -1;
  bucket.admitted = bucket.ready = bucket.sent = false;
  bucket.summed = bucket.unpacked = bucket.done = false;
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
  m_next_ready = m_next_admitted = 0;
  m_done = 0;
  m_statistics = {};
  std::fill(m_message_done.begin(), m_message_done.end(), 0);
  for (Bucket& bucket : m_buckets) reset_bucket(bucket);
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
    try_send(bucket);
    try_sum(bucket);
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
  m_next_admitted = 0;
  m_done = m_arrived = 0;
  std::fill(m_message_done.begin(), m_message_done.end(), 0);
  for (Bucket& bucket : m_buckets) reset_bucket(bucket);
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
    if ((m_weight_phase ? bucket.weight_bytes : bucket.gradient_bytes) > 0) {
      if (m_free_slots.empty()) return;
      bucket.slot = m_free_slots.back();
      m_free_slots.pop_back();
    }
    ++m_next_admitted;
    bucket.admitted = true;
    if (m_weight_phase) {
      post_all(bucket, weight_receive);
      copy(bucket, weight_send);
      post_all(bucket, weight_send);
      try_end_weights(bucket);
    } else {
      post_all(bucket, reduce_receive);
      try_send(bucket);
      try_sum(bucket);
    }
  }
}

template <class G, class W>
void Exchange<G, W>::release(Bucket& bucket) {
  if (bucket.slot < 0) return;
  m_free_slots.push_back(bucket.slot);
  bucket.slot = -1;
}

/// Sends this worker's gradients of a bucket once they are final, and packed where they must be.
template <class G, class W>
void Exchange<G, W>::try_send(Bucket& bucket) {
  Leg const& leg = bucket.legs[reduce_send];
  if (bucket.sent || !bucket.ready || (leg.spans > 0 && !bucket.admitted)) return;
  bucket.sent = true;
  if (m_options.method == ReductionMethod::allreduce) {
    IndexRange const range =
        m_schedule.buckets[static_cast<std::size_t>(&bucket - m_buckets.data())].gradients;
    const auto bytes = static_cast<std::int64_t>(range.size() * sizeof(G));
    const std::int64_t moved =
        2 * bytes * (m_schedule.workers - 1) / m_schedule.workers;  // of an optimal algorithm
    m_statistics.gradient_sent_bytes += moved;
    m_statistics.gradient_received_bytes += moved;
    if (range.size() == 0 || m_schedule.workers == 1) return;
    bucket.legs[reduce_send].left = 1;
    m_queue->all_reduce(leg.first_id, m_gradients.data() + range.begin, range.size());
    return;
  }
  copy(bucket, reduce_send);
  post_all(bucket, reduce_send);
}

/// Sums the contributions of a bucket once all are here, and returns the averages.
template <class G, class W>
void Exchange<G, W>::try_sum(Bucket& bucket) {
  if (bucket.summed || !bucket.admitted || !bucket.sent || bucket.legs[reduce_receive].left > 0)
    return;
  const bool all_reduced = m_options.method == ReductionMethod::allreduce;
  if (all_reduced && bucket.legs[reduce_send].left > 0) return;
  bucket.summed = true;
  BucketSchedule const& plan =
      m_schedule.buckets[static_cast<std::size_t>(&bucket - m_buckets.data())];
  if (all_reduced) {
    kernels::SumTerms<G> terms;
    terms.add(0, m_gradients.data() + plan.gradients.begin);
    const Window1<G> out(m_gradients.data() + plan.gradients.begin,
                         static_cast<std::size_t>(plan.gradients.size()));
    kernels::ordered_sum(m_exec, terms, 1.0 / m_schedule.workers, out);
  } else {
    for (OwnedRun const& run : plan.owned) average(bucket, run);
    if (!bucket.legs[return_send].messages->empty()) {
      copy(bucket, return_send);
      fence();
      post_all(bucket, return_send);
    }
  }
  try_end(bucket);
}

/// The sum over the holders of one run, divided by their number, into this worker's gradients.
template <class G, class W>
void Exchange<G, W>::average(Bucket& bucket, OwnedRun const& run) {
  const std::size_t holders = run.contributions.size();
  if (holders == 1) return;  // the average of one contribution is itself
  G* const own = m_gradients.data() + run.gradients.begin;
  char* const slot = m_staging.data() + bucket.slot * m_slot_bytes;
  Leg const& leg = bucket.legs[reduce_receive];
  m_terms.clear();
  for (Contribution const& term : run.contributions)
    m_terms.push_back(
        {term.worker,
         term.message < 0
             ? own
             : reinterpret_cast<G*>(slot + leg.staging[static_cast<std::size_t>(term.message)]) +
                   term.offset});
  kernels::ordered_sum(m_exec, m_terms, 1.0 / static_cast<double>(holders),
                       Window1<G>(own, static_cast<std::size_t>(run.gradients.size())));
}

/// Notes the end of a bucket, and gives its slot back as soon as nothing in it is needed.
template <class G, class W>
void Exchange<G, W>::try_end(Bucket& bucket) {
  if (bucket.done || !bucket.summed) return;
  auto const& legs = bucket.legs;
  auto open = [&](Kind kind) { return legs[kind].left > 0; };
  if (!bucket.unpacked && !open(return_receive)) {
    copy(bucket, return_receive);
    bucket.unpacked = true;
  }
  if (bucket.slot >= 0) {
    const bool packed_open = (legs[reduce_send].spans > 0 && open(reduce_send)) ||
                             (legs[return_send].spans > 0 && open(return_send)) ||
                             (legs[return_receive].spans > 0 && !bucket.unpacked);
    if (!packed_open) {
      fence();  // the sum and the copy read the slot
      release(bucket);
    }
  }
  if (bucket.unpacked && !open(reduce_send) && !open(return_send)) {
    bucket.done = true;
    ++m_done;
  }
}

template <class G, class W>
void Exchange<G, W>::completed(int id) {
  const Address address = m_addresses[static_cast<std::size_t>(id)];
  Bucket& bucket = m_buckets[static_cast<std::size_t>(address.bucket)];
  --bucket.legs[address.kind].left;
  m_message_done[static_cast<std::size_t>(id)] = 1;
  if (m_weight_phase) {
    try_end_weights(bucket);
    return;
  }
  // The average of a slice lands where its contribution was sent from, so it is accepted only now;
  // both lists have the same peers in the same order.
  if (address.kind == reduce_send && !bucket.legs[return_receive].messages->empty())
    post(bucket, return_receive, address.message);
  try_sum(bucket);
  try_end(bucket);
}

/// Unpacks the weights of a bucket once all are here, and notes its end.
template <class G, class W>
void Exchange<G, W>::try_end_weights(Bucket& bucket) {
  if (!bucket.unpacked && bucket.legs[weight_receive].left == 0) {
    copy(bucket, weight_receive);
    if (bucket.legs[weight_receive].spans > 0) fence();
    bucket.unpacked = true;
  }
  if (bucket.done || !bucket.unpacked || bucket.legs[weight_send].left > 0) return;
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
  }
}

template <class G, class W>
void Exchange<G, W>::post(Bucket& bucket, Kind kind, int index) {
  Leg const& leg = bucket.legs[kind];
  ExchangeMessage const& message = (*leg.messages)[static_cast<std::size_t>(index)];
  const bool weights = kind == weight_send || kind == weight_receive;
  const auto bytes = static_cast<index_t>(static_cast<std::size_t>(message.elements) *
                                          (weights ? sizeof(W) : sizeof(G)));
  const index_t staged = leg.staging[static_cast<std::size_t>(index)];
  char* data = nullptr;
  if (staged >= 0)
    data = m_staging.data() + bucket.slot * m_slot_bytes + staged;
  else if (weights)
    data = reinterpret_cast<char*>(m_weights.data() + message.runs[0].begin);
  else
    data = reinterpret_cast<char*>(m_gradients.data() + message.runs[0].begin);
  const int id = leg.first_id + index;
  const int phase = static_cast<int>(kind) / 2;
  const int tag = static_cast<int>(&bucket - m_buckets.data()) * 3 + phase;
  if (kind == reduce_send || kind == return_send || kind == weight_send) {
    (weights ? m_statistics.weight_sent_bytes : m_statistics.gradient_sent_bytes) += bytes;
    ++m_statistics.messages_sent;
    m_queue->send(id, data, bytes, message.peer, tag);
  } else {
    (weights ? m_statistics.weight_received_bytes : m_statistics.gradient_received_bytes) += bytes;
    m_queue->receive(id, data, bytes, message.peer, tag);
  }
}

template <class G, class W>
void Exchange<G, W>::post_all(Bucket& bucket, Kind kind) {
  const int count = static_cast<int>(bucket.legs[kind].messages->size());
  for (int message = 0; message < count; ++message) post(bucket, kind, message);
}

/// Packs the messages of a leg that is to be sent, or unpacks those that have been received. Before
/// a send the copy is complete when this returns.
template <class G, class W>
void Exchange<G, W>::copy(Bucket& bucket, Kind kind) {
  Leg const& leg = bucket.legs[kind];
  if (leg.spans == 0) return;
  const auto spans = copy_window(m_spans, leg.first_span, leg.spans);
  char* const slot = m_staging.data() + bucket.slot * m_slot_bytes;
  const auto slot_bytes = static_cast<std::size_t>(m_slot_bytes);
  const Window1<G> gradients(reinterpret_cast<G*>(slot), slot_bytes / sizeof(G));
  const Window1<W> weights(reinterpret_cast<W*>(slot), slot_bytes / sizeof(W));
  switch (kind) {
    case reduce_send:
    case return_send:
      kernels::pack_spans(m_exec, spans, m_gradients, gradients);
      break;
    case return_receive:
      kernels::unpack_spans(m_exec, spans, gradients, m_gradients);
      return;
    case weight_send:
      kernels::pack_spans(m_exec, spans, m_weights, weights);
      break;
    case weight_receive:
      kernels::unpack_spans(m_exec, spans, weights, m_weights);
      return;
    case reduce_receive:
      return;
  }
  fence();
}

template <class G, class W>
void Exchange<G, W>::fence() const {
  kernels::fence(m_exec, "sdp::comm::exchange");
}

template <class G, class W>
std::string Exchange<G, W>::describe() const {
  static constexpr std::array<char const*, k_kinds> k_what = {
      "sending gradients to ranks", "gradients of ranks",       "sending averages to ranks",
      "averages of ranks",          "sending weights to ranks", "weights of ranks"};
  if (!m_open && !m_weight_phase) return "no exchange is under way";
  const std::size_t count = m_buckets.size();
  std::size_t b = 0;
  for (std::size_t place = 0; place <= count; ++place) {
    if (place == count) return "every bucket is done";
    b = m_weight_phase ? count - 1 - place : place;
    if (!m_buckets[b].done) break;
  }
  Bucket const& bucket = m_buckets[b];
  std::string text = (m_weight_phase ? "return of weights, bucket " : "gradients, bucket ") +
                     std::to_string(b) + " of " + std::to_string(m_buckets.size()) + " waits for ";
  std::string waits;
  if (!m_weight_phase && !bucket.ready) waits = "this rank's own gradients";
  if (m_options.method == ReductionMethod::allreduce && bucket.legs[reduce_send].left > 0)
    waits = "MPI_Iallreduce";
  const int first = m_weight_phase ? static_cast<int>(weight_send) : 0;
  const int last = m_weight_phase ? k_kinds : static_cast<int>(weight_send);
  for (int kind = first; kind < last; ++kind) {
    Leg const& leg = bucket.legs[static_cast<std::size_t>(kind)];
    std::string ranks;
    for (std::size_t m = 0; m < leg.messages->size(); ++m)
      if (!m_message_done[static_cast<std::size_t>(leg.first_id) + m])
        ranks +=
            (ranks.empty() ? " " : ", ") + std::to_string(m_world.rank_of((*leg.messages)[m].peer));
    if (ranks.empty()) continue;
    waits +=
        (waits.empty() ? "" : "; ") + std::string(k_what[static_cast<std::size_t>(kind)]) + ranks;
  }
  return text + waits;
}

template class Exchange<float>;
template class Exchange<double>;
template class Exchange<float, kernels::bf16>;

}  // namespace sdp
