// SPDX-License-Identifier: Apache-2.0
#include "train/plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.hpp"
#include "config/load.hpp"
#include "subnet/mask_json.hpp"
#include "train/arrangement.hpp"
#include "train/machine_file.hpp"

namespace sdp {
namespace {

using testing::HasSubstr;

constexpr char k_deck[] = R"(
[run]
out_dir = "out"
[model]
kind = "llama"
vocab_size = 512
hidden_size = 128
intermediate_size = 384
num_layers = 8
num_heads = 4
[data]
kind = "tokens"
train = ["a.bin"]
[train]
steps = 10
global_batch = 512
micro_batch = 1
seq_len = 64
)";

Config deck(int ranks, std::vector<std::string> const& overrides) {
  Launch launch;
  launch.ranks = ranks;
  return parse_deck(k_deck, "deck.toml", overrides, launch);
}

Plan plan_of(int ranks, std::vector<std::string> const& overrides, Machine machine = {}) {
  return make_plan(deck(ranks, overrides), ranks, machine);
}

std::vector<std::string> half(char const* regime, char const* sharding, int subnetworks = 8) {
  return {std::string("sdp.regime=") + regime, std::string("optimizer.sharding=") + sharding,
          "sdp.coverage=0.5", "sdp.subnetworks=" + std::to_string(subnetworks)};
}

struct Counts {
  double p, s, b;  // all, shared and droppable parameters
};
Counts counts(Plan const& plan) {
  double droppable = 0.0;
  for (Unit const& unit : plan.units.units) droppable += static_cast<double>(unit.parameters);
  const auto p = static_cast<double>(plan.parameters);
  return {p, p - droppable, droppable};
}

TEST(Plan, MemoryOfTheVariantsIsThatOfTheFormulas) {
  for (char const* precision : {"fp32", "bf16", "fp64"})
    for (char const* regime : {"forward", "backward"})
      for (char const* sharding : {"none", "holders"}) {
        auto overrides = half(regime, sharding);
        overrides.push_back(std::string("run.precision=") + precision);
        const Plan plan = plan_of(8, overrides);
        const auto [p, s, b] = counts(plan);
        const bool bf16 = precision == std::string("bf16");
        const double scale = precision == std::string("fp64") ? 2.0 : 1.0;
        const double w = bf16 ? 2.0 : 4.0 * scale, g = 4.0 * scale, o = bf16 ? 12.0 : 8.0 * scale;
        const double held = s + 0.5 * b;
        const bool forward = regime == std::string("forward");
        EXPECT_NEAR(plan.true_fraction.mean, held / p, 1e-12);
        EXPECT_NEAR(plan.own.memory.weights.mean, w * (forward ? held : p), 1e-6 * p);
        EXPECT_NEAR(plan.own.memory.gradients.mean, g * held, 1e-6 * p);
        EXPECT_NEAR(plan.own.memory.optimizer.mean,
                    o * (sharding == std::string("none") ? held : p / 8.0), 1e-6 * p)
            << precision << regime << sharding;
        EXPECT_GT(plan.own.memory.activations.mean, 0.0);
      }
}

TEST(Plan, BytesOfTheVariantsAreThoseOfTheFormulas) {
  constexpr double n = 8.0, c = 0.5;
  for (char const* sharding : {"none", "holders"}) {
    const Plan forward = plan_of(8, half("forward", sharding));
    const auto [p, s, b] = counts(forward);
    EXPECT_NEAR(forward.own.sent_bytes.mean,
                4.0 * (2.0 * (1.0 - 1.0 / n) * s + 2.0 * (c - 1.0 / n) * b), 0.01 * p);
    EXPECT_NEAR(forward.received_bytes.mean, forward.own.sent_bytes.mean, 1.0);
    const Plan backward = plan_of(8, half("backward", sharding));
    EXPECT_NEAR(backward.own.sent_bytes.mean,
                4.0 * ((1.0 - 1.0 / n) * s + (c - 1.0 / n) * b + (1.0 - 1.0 / n) * p), 0.01 * p);
  }
}

TEST(Plan, DenseRunIsTheBaseline) {
  const Plan dense = plan_of(8, {});
  ASSERT_EQ(dense.baselines.size(), 4u);
  StrategyPlan const& ddp = dense.baselines[0].second;
  EXPECT_EQ(dense.own.memory.total.max - dense.own.memory.communication.max, ddp.memory.total.max);
  EXPECT_NEAR(dense.own.sent_bytes.mean, ddp.sent_bytes.mean, 1.0);
  EXPECT_EQ(dense.own.predicted.compute_ms, ddp.predicted.compute_ms);
  EXPECT_EQ(dense.subnetworks, 1);
  EXPECT_EQ(dense.rho, 1.0);
  EXPECT_EQ(dense.flop_share.min, 1.0);
  // Optimizer state sharded over all ranks is ZeRO-1.
  const Plan sharded = plan_of(8, {"optimizer.sharding=holders"});
  StrategyPlan const& zero1 = sharded.baselines[1].second;
  EXPECT_NEAR(sharded.own.memory.optimizer.mean, zero1.memory.optimizer.mean, 1.0);
  EXPECT_NEAR(sharded.own.sent_bytes.mean, zero1.sent_bytes.mean, 1.0);
}

TEST(Plan, Baselines) {
  const Plan plan = plan_of(4, {"run.precision=bf16"});
  const auto p = static_cast<double>(plan.parameters);
  const std::vector<std::tuple<std::string, double, double>> expected{
      {"ddp", 18.0, 2 * 4.0},
      {"zero1", 2.0 + 4.0 + 12.0 / 4, 4.0 + 2.0},
      {"zero2", 2.0 + 16.0 / 4, 4.0 + 2.0},
      {"zero3", 18.0 / 4, 4.0 + 2 * 2.0}};
  for (std::size_t i = 0; i < 4; ++i) {
    auto const& [name, strategy] = plan.baselines[i];
    EXPECT_EQ(name, std::get<0>(expected[i]));
    EXPECT_NEAR(strategy.memory.total.max - strategy.memory.activations.max,
                std::get<1>(expected[i]) * p, 1e-6 * p);
    EXPECT_NEAR(strategy.sent_bytes.mean, 0.75 * std::get<2>(expected[i]) * p, 1e-6 * p);
  }
}

TEST(Plan, FewCountedRanksStandForAll) {
  auto overrides = half("forward", "none");
  overrides.push_back("system.ranks_per_node=8");
  const Config config = deck(128, overrides);
  const Plan plan = make_plan(config, 128, Machine{});
  EXPECT_EQ(plan.counted_ranks, 32);
  const Arrangement arrangement = arrange(config, 128, 8);
  double sent = 0.0;
  for (int rank = 0; rank < 128; ++rank) {
    const auto traffic =
        make_schedule(arrangement.layout, arrangement.buckets, rank, arrangement.gradient_return, 8)
            .traffic;
    sent += 4.0 * static_cast<double>(traffic.gradients_sent) / 128.0;
  }
  EXPECT_NEAR(plan.own.sent_bytes.mean, sent, 0.05 * sent);
}

TEST(Plan, JsonHasTheFieldsOfTheContract) {
  const Plan plan = plan_of(8, half("forward", "none"));
  const auto json = nlohmann::json::parse(plan_json(plan));
  const auto spread = [&](nlohmann::json const& value) {
    return value.contains("min") && value.contains("mean") && value.contains("max");
  };
  EXPECT_EQ(json["coverage"], 0.5);
  EXPECT_EQ(json["subnetworks"], 8);
  EXPECT_EQ(json["ranks"], 8);
  EXPECT_EQ(json["holder_sets"], plan.mask.distinct_sets().size());
  EXPECT_EQ(json["rho"], plan.rho);
  EXPECT_EQ(json["rho_bound"], plan.rho_bound);
  EXPECT_TRUE(spread(json["true_fraction"]));
  EXPECT_TRUE(spread(json["flop_share"]));
  for (char const* key : {"flops", "parameters", "activations"})
    EXPECT_GE(json["imbalance"][key], 1.0) << key;
  const auto check = [&](nlohmann::json const& strategy) {
    for (char const* key : {"weights", "gradients", "optimizer", "activations", "communication"})
      EXPECT_TRUE(spread(strategy["memory_per_rank"][key])) << key;
    EXPECT_TRUE(spread(strategy["sent_bytes_per_step"]));
    for (char const* key : {"step_ms", "compute_ms", "exchange_ms"})
      EXPECT_GT(strategy["predicted"][key], 0.0) << key;
  };
  check(json);
  EXPECT_TRUE(spread(json["recv_bytes_per_step"]));
  EXPECT_GT(json["messages_per_step"], 0.0);
  for (char const* name : {"ddp", "zero1", "zero2", "zero3"}) check(json["baselines"][name]);
}

TEST(Plan, WritesWhatItIsToldTo) {
  const Plan plan = plan_of(8, half("forward", "none"));
  const auto folder = std::filesystem::path(testing::TempDir()) / "sdp_plan_test" / "deep";
  write_plan(plan, folder.string());
  std::stringstream text;
  text << std::ifstream(folder / "plan.json").rdbuf();
  EXPECT_EQ(text.str(), plan_json(plan));
  EXPECT_EQ(read_mask((folder / "mask.json").string(), plan.units, 8).holders, plan.mask.holders);
  std::filesystem::remove_all(folder.parent_path());
  EXPECT_THROW(write_plan(plan, "/proc/nothing"), DataError);
}

TEST(Plan, TableNamesWhatMatters) {
  const Config config = deck(16, half("backward", "holders", 4));
  const std::string table = plan_table(config, make_plan(config, 16, Machine{}));
  for (char const* word : {"ZeRO-3", "coverage C", "true fraction c", "FLOP share phi",
                           "spectral gap", "imbalance", "optimizer", "sent in a step"})
    EXPECT_THAT(table, HasSubstr(word));
}

TEST(Plan, ManyRanks) {
  auto overrides = half("forward", "none", 16);
  overrides.push_back("train.global_batch=16384");
  const auto start = std::chrono::steady_clock::now();
  const Plan plan = plan_of(16384, overrides);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 10.0);
  EXPECT_GT(plan.own.predicted.exchange_ms, 0.0);
}

TEST(Plan, SaysWhatDoesNotFit) {
  EXPECT_THROW(plan_of(8, {"sdp.regime=forward", "sdp.coverage=0.5", "sdp.design=plane",
                           "sdp.subnetworks=4"}),
               ConfigError);
  EXPECT_THROW(plan_of(8, {"sdp.regime=forward", "sdp.coverage=0.5", "sdp.subnetworks=8",
                           "sdp.placement=node_aligned"}),
               ConfigError);
}

TEST(Plan, WarnsOfWidthsThatGpusAreSlowWith) {
  const auto warnings = [](std::vector<std::string> overrides) {
    overrides.insert(overrides.end(), {"sdp.regime=forward", "sdp.level=neuron", "sdp.coverage=0.5",
                                       "sdp.subnetworks=8"});
    return plan_of(8, overrides).warnings;
  };
  const auto slow = testing::Contains(HasSubstr("48 divides model.intermediate_size too"));
  EXPECT_THAT(warnings({"model.intermediate_size=5472", "run.precision=bf16"}), slow);
  EXPECT_THAT(warnings({"model.intermediate_size=5472", "run.precision=fp32"}), testing::Not(slow));
  EXPECT_THAT(
      warnings({"model.intermediate_size=5472", "run.precision=bf16", "sdp.neuron_group=48"}),
      testing::Not(testing::Contains(HasSubstr("sdp.neuron_group"))));
  EXPECT_THAT(warnings({"model.intermediate_size=390", "run.precision=bf16"}),
              testing::Not(testing::Contains(HasSubstr("sdp.neuron_group"))))
      << "the dense width is no multiple of 8 either";
}

TEST(CostModel, StepTime) {
  Machine machine;
  machine.memory_bandwidth = 100.0;
  machine.node_bandwidth = 10.0;
  machine.node_latency = 0.5;
  machine.network_bandwidth = 5.0;
  machine.network_latency = 1.0;
  machine.overlap = 0.25;
  StepWork work{30.0, 100.0, 20.0, 5.0, 2.0, 1.0};
  const StepTime time = predict_step(machine, 10.0, work);
  EXPECT_DOUBLE_EQ(time.compute_ms, 4000.0);
  EXPECT_DOUBLE_EQ(time.exchange_ms, 5000.0);
  EXPECT_DOUBLE_EQ(time.step_ms, 8000.0);
  work.node_bytes = work.network_bytes = work.node_messages = work.network_messages = 0.0;
  EXPECT_DOUBLE_EQ(predict_step(machine, 10.0, work).step_ms, 4000.0);
}

TEST(CostModel, Collectives) {
  const StepWork one = collective_work(2.0, 800.0, 3.0, 1, 8);
  EXPECT_EQ(one.node_bytes + one.network_bytes + one.node_messages + one.network_messages, 0.0);
  const StepWork node = collective_work(2.0, 800.0, 3.0, 8, 8);
  EXPECT_DOUBLE_EQ(node.node_bytes, 1400.0);
  EXPECT_EQ(node.network_bytes, 0.0);
  EXPECT_EQ(node.node_messages, 18.0);
  const StepWork two = collective_work(2.0, 800.0, 3.0, 32, 8);
  EXPECT_DOUBLE_EQ(two.network_bytes, 2.0 * 0.75 * 100.0);
  EXPECT_EQ(two.network_messages, 12.0);
}

std::string machine_error(std::string const& text) {
  try {
    parse_machine(text, "m.toml");
  } catch (ConfigError const& error) {
    return error.what();
  }
  return "";
}

TEST(MachineFile, DefaultIsTheFileOfTheInputs) {
  const auto inputs = std::filesystem::path(SDP_SOURCE_FOLDER) / "inputs" / "machines";
  EXPECT_EQ(read_machine((inputs / "h200.toml").string()), Machine{});
  EXPECT_EQ(read_machine((inputs / "cpu-2-cores.toml").string()), cpu_cores());
}

TEST(MachineFile, BadOnes) {
  std::stringstream buffer;
  buffer << std::ifstream(std::filesystem::path(SDP_SOURCE_FOLDER) / "inputs/machines/h200.toml")
                .rdbuf();
  const std::string good = buffer.str();
  ASSERT_EQ(machine_error(good), "");
  const auto with = [&](std::string const& what, std::string const& by) {
    std::string text = good;
    const auto found = text.find(what);
    EXPECT_NE(found, std::string::npos);
    return machine_error(text.replace(found, what.size(), by));
  };
  EXPECT_THAT(machine_error("name = "), HasSubstr("m.toml:1"));
  EXPECT_THAT(machine_error(""), HasSubstr("name must be a string"));
  EXPECT_THAT(with("overlap = 0.9", "overlap = 1.5"), HasSubstr("overlap must be a number from 0"));
  EXPECT_THAT(with("overlap = 0.9", "overlap = \"x\""), HasSubstr("overlap must be a number"));
  EXPECT_THAT(with("overlap = 0.9", "overlap = nan"), HasSubstr("overlap must be a number"));
  EXPECT_THAT(with("overlap = 0.9", ""), HasSubstr("overlap is missing"));
  EXPECT_THAT(with("overlap = 0.9", "overlap = 0.9\nover = 1"),
              HasSubstr("\"over\" is no key of a machine"));
  EXPECT_THAT(with("ranks_per_node = 8", "ranks_per_node = 0"), HasSubstr("from 1 to 1024"));
  EXPECT_THAT(with("ranks_per_node = 8", "ranks_per_node = 8\nnode_memory = 1"),
              HasSubstr("node_memory must be true or false"));
  EXPECT_THROW(read_machine("/nowhere.toml"), ConfigError);
}

}  // namespace
}  // namespace sdp
