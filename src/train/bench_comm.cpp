// SPDX-License-Identifier: Apache-2.0
#include "train/bench_comm.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "base/median.hpp"
#include "base/timer.hpp"
#include "comm/exchange.hpp"
#include "comm/holder_set_reduce.hpp"
#include "comm/node_memory.hpp"
#include "comm/transport.hpp"
#include "config/names.hpp"
#include "kernels/core/compat.hpp"
#include "train/plan.hpp"
#include "train/run_setup.hpp"

namespace sdp {

namespace {

constexpr index_t k_most_sets = 256;          // communicators
constexpr index_t k_row = 1024;               // elements of a row of a made-up model
constexpr index_t k_tensor_rows = 1024;       // and rows of its largest tensors
constexpr index_t k_short_row = 16;           // elements of a message without much in it
constexpr index_t k_link_elements = 1 << 23;  // of an exchange that shows the bandwidth

/// A model of that many elements in matrices with a vector after each.
ParameterTable table_of(index_t elements) {
  std::vector<TensorSpec> tensors;
  for (index_t left = elements; left > 0;) {
    TensorSpec tensor;
    tensor.name = std::to_string(tensors.size());
    tensor.cols = std::min(left, k_row);
    tensor.rows = tensors.size() % 2 == 0 ? std::min(left / tensor.cols, k_tensor_rows) : 1;
    tensor.shape = {tensor.rows, tensor.cols};
    left -= tensor.size();
    tensors.push_back(std::move(tensor));
  }
  return ParameterTable(std::move(tensors));
}

/// A tensor of a few elements for every rank to own.
ParameterTable shortest_table(int ranks) {
  TensorSpec tensor;
  tensor.name = "short";
  tensor.rows = ranks;
  tensor.cols = k_short_row;
  tensor.shape = {tensor.rows, tensor.cols};
  return ParameterTable({tensor});
}

index_t bucket_bytes(double bucket_mb) {
  return std::max<index_t>(1, static_cast<index_t>(bucket_mb * 1048576.0));
}

/// An exchange with buffers of its own.
template <class G, class W>
class Party {
 public:
  /// `node_memory`: gradients lie where the ranks of a node address them, if they can.
  Party(World const& world, ExchangeLayout const& layout, std::vector<IndexRange> const& buckets,
        GradientReturn gradient_return, int ranks_per_node, ExchangeOptions options,
        bool node_memory)
      : m_wire_bytes(options.bf16_wire ? sizeof(kernels::bf16) : sizeof(G)) {
    ExchangeSchedule schedule =
        make_schedule(layout, buckets, world.worker(), gradient_return, ranks_per_node);
    const index_t size = schedule.gradient_size;
    if (node_memory)
      m_memory = NodeMemory::allocate(world, MemoryCategory::gradients,
                                      size * static_cast<index_t>(sizeof(G)));
    if (m_memory) options.node_gradients = m_memory->of_ranks();
    m_gradients = m_memory ? m_memory->view<G>(size)
                           : View1<G>("sdp::train::gradients", static_cast<std::size_t>(size));
    m_weights = View1<W>("sdp::train::weights", static_cast<std::size_t>(schedule.weight_size));
    m_exchange = std::make_unique<Exchange<G, W>>(world, std::move(schedule), options);
  }

  void average() {
    m_exchange->begin(m_gradients);
    m_exchange->finish();
  }
  void return_weights() { m_exchange->return_weights(m_weights); }

  View1<G> const& gradients() const { return m_gradients; }
  ExchangeTraffic const& traffic() const { return m_exchange->schedule().traffic; }
  StepWork work() const {
    ExchangeTraffic const& t = traffic();
    const auto bytes = [&](index_t gradients, index_t weights) {
      return static_cast<double>(gradients) * m_wire_bytes +
             static_cast<double>(weights) * sizeof(W);
    };
    StepWork work;
    work.network_bytes = bytes(t.gradients_sent_to_other_nodes, t.weights_sent_to_other_nodes);
    work.node_bytes = bytes(t.gradients_sent, t.weights_sent) - work.network_bytes;
    work.network_messages = static_cast<double>(t.messages_sent_to_other_nodes);
    work.node_messages = static_cast<double>(t.messages_sent) - work.network_messages;
    return work;
  }

 private:
  std::unique_ptr<NodeMemory> m_memory;
  View1<G> m_gradients;
  View1<W> m_weights;
  std::unique_ptr<Exchange<G, W>> m_exchange;
  double m_wire_bytes;  ///< of a gradient
};

/// Medians of ways to do something, of the slowest rank; their rounds alternate. Collective.
std::vector<double> alternate(World const& world, CommBenchOptions const& options,
                              std::vector<std::function<void()>> const& ways) {
  std::vector<std::vector<double>> times(ways.size());
  for (int round = -options.warmup; round < options.repeat; ++round)
    for (std::size_t way = 0; way < ways.size(); ++way) {
      kernels::fence(ExecSpace(), "sdp::train::bench_comm");
      world.barrier();
      const Timer timer;
      ways[way]();
      kernels::fence(ExecSpace(), "sdp::train::bench_comm");
      const double slowest = world.max(timer.milliseconds());
      if (round >= 0) times[way].push_back(slowest);
    }
  std::vector<double> medians;
  for (std::vector<double> const& list : times) medians.push_back(median(list));
  return medians;
}

template <class G, class W>
class Bench {
 public:
  Bench(World const& world, SystemConfig const& system, double bucket_mb,
        CommBenchOptions const& options)
      : m_world(world),
        m_options(options),
        m_system(system),
        m_bucket_mb(bucket_mb),
        m_exchange_options(exchange_options(system)) {
    m_exchange_options.method = ReductionMethod::exchange;
    m_exchange_options.queue = exchange_transport(world, system);
  }

  CommBenchResult result() {
    CommBenchResult r;
    r.ranks = m_world.size();
    r.ranks_per_node = m_world.node_size();
    r.bucket_mb = m_bucket_mb;
    r.repeat = m_options.repeat;
    r.machine = m_options.machine;
    const int node = m_world.node_size();
    r.node =
        link(m_world.split(m_world.rank() / node), k_host_memory && wants_node_memory(m_system));
    r.network = link(m_world.split(m_world.rank() % node), false);
    r.machine.name = fmt::format("{} ranks, {} on a node", r.ranks, r.ranks_per_node);
    r.machine.ranks_per_node = r.ranks_per_node;
    r.machine.node_memory = k_host_memory;
    if (r.node) {
      r.machine.node_bandwidth = r.node->bandwidth;
      r.machine.node_latency = r.node->latency;
    }
    if (r.network) {
      r.machine.network_bandwidth = r.network->bandwidth;
      r.machine.network_latency = r.network->latency;
    }
    m_machine = r.machine;
    return r;
  }

  CommCase measure(std::string name, ExchangeLayout const& layout,
                   std::vector<IndexRange> const& buckets, GradientReturn gradient_return,
                   int ranks_per_node) {
    Party<G, W> own(m_world, layout, buckets, gradient_return, ranks_per_node, m_exchange_options,
                    k_host_memory && wants_node_memory(m_system));
    CommCase result;
    result.name = std::move(name);
    result.elements =
        m_world.sum(static_cast<std::int64_t>(own.gradients().extent(0))) / m_world.size();
    result.buckets = static_cast<std::int64_t>(buckets.size());
    result.holder_sets = HolderSetReduce<G>::count_sets(layout);
    const double ranks = m_world.size();
    result.all_reduce_bytes =
        2.0 * (1.0 - 1.0 / ranks) * static_cast<double>(result.elements) * sizeof(G);

    const ParameterTable whole = table_of(result.elements);
    const ExchangeLayout dense = dense_layout(whole, m_world.workers());
    ExchangeOptions all_reduce = m_exchange_options;
    all_reduce.method = ReductionMethod::allreduce;
    all_reduce.bf16_wire = false;
    Party<G, W> bucketed(m_world, dense, make_buckets(whole, bucket_bytes(m_bucket_mb), sizeof(G)),
                         GradientReturn::holders, 1, all_reduce, false);
    std::vector<std::function<void()>> ways{[&] { own.average(); }, [&] { own.return_weights(); },
                                            [&] { bucketed.average(); }};
    std::unique_ptr<HolderSetReduce<G>> blocking, by_set;
    if (k_host_memory || mpi_addresses_devices()) {
      blocking = std::make_unique<HolderSetReduce<G>>(m_world, dense);
      ways.push_back([&] { blocking->average(bucketed.gradients()); });
      if (result.holder_sets > 1 && result.holder_sets <= k_most_sets) {
        by_set = std::make_unique<HolderSetReduce<G>>(m_world, layout);
        ways.push_back([&] { by_set->average(own.gradients()); });
      }
    }
    const std::vector<double> times = alternate(m_world, m_options, ways);
    result.times.gradients = times[0];
    if (m_world.any(own.traffic().weights_sent > 0)) result.times.weights = times[1];
    result.times.bucketed = times[2];
    if (blocking) result.times.all_reduce = times[3];
    if (by_set) result.times.by_holder_set = times[4];

    const StepWork work = own.work();
    result.sent_bytes = m_world.min_mean_max(work.node_bytes + work.network_bytes);
    result.messages = m_world.min_mean_max(work.node_messages + work.network_messages);
    result.predicted_ms = m_world.max(predict_step(m_machine, 1.0, work).exchange_ms);
    return result;
  }

 private:
  /// What messages between the ranks of a group cost when all groups exchange at the same time;
  /// absent where no group has two ranks. Two dense exchanges, of nearly nothing and of many
  /// elements, solve time = messages * latency + bytes / bandwidth. `node_memory`: the ranks of a
  /// group may share memory.
  std::optional<LinkCost> link(World const& group, bool node_memory) const {
    const auto most = static_cast<int>(m_world.max(static_cast<std::int64_t>(group.size())));
    if (most == 1) return std::nullopt;
    const ParameterTable little = shortest_table(group.size());
    const ParameterTable much = table_of(k_link_elements);
    const ExchangeLayout little_layout = dense_layout(little, group.workers());
    const ExchangeLayout much_layout = dense_layout(much, group.workers());
    ExchangeOptions options = m_exchange_options;
    options.queue = exchange_transport(group, m_system);
    const auto party = [&](ExchangeLayout const& layout, ParameterTable const& table) {
      return std::make_unique<Party<G, W>>(
          group, layout, make_buckets(table, bucket_bytes(m_bucket_mb), sizeof(G)),
          GradientReturn::holders, 1, options, node_memory);
    };
    const auto empty = party(little_layout, little);
    const auto full = party(much_layout, much);
    const std::vector<double> times =
        alternate(m_world, m_options, {[&] { empty->average(); }, [&] { full->average(); }});
    const auto most_of = [&](Party<G, W> const& of) {
      return std::pair{m_world.max(static_cast<double>(of.traffic().messages_sent)),
                       m_world.max(of.work().node_bytes + of.work().network_bytes)};
    };
    const auto [few, few_bytes] = most_of(*empty);
    const auto [many, bytes] = most_of(*full);
    LinkCost cost;
    cost.ranks = most;
    cost.latency = 1e-3 * times[0] / few;
    const double moving = 1e-3 * times[1] - many * cost.latency;
    cost.bandwidth = bytes / (moving > 0.0 ? moving : 1e-3 * times[1]);
    return cost;
  }

  World const& m_world;
  CommBenchOptions const& m_options;
  SystemConfig m_system;
  double m_bucket_mb;
  ExchangeOptions m_exchange_options;
  Machine m_machine;
};

std::string case_name(Config const& config, Arrangement const& arrangement) {
  std::string name = "dense";
  if (config.sdp.regime != Regime::none)
    name = fmt::format("{}, {}, C = {:.4g}", to_string(config.sdp.regime),
                       to_string(config.sdp.level), arrangement.mask.coverage());
  if (arrangement.gradient_return == GradientReturn::none) name += ", sharded";
  return name;
}

}  // namespace

CommBenchResult bench_comm(World const& launched, Config const& config,
                           CommBenchOptions const& options) {
  const std::optional<World> declared = declared_world(launched, config);
  World const& world = declared ? *declared : launched;
  const Arrangement arrangement =
      world.collectively([&] { return arrange(config, world.workers(), world.node_size()); });
  const auto run = [&]<class G, class W>(G, W) {
    Bench<G, W> bench(world, config.system, static_cast<double>(config.system.bucket_mb), options);
    CommBenchResult result = bench.result();
    result.cases.push_back(bench.measure(case_name(config, arrangement), arrangement.layout,
                                         arrangement.buckets, arrangement.gradient_return,
                                         arrangement.ranks_per_node));
    return result;
  };
  switch (config.run.precision) {
    case Precision::fp64:
      return run(double(), double());
    case Precision::bf16:
      return run(float(), kernels::bf16());
    default:
      return run(float(), float());
  }
}

CommBenchResult bench_comm(World const& world, std::vector<std::int64_t> const& elements,
                           double bucket_mb, CommBenchOptions const& options) {
  Bench<float, float> bench(world, SystemConfig{}, bucket_mb, options);
  CommBenchResult result = bench.result();
  for (std::int64_t count : elements)
    for (GradientReturn gradient_return : {GradientReturn::holders, GradientReturn::none}) {
      const ParameterTable table = table_of(count);
      result.cases.push_back(
          bench.measure(fmt::format("{:.4g} million{}", 1e-6 * static_cast<double>(count),
                                    gradient_return == GradientReturn::none ? ", sharded" : ""),
                        dense_layout(table, world.workers()),
                        make_buckets(table, bucket_bytes(bucket_mb), sizeof(float)),
                        gradient_return, world.node_size()));
    }
  return result;
}

}  // namespace sdp
