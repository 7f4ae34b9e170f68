// SPDX-License-Identifier: Apache-2.0
// Training in bf16 beside fp32: the same curve, fp32 master weights that alone decide, and every
// invariant of the other precisions.
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "models/model.hpp"
#include "tests/train/run_fixture.hpp"
#include "train/evaluate.hpp"
#include "train/inputs.hpp"

namespace sdp {
namespace {

using kernels::bf16;
using nlohmann::json;
using Overrides = std::vector<std::string>;

Overrides operator+(Overrides a, Overrides const& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Bf16 : public test::RunFixture {
 protected:
  struct Variant {
    char const* name;
    Overrides overrides;
  };
  /// Half of the units, as many subnetworks as ranks; one rank keeps everything.
  std::vector<Variant> variants() const {
    const Overrides half{"sdp.subnetworks=" + std::to_string(m_world.size()),
                         m_world.size() == 1 ? "sdp.coverage=1.0" : "sdp.coverage=0.5",
                         "sdp.neuron_group=4", "sdp.hash_every=1"};
    const auto of = [&](std::string regime, std::string level) {
      return half + Overrides{"sdp.regime=" + regime, "sdp.level=" + level};
    };
    return {{"forward_block", of("forward", "block")},
            {"forward_neuron", of("forward", "neuron")},
            {"backward_block", of("backward", "block")},
            {"backward_neuron", of("backward", "neuron")}};
  }
  Overrides in_bf16(Overrides const& more) const { return Overrides{"run.precision=bf16"} + more; }

  std::filesystem::path saved(std::string const& name, int step) const {
    return out(name) / "checkpoints" / fmt::format("step-{:08}.h5", step);
  }
  /// The master weights that a run ends with.
  std::vector<double> run(std::string const& name, Overrides const& overrides) const {
    const Config config = deck(m_world, name, overrides);
    train(m_world, config);
    m_world.barrier();
    return weights(saved(name, static_cast<int>(config.train.steps)));
  }
  std::vector<json> events(std::string const& name, std::string const& kind) const {
    std::vector<json> list;
    std::ifstream file(out(name) / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      json event = json::parse(line);
      if (event["event"] == kind) list.push_back(std::move(event));
    }
    return list;
  }
  json summary(std::string const& name) const {
    std::ifstream file(out(name) / "summary.json");
    return json::parse(file);
  }

  /// Losses of every tenth of 200 updates, and of the evaluation after them.
  std::vector<double> curve(std::string const& name, Overrides const& overrides) const {
    run(name, Overrides{"train.steps=200", "train.log_every=10", "model.hidden_size=32",
                        "model.intermediate_size=64", "schedule.warmup_steps=20"} +
                  overrides);
    std::vector<double> losses;
    for (json const& event : events(name, "train")) losses.push_back(event["loss"]);
    losses.push_back(events(name, "eval").back()["val_loss"]);
    return losses;
  }
  void expect_within(std::vector<double> const& losses, std::vector<double> const& expected,
                     double tolerance) const {
    ASSERT_EQ(losses.size(), 21u);
    ASSERT_EQ(expected.size(), 21u);
    EXPECT_LT(expected.back(), 0.8 * expected.front());
    for (std::size_t i = 0; i < losses.size(); ++i)
      EXPECT_NEAR(losses[i], expected[i], tolerance * expected[i]) << i;
    EXPECT_NE(losses, expected);
  }
};

TEST_F(Bf16, LossCurveOver200UpdatesIsThatOfFp32WithinOnePercent) {
  if (m_world.size() > 2) GTEST_SKIP() << "on one and on two ranks";
  expect_within(curve("dense16", {"run.precision=bf16"}), curve("dense32", {"run.precision=fp32"}),
                0.01);
  if (m_world.size() == 1) return;
  for (std::size_t i : {0u, 3u}) {
    const Variant variant = variants()[i];
    SCOPED_TRACE(variant.name);
    const Overrides sharded = variant.overrides + Overrides{"optimizer.sharding=holders"};
    const std::string name = variant.name;
    expect_within(curve(name + "16", sharded + Overrides{"run.precision=bf16"}),
                  curve(name + "32", sharded + Overrides{"run.precision=fp32"}), 0.01);
  }
}

TEST_F(Bf16, SmallUpdatesAddUpInTheMasterWeights) {
  // A tenth of the distance between neighbouring bf16 numbers in each update: stored weights that
  // were updated themselves would stay where they are.
  const Overrides slow{"optimizer.lr=1e-6",      "optimizer.weight_decay=0.0",
                       "schedule.kind=constant", "schedule.warmup_steps=0",
                       "train.steps=100",        "model.init_std=0.01"};
  const auto start = run(
      "start", in_bf16({"train.steps=4", "optimizer.lr=1e-12"}) + Overrides{"model.init_std=0.01"});
  const auto narrow = run("narrow", in_bf16(slow));
  const auto wide = run("wide", Overrides{"run.precision=fp32"} + slow);
  double moved = 0, expected = 0;
  for (std::size_t i = 0; i < wide.size(); ++i) {
    moved += std::abs(narrow[i] - start[i]);
    expected += std::abs(wide[i] - start[i]);
  }
  EXPECT_NEAR(moved, expected, 0.1 * expected);
}

TEST_F(Bf16, ShardingAndFullCoverageChangeNoBits) {
  for (char const* wire : {"fp32", "bf16"}) {
    const Overrides common = in_bf16({std::string("system.gradient_wire=") + wire});
    const auto name = [&](std::string const& what) { return what + "_" + wire; };
    const auto dense = run(name("dense"), common);
    EXPECT_EQ(run(name("zero1"), common + Overrides{"optimizer.sharding=holders"}), dense);
    for (Variant const& variant : variants()) {
      SCOPED_TRACE(std::string(variant.name) + " " + wire);
      const Overrides holders{"optimizer.sharding=holders"};
      EXPECT_EQ(run(name(std::string(variant.name) + "_whole"),
                    common + variant.overrides + holders + Overrides{"sdp.coverage=1.0"}),
                dense);
      const auto unsharded = run(name(std::string(variant.name) + "0"), common + variant.overrides);
      EXPECT_EQ(run(name(std::string(variant.name) + "1"), common + variant.overrides + holders),
                unsharded);
    }
    const Overrides sgd{"optimizer.kind=sgd", "optimizer.lr=0.1"};
    EXPECT_EQ(run(name("sgd1"), common + sgd + Overrides{"optimizer.sharding=holders"}),
              run(name("sgd0"), common + sgd));
  }
}

TEST_F(Bf16, ContinuesFromACheckpointWithTheSameBits) {
  for (std::size_t i : {0u, 3u})
    for (char const* sharding : {"none", "holders"}) {
      const Variant variant = variants()[i];
      SCOPED_TRACE(std::string(variant.name) + " " + sharding);
      const std::string name = std::string(variant.name) + sharding;
      const Overrides common =
          in_bf16(variant.overrides) + Overrides{std::string("optimizer.sharding=") + sharding,
                                                 "checkpoint.every_steps=5", "checkpoint.keep=9",
                                                 "sdp.remask_every=3"};
      const auto straight = run(name, common);
      EXPECT_EQ(run(name + "_resumed",
                    common + Overrides{"checkpoint.resume=" + saved(name, 5).string()}),
                straight);
    }
}

TEST_F(Bf16, OtherPrecisionsContinueFromTheMasterWeights) {
  const Overrides few{"checkpoint.every_steps=5", "checkpoint.keep=9"};
  const auto straight = run("bf16", in_bf16(few));
  const Overrides resume{"checkpoint.resume=" + saved("bf16", 5).string()};
  const auto wide = run("fp32", Overrides{"run.precision=fp32"} + resume);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < wide.size(); ++i) {
    difference += (wide[i] - straight[i]) * (wide[i] - straight[i]);
    norm += straight[i] * straight[i];
  }
  EXPECT_GT(difference, 0.0);
  EXPECT_LT(std::sqrt(difference / norm), 0.05);
}

TEST_F(Bf16, CheckpointsHoldTheMasterWeightsAndEvaluateAsTheRunDid) {
  for (Variant const& variant : {variants()[0], variants()[2]}) {
    SCOPED_TRACE(variant.name);
    const auto master = run(variant.name, in_bf16(variant.overrides));
    const CheckpointReader reader(saved(variant.name, 12).string());
    EXPECT_FALSE(reader.info().is_double);
    std::size_t rounded = 0;
    for (double value : master) rounded += static_cast<float>(bf16(value)) == value ? 1 : 0;
    EXPECT_LT(rounded, master.size() / 4);

    const Config config = deck(m_world, "unused", in_bf16({}));
    const ParameterTable table(model_tensors(config.model));
    View1<bf16> stored("weights", table.size());
    load_weights(saved(variant.name, 12).string(), config.model, table, stored);
    const auto model = make_model<bf16>(config.model, ModelSubnetwork{table, table, {}},
                                        config.train.micro_batch, config.train.seq_len, false);
    DataSet data = tokens("val.bin", config.train.seq_len);
    const EvalResult result = evaluate(
        m_world, ExecSpace(), *model, stored,
        {data, config.train.global_batch, config.train.micro_batch, config.train.eval_batches});
    EXPECT_EQ(events(variant.name, "eval").back()["val_loss"].get<double>(), result.val_loss);
  }
}

TEST_F(Bf16, OtherWeightsAreTakenUpInFull) {
  // A run of one update that changes next to nothing keeps the fp32 weights that it started from.
  const auto first = run("first", Overrides{"run.precision=fp32"});
  for (char const* sharding : {"none", "holders"}) {
    const auto second =
        run(std::string("second") + sharding,
            in_bf16({"model.init_from=" + saved("first", 12).string(), "train.steps=1",
                     "optimizer.lr=1e-30", std::string("optimizer.sharding=") + sharding,
                     "schedule.warmup_steps=0"}));
    EXPECT_EQ(second, first);
  }
}

TEST_F(Bf16, GradientsCrossTheWireInHalfTheBytes) {
  for (char const* precision : {"fp32", "bf16"}) {
    const Overrides common{std::string("run.precision=") + precision};
    const std::string name = precision;
    const auto wide = run(name + "wide", common);
    const auto narrow = run(name + "narrow", common + Overrides{"system.gradient_wire=bf16"});
    if (m_world.size() == 1) {
      EXPECT_EQ(narrow, wide);
      continue;
    }
    EXPECT_NE(narrow, wide);
    EXPECT_EQ(2 * events(name + "narrow", "train").back()["sent_bytes"].get<double>(),
              events(name + "wide", "train").back()["sent_bytes"].get<double>());
    for (std::size_t i = 0; i < 4; ++i) {
      const double expected = events(name + "wide", "train")[i]["loss"];
      EXPECT_NEAR(events(name + "narrow", "train")[i]["loss"].get<double>(), expected,
                  0.01 * expected);
    }
    EXPECT_NEAR(summary(name + "narrow")["val_loss"].get<double>(),
                summary(name + "wide")["val_loss"].get<double>(), 0.05);
  }
}

TEST_F(Bf16, NodesOfTwoRanksShareHalfTheBytesToo) {
  if (m_world.size() < 4) GTEST_SKIP() << "needs two nodes";
  const Overrides common = in_bf16({"system.gradient_wire=bf16", "system.ranks_per_node=2"});
  const auto dense = run("dense", common);
  EXPECT_EQ(run("zero1", common + Overrides{"optimizer.sharding=holders"}), dense);
  for (Variant const& variant : variants()) {
    SCOPED_TRACE(variant.name);
    const std::string name = variant.name;
    EXPECT_EQ(run(name + "1", common + variant.overrides + Overrides{"optimizer.sharding=holders"}),
              run(name + "0", common + variant.overrides));
  }
}

TEST_F(Bf16, TheSameRunTwiceAndRecomputationGiveTheSameBits) {
  const auto once = run("once", in_bf16({}));
  EXPECT_EQ(run("twice", in_bf16({})), once);
  EXPECT_EQ(run("recomputed", in_bf16({"model.recompute=block"})), once);
}

}  // namespace
}  // namespace sdp
