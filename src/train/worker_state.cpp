// SPDX-License-Identifier: Apache-2.0
#include "train/worker_state.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "comm/delivery.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/update/finite.hpp"
#include "train/inputs.hpp"
#include "train/plan.hpp"
#include "train/progress.hpp"
#include "train/run_setup.hpp"
#include "train/training_state.hpp"

namespace sdp {

namespace {

/// Buffers of a worker that the pool may round up.
constexpr std::int64_t k_most_buffers = 4096;

/// Runs what allocates a model; a model that does not fit is an error of the deck, in one sentence.
template <class F>
void allocate_or_refuse(index_t parameters, std::size_t element, F&& f) {
  try {
    f();
  } catch (Error const&) {
    throw;
  } catch (std::exception const& error) {
    const std::string text = error.what();
    if (dynamic_cast<std::bad_alloc const*>(&error) == nullptr &&
        text.find("allocat") == std::string::npos)
      throw;
    throw ConfigError(fmt::format(
        "out of memory: the model of this rank has {} parameters, {} of weights alone, and the "
        "memory of "
        "this process does not hold it with their gradients, optimizer state and activations",
        short_count(static_cast<double>(parameters)),
        short_bytes(static_cast<double>(parameters) * static_cast<double>(element))));
  }
}

template <class V>
View1<V> flat_buffer(PoolRegion& region, MemoryCategory category, char const* label, index_t size) {
  MemoryScope scope(category);
  PoolScope in_region(region);
  return allocate<View1<V>>(label, size);
}

}  // namespace

template <class V>
WorkerState<V>::WorkerState(World const& world, Config const& config, Arrangement arrangement,
                            ExecSpace const& exec, QueueFactory transport)
    : m_world(world),
      m_config(config),
      m_exec(exec),
      m_transport(std::move(transport)),
      m_arrangement(std::move(arrangement)),
      m_subnetwork(m_arrangement.subnetwork(world.worker())) {
  // The largest first: a model that does not fit is refused before a schedule is made for it.
  collectively_allocate([&] {
    reserve_device_memory();
    m_weights = flat_buffer<V>(m_weight_memory, MemoryCategory::weights, "sdp::train::weights",
                               m_subnetwork.weights.size());
  });
  allocate_gradients();
  ExchangeSchedule schedule = m_arrangement.schedule(world.worker());
  collectively_allocate([&] {
    build_optimizer(schedule);
    build_model();
  });
  build_exchange(std::move(schedule));
}

template <class V>
template <class F>
void WorkerState<V>::collectively_allocate(F&& f) const {
  m_world.collectively([&] { allocate_or_refuse(m_subnetwork.weights.size(), sizeof(V), f); });
}

/// Where the other ranks of the node can address them, if the deck lets them.
template <class V>
void WorkerState<V>::allocate_gradients() {
  const index_t size = m_subnetwork.gradients.size();
  if (k_host_memory && wants_node_memory(m_config.system))
    m_node_memory = NodeMemory::allocate(m_world, MemoryCategory::gradients,
                                         size * static_cast<index_t>(sizeof(Wide)));
  if (m_node_memory) {
    m_grads = m_node_memory->view<Wide>(size);
    return;
  }
  if (m_config.system.node_memory == Toggle::on && m_world.ranks_per_node() > 1)
    throw on_all_ranks(ConfigError(
        "system.node_memory is \"on\", but the ranks of a node cannot share memory: there is too "
        "little room in /dev/shm, or they run in separate containers; use \"auto\""));
  collectively_allocate([&] {
    m_grads = flat_buffer<Wide>(m_gradient_memory, MemoryCategory::gradients,
                                "sdp::train::gradients", size);
  });
}

/// All that the deck is predicted to need, in one piece.
template <class V>
void WorkerState<V>::reserve_device_memory() const {
  if (!device_pool::in_use()) return;
  const WorkerPlan plan = plan_worker(m_config, m_arrangement, m_world.worker(), Machine());
  device_pool::reserve(static_cast<std::int64_t>(plan.weights + plan.gradients + plan.optimizer +
                                                 plan.activations + plan.communication) +
                       Optimizer<V>::most_list_bytes(m_subnetwork.gradients) +
                       k_most_buffers * device_pool::k_alignment);
}

template <class V>
void WorkerState<V>::release_model() {
  m_model.reset();
  m_model_memory.clear();
}

template <class V>
void WorkerState<V>::rebuild_model() {
  collectively_allocate([&] { build_model(); });
}

template <class V>
UpdateScope WorkerState<V>::update_scope(ExchangeSchedule const& schedule) const {
  UpdateScope scope{m_subnetwork.gradients, m_subnetwork.weights, {}, sharded()};
  for (OwnedRange const& range : schedule.owned) scope.owned.push_back(range.gradients);
  return scope;
}

template <class V>
void WorkerState<V>::build_optimizer(ExchangeSchedule const& schedule) {
  PoolScope in_region(m_optimizer_memory);
  m_optimizer.emplace(m_config.optimizer, update_scope(schedule));
}

template <class V>
void WorkerState<V>::build_model() {
  PoolScope in_region(m_model_memory);
  m_model = make_model<V>(m_config.model, m_subnetwork, m_config.train.micro_batch,
                          m_config.train.seq_len, true, m_config.run.deterministic);
}

template <class V>
void WorkerState<V>::build_exchange(ExchangeSchedule schedule) {
  if (m_world.is_lone()) schedule = without_peers(std::move(schedule));
  ExchangeOptions options = exchange_options(m_config.system);
  options.queue = m_transport;
  if (m_node_memory && !m_world.is_lone()) options.node_gradients = m_node_memory->of_ranks();
  PoolScope in_region(m_exchange_memory);
  m_exchange = std::make_unique<WorkerExchange>(m_world, std::move(schedule), options, m_exec);
  m_owned_gradients.clear();
  m_owned_weights.clear();
  for (OwnedRange const& range : m_exchange->schedule().owned) {
    m_owned_gradients.push_back(range.gradients);
    m_owned_weights.push_back({range.weight_begin, range.weight_begin + range.gradients.size()});
  }
}

template <class V>
std::vector<FlatPiece> WorkerState<V>::state_pieces() const {
  return sharded() ? flat_pieces(m_subnetwork.gradients, m_owned_gradients, true)
                   : flat_pieces(m_subnetwork.gradients);
}

template <class V>
void WorkerState<V>::initialise(std::uint64_t seed) {
  initial_weights(m_exec, m_subnetwork.weights, seed, m_weights);
  if constexpr (Optimizer<V>::k_mixed)
    initial_weights(m_exec, m_subnetwork.gradients, state_pieces(), seed, m_optimizer->master());
}

template <class V>
void WorkerState<V>::load(std::string const& path) {
  load_weights(path, m_config.model, m_subnetwork.weights, m_weights);
  if constexpr (Optimizer<V>::k_mixed)
    load_weights(path, m_config.model, m_subnetwork.gradients, state_pieces(),
                 m_optimizer->master());
}

template <class V>
void WorkerState<V>::restore(CheckpointReader const& reader) {
  reader.read(k_group_model, m_subnetwork.weights, m_weights);
  const std::vector<FlatPiece> pieces = state_pieces();
  if constexpr (Optimizer<V>::k_mixed)
    reader.read(k_group_model, m_subnetwork.gradients, pieces, m_optimizer->master());
  for (auto const& [name, moment] : m_optimizer->moments()) {
    const std::string group = "optimizer/" + name;
    if (!reader.has_group(group))
      throw ConfigError("checkpoint \"" + reader.info().path + "\" has no " + group +
                        ": it was written with another optimizer");
    reader.read(group, m_subnetwork.gradients, pieces, moment);
  }
  TrainingState const& state = reader.info().header.state;
  m_optimizer->set_updates(state.step - state.skipped);
}

template <class V>
std::optional<std::string> WorkerState<V>::not_finite() const {
  const Kokkos::View<index_t, MemSpace> count("sdp::train::not_finite");
  const auto found = Kokkos::create_mirror_view(count);
  const auto in = [&](auto const& flat) {
    kernels::count_not_finite(m_exec, flat, count);
    kernels::fence(m_exec, "sdp::train::not_finite");
    Kokkos::deep_copy(found, count);
    return found() > 0;
  };
  if (in(m_weights) || in(m_optimizer->master())) return k_group_model;
  for (auto const& [name, moment] : m_optimizer->moments())
    if (in(moment)) return "optimizer/" + name;
  return std::nullopt;
}

template <class V>
std::vector<CheckpointBuffer<kernels::accum_t<V>>> WorkerState<V>::checkpoint_buffers() const {
  std::vector<CheckpointBuffer<Wide>> buffers;
  const auto add_state = [&](std::string const& group, View1<Wide> const& state) {
    buffers.push_back(
        checkpoint_buffer(group, m_subnetwork.gradients, m_owned_gradients, state, sharded()));
  };
  if constexpr (Optimizer<V>::k_mixed)
    add_state(k_group_model, m_optimizer->master());
  else
    buffers.push_back(
        checkpoint_buffer(k_group_model, m_subnetwork.weights, m_owned_weights, m_weights));
  for (auto const& [name, moment] : m_optimizer->moments()) add_state("optimizer/" + name, moment);
  return buffers;
}

template <class V>
void WorkerState<V>::rearrange(Arrangement next) {
  const Region region("sdp::train::rearrange");
  const int worker = m_world.worker();
  const IndexRange everything{0, m_subnetwork.weights.logical_size()};
  const Arrangement old = std::move(m_arrangement);
  const bool complete = !old.layout.weights.empty() && !next.layout.weights.empty();
  m_arrangement = std::move(next);
  m_subnetwork = m_arrangement.subnetwork(worker);
  ExchangeLayout const& layout = m_arrangement.layout;
  kernels::fence(m_exec, "sdp::train::rearrange");
  release_model();
  m_exchange.reset();
  m_exchange_memory.clear();
  m_grads = {};
  m_gradient_memory.clear();
  m_node_memory.reset();

  Delivery<V> delivery(m_world, delivery_options(m_config.system), m_exec);
  if (!complete) {  // where every worker has all weights already, they stay where they are
    const auto source = owned_source(old.layout, old.buckets, BufferLayout::weights);
    const auto target = table_target(layout.weights.empty() ? layout.gradients : layout.weights,
                                     layout.table_of_worker, everything);
    PoolRegion memory;
    View1<V> arrived;
    collectively_allocate([&] {
      arrived = flat_buffer<V>(memory, MemoryCategory::weights, "sdp::train::weights",
                               m_subnetwork.weights.size());
    });
    delivery.run(make_delivery_plan(source, target, worker), m_weights, arrived);
    m_weights = arrived;
    m_weight_memory = std::move(memory);
  }
  ExchangeSchedule schedule = m_arrangement.schedule(worker);
  move_state(old, schedule);

  allocate_gradients();
  rebuild_model();
  build_exchange(std::move(schedule));
}

/// Makes the optimizer of the present arrangement and fills it with the moments, and master
/// weights, of the one before it, which held those of `old`.
template <class V>
void WorkerState<V>::move_state(Arrangement const& old, ExchangeSchedule const& schedule) {
  const int worker = m_world.worker();
  const IndexRange everything{0, m_subnetwork.weights.logical_size()};
  ExchangeLayout const& layout = m_arrangement.layout;
  auto const& buckets = m_arrangement.buckets;
  const PoolRegion memory_before = std::move(m_optimizer_memory);
  const Optimizer<V> before = std::move(*m_optimizer);
  collectively_allocate([&] { build_optimizer(schedule); });
  m_optimizer->set_updates(before.updates());
  const auto source = owned_source(old.layout, old.buckets,
                                   sharded() ? BufferLayout::packed : BufferLayout::gradients);
  const auto target = sharded()
                          ? owned_target(layout, buckets, BufferLayout::packed)
                          : table_target(layout.gradients, layout.table_of_worker, everything);
  const DeliveryPlan plan = make_delivery_plan(source, target, worker);
  Delivery<Wide> state(m_world, delivery_options(m_config.system), m_exec);
  if constexpr (Optimizer<V>::k_mixed) state.run(plan, before.master(), m_optimizer->master());
  for (std::size_t m = 0; m < before.moments().size(); ++m)
    state.run(plan, before.moments()[m].second, m_optimizer->moments()[m].second);
}

template class WorkerState<float>;
template class WorkerState<double>;
template class WorkerState<kernels::bf16>;

}  // namespace sdp
