// SPDX-License-Identifier: Apache-2.0
// What the benches measure, against runs and plans of the same decks.
#include <nlohmann/json.hpp>

#include "tests/train/run_fixture.hpp"
#include "train/bench_comm.hpp"
#include "train/bench_step.hpp"
#include "train/machine_file.hpp"
#include "train/run_setup.hpp"

namespace sdp {
namespace {

using Json = nlohmann::json;

constexpr MemoryCategory k_model_memory[] = {MemoryCategory::weights, MemoryCategory::gradients,
                                             MemoryCategory::optimizer,
                                             MemoryCategory::activations};

class BenchTest : public test::RunFixture {
 protected:
  int ranks() const { return m_world.size(); }

  /// The overrides of a variant on as many subnetworks as ranks.
  std::vector<std::string> variant(std::string const& regime, std::string const& level,
                                   std::string const& sharding) const {
    return {"sdp.regime=" + regime,
            "sdp.level=" + level,
            "optimizer.sharding=" + sharding,
            "sdp.neuron_group=4",
            "model.num_layers=4",
            "sdp.subnetworks=" + std::to_string(ranks()),
            regime == "none" || ranks() == 1 ? "sdp.coverage=1.0" : "sdp.coverage=0.5"};
  }

  StepBenchResult lone(Config const& config, int steps = 2) const {
    StepBenchOptions options;
    options.ranks = ranks();
    options.worker = m_world.rank();
    options.steps = steps;
    options.warmup = 1;
    options.machine = cpu_cores();
    return bench_step(config, options);
  }

  /// Every rank measures itself alone; memory and FLOP share must be those of a run together.
  void compare_with_run(std::string const& name, std::vector<std::string> overrides) {
    SCOPED_TRACE(name);
    for (char const* always : {"data.val=[]", "checkpoint.at_end=false"})
      overrides.push_back(always);
    const Config config = deck(m_world, name, overrides);
    memory_ledger::reset_peaks();
    train(m_world, config);
    m_world.barrier();
    std::ifstream file(out(name) / "summary.json");
    const auto summary = Json::parse(file);
    const StepBenchResult result = lone(config);
    const auto compare = [&](Json const& expected, double value, std::string const& what) {
      const MinMeanMax found = m_world.min_mean_max(value);
      EXPECT_DOUBLE_EQ(found.min, expected["min"].get<double>()) << what;
      EXPECT_NEAR(found.mean, expected["mean"].get<double>(), 1e-12 * found.mean) << what;
      EXPECT_DOUBLE_EQ(found.max, expected["max"].get<double>()) << what;
    };
    for (MemoryCategory category : k_model_memory)
      compare(summary["memory"][sdp::name(category)]["measured"],
              static_cast<double>(result.memory[static_cast<std::size_t>(category)]),
              sdp::name(category));
    compare(summary["flop_share"], result.plan.flop_share, "flop_share");
    compare(summary["true_fraction"], result.plan.true_fraction, "true_fraction");
    // The headers of allocations without elements.
    EXPECT_LE(result.memory[static_cast<std::size_t>(MemoryCategory::communication)], 256);
    EXPECT_EQ(result.targets, config.train.global_batch / ranks() * config.train.seq_len);
    EXPECT_EQ(result.skipped, 0);
    EXPECT_NEAR(result.loss, std::log(k_vocab), 0.5) << "of a model that knows nothing yet";
  }
};

TEST_F(BenchTest, AloneAWorkerHasTheMemoryAndTheShareThatItHasInARun) {
  compare_with_run("dense", variant("none", "block", "none"));
  compare_with_run("dense_sharded", variant("none", "block", "holders"));
  for (char const* regime : {"forward", "backward"})
    for (char const* level : {"block", "neuron"})
      for (char const* sharding : {"none", "holders"})
        compare_with_run(std::string(regime) + level + sharding, variant(regime, level, sharding));
}

TEST_F(BenchTest, SoItHasInBf16) {
  for (char const* sharding : {"none", "holders"}) {
    auto overrides = variant("forward", "neuron", sharding);
    overrides.push_back("run.precision=bf16");
    compare_with_run(std::string("bf16") + sharding, overrides);
  }
}

TEST_F(BenchTest, RecomputationAndAccumulationAreThoseOfTheDeck) {
  auto overrides = variant("forward", "block", "none");
  const StepBenchResult plain = lone(deck(m_world, "plain", overrides));
  EXPECT_EQ(plain.accumulation, 8 / ranks());
  overrides.push_back("model.recompute=block");
  const StepBenchResult less = lone(deck(m_world, "less", overrides));
  const auto activations = static_cast<std::size_t>(MemoryCategory::activations);
  EXPECT_LT(less.memory[activations], plain.memory[activations]);
  EXPECT_EQ(static_cast<double>(less.memory[activations]), less.plan.activations);
  EXPECT_EQ(less.plan.flops, plain.plan.flops);
  EXPECT_GT(less.plan.work.flops, plain.plan.work.flops);
}

TEST_F(BenchTest, AResnetNeedsNoFiles) {
  const std::string text = R"(
run.out_dir = "nowhere"
run.precision = "fp32"
model.kind = "resnet18"
model.width = 4
data.kind = "cifar10"
data.train = ["no/such/file.bin"]
train.steps = 4
train.global_batch = 16
train.micro_batch = 2
sdp.neuron_group = 1
)";
  Launch launch;
  launch.ranks = ranks();
  for (std::string regime : {"none", "forward", "backward"})
    for (std::string level : {"block", "neuron"}) {
      SCOPED_TRACE(regime + level);
      const Config config = parse_deck(text, "images",
                                       {"sdp.regime=" + regime, "sdp.level=" + level,
                                        ranks() == 1 ? "sdp.coverage=1.0" : "sdp.coverage=0.5"},
                                       launch);
      const StepBenchResult result = lone(config);
      EXPECT_EQ(result.targets, 16 / ranks());
      EXPECT_TRUE(std::isfinite(result.loss));
      EXPECT_EQ(result.skipped, 0);
      const double planned[] = {result.plan.weights, result.plan.gradients, result.plan.optimizer,
                                result.plan.activations};
      for (int i = 0; i < 4; ++i)
        EXPECT_EQ(static_cast<double>(result.memory[static_cast<std::size_t>(k_model_memory[i])]),
                  planned[i])
            << name(k_model_memory[i]);
      const auto json = Json::parse(bench_step_json(config, result));
      EXPECT_GT(json["images_per_s"], 0.0);
      EXPECT_FALSE(json.contains("tokens_per_s"));
    }
}

TEST_F(BenchTest, PlansOfAllWorkersAreThePlanOfTheJob) {
  for (char const* sharding : {"none", "holders"})
    for (char const* regime : {"none", "forward", "backward"}) {
      SCOPED_TRACE(std::string(regime) + sharding);
      auto overrides = variant(regime, "block", sharding);
      overrides.push_back("system.ranks_per_node=2");
      if (ranks() == 1) overrides.back() = "system.ranks_per_node=1";
      const Config config = deck(m_world, "plan", overrides);
      const Machine machine = cpu_cores();
      const Plan whole = make_plan(config, ranks(), machine);
      const Arrangement arrangement =
          arrange(config, ranks(), planned_ranks_per_node(config, machine));
      std::vector<double> sent, optimizer, communication, shares;
      double step_ms = 0.0;
      for (int worker = 0; worker < ranks(); ++worker) {
        const WorkerPlan plan = plan_worker(config, arrangement, worker, machine);
        sent.push_back(plan.sent_bytes);
        optimizer.push_back(plan.optimizer);
        communication.push_back(plan.communication);
        shares.push_back(plan.flop_share);
        step_ms = std::max(step_ms, plan.predicted.step_ms);
      }
      const auto same = [](MinMeanMax const& a, MinMeanMax const& b) {
        EXPECT_DOUBLE_EQ(a.min, b.min);
        EXPECT_DOUBLE_EQ(a.mean, b.mean);
        EXPECT_DOUBLE_EQ(a.max, b.max);
      };
      same(min_mean_max(sent), whole.own.sent_bytes);
      same(min_mean_max(optimizer), whole.own.memory.optimizer);
      same(min_mean_max(communication), whole.own.memory.communication);
      same(min_mean_max(shares), whole.flop_share);
      EXPECT_DOUBLE_EQ(step_ms, whole.own.predicted.step_ms);
    }
}

TEST_F(BenchTest, TimesAndRatesFitTogether) {
  const Config config = deck(m_world, "times", variant("forward", "neuron", "none"));
  StepBenchOptions options;
  options.ranks = ranks();
  options.worker = ranks() - 1;
  options.steps = 3;
  options.peak_flops = 1e15;
  options.machine = cpu_cores();
  const StepBenchResult result = bench_step(config, options);
  for (PhaseTime const& phase : {result.step, result.forward, result.backward, result.optimizer}) {
    EXPECT_GT(phase.min, 0.0);
    EXPECT_LE(phase.min, phase.median);
    EXPECT_LE(phase.median, phase.max);
  }
  EXPECT_LE(result.forward.min + result.backward.min + result.optimizer.min, result.step.max);
  const auto json = Json::parse(bench_step_json(config, result));
  const double seconds = 1e-3 * json["step_ms"]["median"].get<double>();
  EXPECT_NEAR(json["tokens_per_s"].get<double>() * seconds, 72.0 / ranks(), 1e-9);
  EXPECT_NEAR(json["model_flops_per_s"].get<double>() * seconds,
              json["model_flops_per_step"].get<double>(), 1.0);
  EXPECT_NEAR(json["mfu"].get<double>() * 1e15, json["model_flops_per_s"].get<double>(), 1.0);
  EXPECT_EQ(json["flop_share"].get<double>(), result.plan.flop_share);
  EXPECT_EQ(json["memory"]["weights"]["measured"].get<double>(),
            json["memory"]["weights"]["planned"].get<double>());
  EXPECT_GT(json["machine"]["flops_fp64"], 0.0);
  EXPECT_GT(json["machine"]["memory_bandwidth"], 0.0);
  EXPECT_EQ(json["worker"], ranks() - 1);
  EXPECT_FALSE(json.contains("images_per_s"));
}

TEST_F(BenchTest, WorkersThatDoNotExistAreRefused) {
  const Config config = deck(m_world, "refused");
  for (int worker : {-1, ranks()}) {
    StepBenchOptions options;
    options.ranks = ranks();
    options.worker = worker;
    EXPECT_THROW(bench_step(config, options), ConfigError);
  }
}

CommBenchOptions few_rounds() {
  CommBenchOptions options;
  options.repeat = 2;
  options.warmup = 1;
  options.machine = cpu_cores();
  return options;
}

TEST_F(BenchTest, TheExchangeSendsWhatThePlanSays) {
  for (char const* sharding : {"none", "holders"})
    for (char const* regime : {"none", "forward", "backward"}) {
      SCOPED_TRACE(std::string(regime) + sharding);
      auto overrides = variant(regime, "neuron", sharding);
      const Config config = deck(m_world, "comm", overrides);
      const CommBenchResult result = bench_comm(m_world, config, few_rounds());
      ASSERT_EQ(result.cases.size(), 1u);
      CommCase const& found = result.cases[0];
      const Plan plan = plan_of_run(m_world, config);
      EXPECT_DOUBLE_EQ(found.sent_bytes.mean, plan.own.sent_bytes.mean);
      EXPECT_DOUBLE_EQ(found.messages.mean, plan.messages);
      EXPECT_EQ(found.holder_sets > 1, plan.holder_sets > 1);
      EXPECT_GT(found.times.gradients, 0.0);
      const bool returns = ranks() > 1 && (plan.own.sent_bytes.mean > 0.0) &&
                           (std::string(sharding) == "holders" ||
                            (std::string(regime) == "backward" && ranks() > 1));
      EXPECT_EQ(found.times.weights > 0.0, returns);
      EXPECT_TRUE(found.times.all_reduce.has_value());
      EXPECT_EQ(found.times.by_holder_set.has_value(), found.holder_sets > 1);
    }
}

TEST_F(BenchTest, NarrowGradientsCountAsTheyAreSent) {
  for (char const* wire : {"fp32", "bf16"}) {
    SCOPED_TRACE(wire);
    auto overrides = variant("backward", "block", "holders");
    overrides.push_back("run.precision=bf16");
    overrides.push_back(std::string("system.gradient_wire=") + wire);
    const Config config = deck(m_world, "narrow", overrides);
    const CommBenchResult result = bench_comm(m_world, config, few_rounds());
    const Plan plan = plan_of_run(m_world, config);
    EXPECT_DOUBLE_EQ(result.cases[0].sent_bytes.mean, plan.own.sent_bytes.mean);
  }
}

TEST_F(BenchTest, LinksAreMeasuredWhereThereAreSome) {
  std::vector<std::string> overrides;
  if (ranks() >= 4) overrides.push_back("system.ranks_per_node=2");
  const CommBenchResult result =
      bench_comm(m_world, deck(m_world, "links", overrides), few_rounds());
  EXPECT_EQ(result.node.has_value(), ranks() >= 2);
  EXPECT_EQ(result.network.has_value(), ranks() >= 4);
  const Machine before = cpu_cores();
  const Machine machine = parse_machine(machine_text(result.machine), "the text");
  EXPECT_EQ(machine.ranks_per_node, result.ranks_per_node);
  if (result.node) {
    EXPECT_NEAR(machine.node_bandwidth, result.node->bandwidth, 1e-3 * result.node->bandwidth);
    EXPECT_NEAR(machine.node_latency, result.node->latency, 1e-3 * result.node->latency);
    EXPECT_GT(result.node->latency, 0.0);
  } else {
    EXPECT_EQ(machine.node_bandwidth, before.node_bandwidth);
  }
  if (!result.network) {
    EXPECT_EQ(machine.network_bandwidth, before.network_bandwidth);
  }
  EXPECT_EQ(machine.flops_fp32, before.flops_fp32);
  EXPECT_EQ(machine.overlap, before.overlap);
}

TEST_F(BenchTest, SizesNeedNoDeck) {
  const CommBenchResult result = bench_comm(m_world, {1000, 300001}, 0.25, few_rounds());
  ASSERT_EQ(result.cases.size(), 4u);
  EXPECT_EQ(result.cases[0].elements, 1000);
  EXPECT_EQ(result.cases[3].elements, 300001);
  EXPECT_GT(result.cases[2].buckets, 1);
  EXPECT_NEAR(result.cases[2].sent_bytes.mean, result.cases[2].all_reduce_bytes,
              0.01 * result.cases[2].all_reduce_bytes);
  const auto json = Json::parse(bench_comm_json(result));
  EXPECT_EQ(json["cases"].size(), 4u);
  for (char const* key :
       {"name", "elements", "sent_bytes", "gradients_ms", "weights_ms", "exchange_gb_per_s",
        "predicted_ms", "bucketed_all_reduce_ms", "all_reduce_ms", "by_holder_set_ms"})
    EXPECT_TRUE(json["cases"][0].contains(key)) << key;
  EXPECT_EQ(json["ranks"], ranks());
}

}  // namespace
}  // namespace sdp
