// SPDX-License-Identifier: Apache-2.0
#include "train/plan.hpp"

#include <algorithm>

#include "comm/traffic.hpp"
#include "models/model_family.hpp"
#include "subnet/balance.hpp"
#include "subnet/design.hpp"
#include "train/arrangement.hpp"
#include "train/run_setup.hpp"

namespace sdp {

namespace {

constexpr int k_most_counted = 64;     // ranks whose messages are all counted
constexpr int k_counted_of_many = 32;  // of more ranks than that, spread over the subnetworks

/// All ranks where they are few, else ranks evenly spread over subnetworks and among their ranks.
std::vector<int> counted_ranks(Arrangement const& arrangement) {
  std::vector<int> chosen;
  const int ranks = arrangement.workers();
  std::vector<std::vector<int>> members(arrangement.layout.gradients.size());
  for (int rank = 0; rank < ranks; ++rank)
    members[static_cast<std::size_t>(
                arrangement.subnetwork_of_worker[static_cast<std::size_t>(rank)])]
        .push_back(rank);
  const auto limit = static_cast<std::size_t>(ranks <= k_most_counted ? ranks : k_counted_of_many);
  const std::size_t lists = std::min(members.size(), limit);
  for (std::size_t l = 0; l < lists; ++l) {
    auto const& list = members[l * members.size() / lists];
    const std::size_t count =
        ranks <= k_most_counted ? list.size() : std::min(limit / lists, list.size());
    for (std::size_t i = 0; i < count; ++i) chosen.push_back(list[i * list.size() / count]);
  }
  return chosen;
}

/// What the ranks of one subnetwork have in common.
struct SubnetworkCost {
  double weights = 0.0;
  double gradients = 0.0;
  double activation_bytes = 0.0;
  double flops = 0.0;  ///< of one sample, recomputation among them
};

SubnetworkCost subnetwork_cost(Config const& config, ParameterTable const& weights,
                               ParameterTable const& gradients) {
  SubnetworkCost cost;
  cost.weights = static_cast<double>(weights.size());
  cost.gradients = static_cast<double>(gradients.size());
  cost.activation_bytes = static_cast<double>(model_activation_bytes(
      config.model, weights, gradients, config.train.micro_batch, config.train.seq_len,
      static_cast<std::size_t>(element_bytes(config.run.precision))));
  const SampleFlops flops =
      model_sample_flops(config.model, weights, gradients, config.train.seq_len);
  cost.flops = static_cast<double>(flops.total());
  if (config.model.recompute == Recompute::block) cost.flops += static_cast<double>(flops.forward);
  return cost;
}

/// The figures of a list of ranks while it is filled.
struct Ranks {
  std::vector<double> weights, gradients, optimizer, activations, communication, total;

  void add(double w, double g, double o, double a, double c) {
    weights.push_back(w);
    gradients.push_back(g);
    optimizer.push_back(o);
    activations.push_back(a);
    communication.push_back(c);
    total.push_back(w + g + o + a + c);
  }
  MemoryPlan spread() const {
    return {min_mean_max(weights),     min_mean_max(gradients),     min_mean_max(optimizer),
            min_mean_max(activations), min_mean_max(communication), min_mean_max(total)};
  }
};

/// Figures that depend on the deck and the machine, not on who holds what.
struct Setting {
  Setting(Config const& config, int ranks, Machine const& machine_in)
      : machine(machine_in),
        bytes(state_bytes(config)),
        rate(flops_rate(machine_in, config.run.precision)),
        samples(static_cast<double>(config.train.global_batch) / ranks),
        micro_steps(samples / static_cast<double>(config.train.micro_batch)) {}

  StepWork work(SubnetworkCost const& cost, double updated) const {
    StepWork work;
    work.flops = cost.flops * samples;
    work.memory_bytes = step_memory_bytes(bytes, micro_steps, cost.activation_bytes, cost.weights,
                                          cost.gradients, updated);
    return work;
  }

  Machine const& machine;
  StateBytes bytes;
  double rate;
  double samples;      ///< of a rank in a step
  double micro_steps;  ///< of a rank in a step
};

void keep_slowest(StepTime& slowest, StepTime const& time) {
  slowest.step_ms = std::max(slowest.step_ms, time.step_ms);
  slowest.compute_ms = std::max(slowest.compute_ms, time.compute_ms);
  slowest.exchange_ms = std::max(slowest.exchange_ms, time.exchange_ms);
}

/// Bytes of that many elements in messages.
double in_bytes(StateBytes const& bytes, index_t gradients, index_t weights) {
  return static_cast<double>(gradients) * bytes.wire + static_cast<double>(weights) * bytes.weight;
}

/// The step of a worker that computes `cost` and sends `traffic`.
StepWork work_with_messages(Setting const& setting, SubnetworkCost const& cost, double updated,
                            ExchangeTraffic const& traffic) {
  StateBytes const& bytes = setting.bytes;
  StepWork work = setting.work(cost, updated);
  const double sent = in_bytes(bytes, traffic.gradients_sent, traffic.weights_sent);
  work.network_bytes =
      in_bytes(bytes, traffic.gradients_sent_to_other_nodes, traffic.weights_sent_to_other_nodes);
  work.node_bytes = sent - work.network_bytes;
  work.network_messages = static_cast<double>(traffic.messages_sent_to_other_nodes);
  work.node_messages = static_cast<double>(traffic.messages_sent) - work.network_messages;
  return work;
}

std::vector<WorkerTraffic> traffic_of(Arrangement const& arrangement, Config const& config,
                                      Machine const& machine, std::vector<int> const& workers) {
  const StateBytes bytes = state_bytes(config);
  return exchange_traffic(arrangement.layout, arrangement.buckets, workers,
                          arrangement.gradient_return, arrangement.ranks_per_node,
                          static_cast<index_t>(bytes.wire), static_cast<index_t>(bytes.weight),
                          bytes.wire < bytes.gradient,
                          machine.node_memory && wants_node_memory(config.system));
}

/// Messages and step time, of the counted ranks; memory, of all. A rank that is not counted owns
/// and stages the mean of those that are.
void count_exchange(Config const& config, Arrangement const& arrangement, Setting const& setting,
                    std::vector<SubnetworkCost> const& costs, Plan& plan) {
  const bool sharded = arrangement.gradient_return == GradientReturn::none;
  const auto counted = counted_ranks(arrangement);
  plan.counted_ranks = static_cast<int>(counted.size());
  const auto cost_of = [&](int rank) -> SubnetworkCost const& {
    return costs[static_cast<std::size_t>(
        arrangement.subnetwork_of_worker[static_cast<std::size_t>(rank)])];
  };
  StateBytes const& bytes = setting.bytes;
  std::vector<double> sent, received, messages, owned, staged;
  for (WorkerTraffic const& worker : traffic_of(arrangement, config, setting.machine, counted)) {
    ExchangeTraffic const& traffic = worker.traffic;
    sent.push_back(in_bytes(bytes, traffic.gradients_sent, traffic.weights_sent));
    received.push_back(in_bytes(bytes, traffic.gradients_received, traffic.weights_received));
    messages.push_back(static_cast<double>(traffic.messages_sent));
    owned.push_back(static_cast<double>(worker.owned));
    staged.push_back(static_cast<double>(worker.exchange_bytes));
    SubnetworkCost const& cost = cost_of(worker.worker);
    const StepWork work =
        work_with_messages(setting, cost, sharded ? owned.back() : cost.gradients, traffic);
    keep_slowest(plan.own.predicted, predict_step(setting.machine, setting.rate, work));
  }
  plan.own.sent_bytes = min_mean_max(sent);
  plan.received_bytes = min_mean_max(received);
  plan.messages = min_mean_max(messages).mean;

  const auto on_all_ranks = [&](std::vector<double> const& of_counted) {
    std::vector<double> values(static_cast<std::size_t>(plan.ranks), min_mean_max(of_counted).mean);
    for (std::size_t i = 0; i < counted.size(); ++i)
      values[static_cast<std::size_t>(counted[i])] = of_counted[i];
    return values;
  };
  const auto updated = on_all_ranks(owned);
  const auto communication = on_all_ranks(staged);
  Ranks ranks;
  for (int rank = 0; rank < plan.ranks; ++rank) {
    SubnetworkCost const& cost = cost_of(rank);
    const double state = sharded ? updated[static_cast<std::size_t>(rank)] : cost.gradients;
    ranks.add(cost.weights * bytes.weight, cost.gradients * bytes.gradient, state * bytes.optimizer,
              cost.activation_bytes, communication[static_cast<std::size_t>(rank)]);
  }
  plan.own.memory = ranks.spread();
}

/// A dense run in which a rank keeps these parts of weights, gradients and optimizer state, and
/// which passes gradients and weights that often.
StrategyPlan baseline(Setting const& setting, SubnetworkCost const& dense, Plan const& plan,
                      double pieces, double weight_part, double gradient_part,
                      double optimizer_part, double gradient_passes, double weight_passes) {
  const double p = dense.weights;
  StateBytes const& bytes = setting.bytes;
  StrategyPlan strategy;
  Ranks one;
  one.add(p * bytes.weight * weight_part, p * bytes.gradient * gradient_part,
          p * bytes.optimizer * optimizer_part, dense.activation_bytes, 0.0);
  strategy.memory = one.spread();
  const double sent =
      (1.0 - 1.0 / plan.ranks) * p * (gradient_passes * bytes.wire + weight_passes * bytes.weight);
  strategy.sent_bytes = {sent, sent, sent};
  StepWork work = setting.work(dense, p * optimizer_part);
  for (auto [passes, size] :
       {std::pair{gradient_passes, p * bytes.wire}, std::pair{weight_passes, p * bytes.weight}}) {
    const StepWork part = collective_work(passes, size, pieces, plan.ranks, plan.ranks_per_node);
    work.node_bytes += part.node_bytes;
    work.network_bytes += part.network_bytes;
    work.node_messages += part.node_messages;
    work.network_messages += part.network_messages;
  }
  strategy.predicted = predict_step(setting.machine, setting.rate, work);
  return strategy;
}

}  // namespace

StateBytes state_bytes(Config const& config) {
  const double moments = config.optimizer.kind == OptimizerKind::adamw ? 2.0
                         : config.optimizer.momentum != 0.0            ? 1.0
                                                                       : 0.0;
  const double wire = config.system.gradient_wire == WireType::bf16 ? 2.0 : 4.0;
  switch (config.run.precision) {
    case Precision::fp64:
      return {8.0, 8.0, 8.0 * moments, 8.0};
    case Precision::bf16:
      return {2.0, 4.0, 4.0 + 4.0 * moments, wire};
    default:
      return {4.0, 4.0, 4.0 * moments, wire};
  }
}

double flops_rate(Machine const& machine, Precision precision) {
  switch (precision) {
    case Precision::bf16:
      return machine.flops_bf16;
    case Precision::fp64:
      return machine.flops_fp64;
    default:
      return machine.flops_fp32;
  }
}

int planned_ranks_per_node(Config const& config, Machine const& machine) {
  return config.system.ranks_per_node > 0 ? static_cast<int>(config.system.ranks_per_node)
                                          : machine.ranks_per_node;
}

WorkerPlan plan_worker(Config const& config, Arrangement const& arrangement, int worker,
                       Machine const& machine) {
  const Setting setting(config, arrangement.workers(), machine);
  StateBytes const& bytes = setting.bytes;
  const SubnetworkCost cost =
      subnetwork_cost(config, arrangement.weights(worker), arrangement.gradients(worker));
  const WorkerTraffic traffic = traffic_of(arrangement, config, machine, {worker}).front();
  const double updated = arrangement.gradient_return == GradientReturn::none
                             ? static_cast<double>(traffic.owned)
                             : cost.gradients;
  WorkerPlan plan;
  plan.subnetwork = arrangement.subnetwork_of_worker[static_cast<std::size_t>(worker)];
  plan.true_fraction =
      cost.gradients / static_cast<double>(arrangement.gradients(worker).logical_size());
  const auto flops = static_cast<double>(worker_flops(config, arrangement, worker).total());
  plan.flop_share = flops / static_cast<double>(dense_flops(config).total());
  plan.flops = flops * setting.samples;
  plan.weights = cost.weights * bytes.weight;
  plan.gradients = cost.gradients * bytes.gradient;
  plan.optimizer = updated * bytes.optimizer;
  plan.activations = cost.activation_bytes;
  plan.communication = static_cast<double>(traffic.exchange_bytes);
  plan.sent_bytes = in_bytes(bytes, traffic.traffic.gradients_sent, traffic.traffic.weights_sent);
  plan.work = work_with_messages(setting, cost, updated, traffic.traffic);
  plan.predicted = predict_step(machine, setting.rate, plan.work);
  return plan;
}

Plan make_plan(Config const& config, int ranks, Machine const& machine, std::int64_t step) {
  Plan plan;
  plan.ranks = ranks;
  plan.machine = machine;
  plan.ranks_per_node = planned_ranks_per_node(config, machine);
  const Arrangement arrangement = arrange(config, ranks, plan.ranks_per_node, step);
  plan.units = arrangement.units;
  plan.mask = arrangement.mask;
  plan.warnings = arrangement.mask.warnings;
  plan.coverage = plan.mask.coverage();
  plan.holders_per_unit = plan.mask.holders_per_unit;
  plan.subnetworks = plan.mask.subnetworks;
  plan.design = config.sdp.regime == Regime::none ? "none" : design_name(plan.mask.design);
  plan.holder_sets = static_cast<index_t>(plan.mask.distinct_sets().size());
  plan.rho = plan.mask.rho;
  plan.rho_bound = plan.mask.rho_bound;
  plan.true_fraction = min_mean_max(true_fractions(arrangement));
  plan.flop_share = min_mean_max(flop_shares(config, arrangement));

  const Setting setting(config, ranks, machine);
  ExchangeLayout const& layout = arrangement.layout;
  std::vector<SubnetworkCost> costs;
  std::vector<double> flops, parameters, activations;
  for (std::size_t s = 0; s < layout.gradients.size(); ++s) {
    costs.push_back(
        subnetwork_cost(config, layout.weights.empty() ? layout.gradients[s] : layout.weights[s],
                        layout.gradients[s]));
    flops.push_back(costs.back().flops);
    parameters.push_back(costs.back().gradients);
    activations.push_back(costs.back().activation_bytes);
  }
  plan.flops_imbalance = imbalance(flops);
  plan.parameters_imbalance = imbalance(parameters);
  plan.activations_imbalance = imbalance(activations);
  count_exchange(config, arrangement, setting, costs, plan);

  const ParameterTable table(model_tensors(config.model));
  plan.parameters = model_parameters(config.model);
  const SubnetworkCost dense = subnetwork_cost(config, table, table);
  const auto pieces = static_cast<double>(arrangement.buckets.size());
  const double part = 1.0 / ranks;
  const auto add = [&](char const* name, auto... parts) {
    plan.baselines.emplace_back(name, baseline(setting, dense, plan, pieces, parts...));
  };
  add("ddp", 1.0, 1.0, 1.0, 2.0, 0.0);
  add("zero1", 1.0, 1.0, part, 1.0, 1.0);
  add("zero2", 1.0, part, part, 1.0, 1.0);
  add("zero3", part, part, part, 1.0, 2.0);
  return plan;
}

Plan plan_of_run(World const& world, Config const& config, std::int64_t step) {
  Config placed = config;
  placed.system.ranks_per_node = world.node_size();
  const bool host = Kokkos::SpaceAccessibility<HostSpace, MemSpace>::accessible;
  return make_plan(placed, world.workers(), host ? cpu_cores() : Machine{}, step);
}

}  // namespace sdp
