// SPDX-License-Identifier: Apache-2.0
// A ResNet-18 trained in bf16 beside fp32: the same curve, running statistics that are exact in
// fp32 whatever is stored of them, and every invariant of the other precisions.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/model.hpp"
#include "tests/train/image_fixture.hpp"
#include "tests/train/variants.hpp"
#include "train/evaluate.hpp"
#include "train/inputs.hpp"

namespace sdp {
namespace {

using kernels::bf16;
using nlohmann::json;
using test::Overrides;
using test::relative_difference;
using test::Variant;
using test::operator+;

constexpr auto k_variants = test::variants(1);

class ResnetBf16 : public test::ImageFixture {
 protected:
  Overrides half() const { return test::half_of_the_units(m_world.size()); }
  std::filesystem::path saved(std::string const& name, std::int64_t step) const {
    return out(name) / "checkpoints" / fmt::format("step-{:08}.h5", step);
  }
  Config deck_of(std::string const& name, Overrides const& overrides) const {
    return images(m_world, name, Overrides{"run.precision=bf16"} + overrides);
  }
  /// The master weights, and running statistics, that a run ends with.
  std::vector<double> run(std::string const& name, Overrides const& overrides) const {
    const Config config = deck_of(name, overrides);
    train(m_world, config);
    m_world.barrier();
    return weights(saved(name, config.train.steps));
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
  /// Mean losses of each 20 of 200 updates.
  std::vector<double> curve(std::string const& name, Overrides const& overrides) const {
    run(name, Overrides{"train.steps=200", "train.global_batch=16",
                        "train.micro_batch=" + std::to_string(std::min(8, 16 / m_world.size())),
                        "schedule.warmup_steps=20", "optimizer.lr=5e-4",
                        "data.train=[\"" + (m_folder / "noisy_batch.bin").string() + "\"]"} +
                  overrides);
    std::vector<double> losses(10, 0.0);
    const auto all = events(name, "train");
    EXPECT_EQ(all.size(), 200u);
    for (std::size_t i = 0; i < all.size(); ++i)
      losses[i / 20] += all[i]["loss"].get<double>() / 20.0;
    return losses;
  }
};

TEST_F(ResnetBf16, LossCurveOver200UpdatesIsThatOfFp32WithinOnePercent) {
  if (m_world.is_root()) write_images("noisy_batch.bin", 1600, false, 4);
  m_world.barrier();
  // More than one rank train subnetworks.
  const Overrides overrides =
      m_world.size() == 1 ? Overrides{} : k_variants[1].overrides() + half();
  const auto narrow = curve("bf16", overrides);
  const auto wide = curve("fp32", Overrides{"run.precision=fp32"} + overrides);
  EXPECT_LT(wide.back(), 0.8 * wide.front());
  EXPECT_NE(narrow, wide);
  for (std::size_t i = 0; i < wide.size(); ++i)
    EXPECT_NEAR(narrow[i], wide[i], 0.01 * wide[i]) << i;
}

TEST_F(ResnetBf16, RunningStatisticsMoveInFp32OnEveryHolder) {
  // One image again and again, and weights that stay where they are: n updates leave the part
  // 0.9^n of the first statistics. Stored in bf16, they would stop some percents away from there.
  const Overrides still{"data.train=[\"" + (m_folder / "same_batch.bin").string() + "\"]",
                        "optimizer.lr=1e-30",
                        "schedule.warmup_steps=0",
                        "optimizer.weight_decay=0.0",
                        "train.global_batch=" + std::to_string(m_world.size()),
                        "optimizer.sharding=holders",
                        "data.val=[]"};
  for (Variant const& variant : k_variants) {
    const std::string name = variant.name();
    SCOPED_TRACE(name);
    const Overrides overrides = still + variant.overrides() + half();
    const auto one = run(name + "1", overrides + Overrides{"train.steps=1"});
    const auto many = run(name + "30", overrides + Overrides{"train.steps=30"});
    EXPECT_LE(relative_difference(parameters(many), parameters(one)), 1e-12);
    const auto first = statistics(one), last = statistics(many);
    std::size_t at = 0;
    for (TensorSpec const& tensor : model_tensors(deck_of("unused", {}).model)) {
      if (!tensor.statistic) continue;
      const double start = tensor.init == Init::ones ? 1.0 : 0.0;
      for (index_t i = 0; i < tensor.size(); ++i, ++at) {
        const double batch = (first[at] - 0.9 * start) / 0.1;
        const double expected = batch + std::pow(0.9, 30) * (start - batch);
        ASSERT_NEAR(last[at], expected, 1e-5 * std::max(1.0, std::abs(expected)))
            << tensor.name << " " << i;
      }
    }
  }
}

TEST_F(ResnetBf16, ShardingAndFullCoverageChangeNoBits) {
  for (char const* wire : {"fp32", "bf16"}) {
    const Overrides common{std::string("system.gradient_wire=") + wire};
    const Overrides holders{"optimizer.sharding=holders"};
    const auto name = [&](std::string const& what) { return what + "_" + wire; };
    const auto dense = run(name("dense"), common);
    EXPECT_EQ(run(name("zero1"), common + holders), dense);
    for (Variant const& variant : k_variants) {
      SCOPED_TRACE(variant.name() + " " + wire);
      EXPECT_EQ(run(name(variant.name() + "_whole"),
                    common + variant.overrides() + holders + Overrides{"sdp.coverage=1.0"}),
                dense);
      EXPECT_EQ(run(name(variant.name() + "1"), common + variant.overrides() + half() + holders),
                run(name(variant.name() + "0"), common + variant.overrides() + half()));
    }
  }
}

TEST_F(ResnetBf16, ContinuesFromACheckpointWithTheSameBits) {
  for (Variant const& variant : k_variants)
    for (char const* sharding : {"none", "holders"}) {
      const std::string name = variant.name() + sharding;
      SCOPED_TRACE(name);
      const Overrides common =
          variant.overrides() + half() +
          Overrides{std::string("optimizer.sharding=") + sharding, "checkpoint.every_steps=2",
                    "checkpoint.keep=9", "sdp.remask_every=3", "data.augment=true"};
      const auto straight = run(name, common);
      EXPECT_EQ(run(name + "_resumed",
                    common + Overrides{"checkpoint.resume=" + saved(name, 2).string()}),
                straight);
    }
}

TEST_F(ResnetBf16, RanksAddTheGradientsOfOneRank) {
  const Overrides one{"train.steps=1", "schedule.warmup_steps=0"};
  const auto many = run("many", one);
  const std::string alone = "alone" + std::to_string(m_world.rank());
  train(m_self, images(m_self, alone, Overrides{"run.precision=bf16"} + one));
  EXPECT_LE(relative_difference(parameters(many), parameters(weights(saved(alone, 1)))), 1e-6);
}

TEST_F(ResnetBf16, CheckpointsHoldTheMasterWeightsAndEvaluateAsTheRunDid) {
  for (Variant const& variant : k_variants) {
    const std::string name = variant.name();
    SCOPED_TRACE(name);
    const auto master = run(name, variant.overrides() + half());
    for (auto const& values : {parameters(master), statistics(master)}) {
      std::size_t rounded = 0;
      for (double value : values) rounded += static_cast<float>(bf16(value)) == value ? 1 : 0;
      EXPECT_LT(rounded, values.size() / 4);
    }
    const Config config = deck_of("unused", {});
    const ParameterTable table(model_tensors(config.model));
    View1<bf16> stored("weights", table.size());
    load_weights(saved(name, 5).string(), config.model, table, stored);
    const auto model =
        make_model<bf16>(config.model, ModelSubnetwork{table, table, {}}, 1, 0, false);
    DataSets data = open_data(m_world, config, false);
    const EvalResult result =
        evaluate<bf16>(m_world, ExecSpace(), *model, stored, {*data.val, 8, 1, 0});
    const json found = events(name, "eval").back();
    if (variant.is_forward()) {
      EXPECT_EQ(found["val_accuracy_no_recalibration"].get<double>(), *result.accuracy);
      EXPECT_NE(found["val_loss"].get<double>(), result.val_loss);
    } else {
      EXPECT_EQ(found["val_loss"].get<double>(), result.val_loss);
      EXPECT_EQ(found["val_accuracy"].get<double>(), *result.accuracy);
    }
  }
}

TEST_F(ResnetBf16, MemoryIsAsPlanned) {
  run("dense", {});
  std::ifstream file(out("dense") / "summary.json");
  const json memory = json::parse(file)["memory"];
  for (char const* category : {"weights", "gradients", "optimizer", "activations"})
    EXPECT_NEAR(memory[category]["predicted"], memory[category]["measured"]["mean"].get<double>(),
                8.0)  // an allocation of bf16 may end inside of 8 bytes
        << category;
}

TEST_F(ResnetBf16, RecalibrationFollowsFp32) {
  const Overrides mask = k_variants[1].overrides() + half() + Overrides{"train.bn_batches=3"};
  run("bf16", mask);
  run("fp32", mask + Overrides{"run.precision=fp32"});
  const double expected = events("fp32", "eval").back()["val_loss"];
  EXPECT_NEAR(events("bf16", "eval").back()["val_loss"].get<double>(), expected, 0.02 * expected);
}

}  // namespace
}  // namespace sdp
