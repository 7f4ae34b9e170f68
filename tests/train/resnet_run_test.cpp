// SPDX-License-Identifier: Apache-2.0
// Runs of a narrow ResNet-18 in all variants, against what must hold of every one of them.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/resnet.hpp"
#include "tests/train/image_fixture.hpp"
#include "tests/train/variants.hpp"
#include "train/batches.hpp"
#include "train/evaluate.hpp"
#include "train/inputs.hpp"
#include "train/run_setup.hpp"

namespace sdp {
namespace {

using test::Overrides;
using test::relative_difference;
using test::Variant;
using test::operator+;

constexpr auto k_variants = test::variants(1);

class ResnetRun : public test::ImageFixture {
 protected:
  int ranks() const { return m_world.size(); }
  Overrides half() const { return test::half_of_the_units(ranks()); }
  std::filesystem::path last(std::string const& name) const {
    return out(name) / "checkpoints" / "step-00000005.h5";
  }
  std::vector<double> run(std::string const& name, Overrides const& overrides) {
    train(m_world, images(m_world, name, overrides));
    m_world.barrier();
    return weights(last(name));
  }
  nlohmann::json evaluation(std::string const& name) const {
    std::ifstream file(out(name) / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      auto event = nlohmann::json::parse(line);
      if (event["event"] == "eval") return event;
    }
    return {};
  }
};

TEST_F(ResnetRun, LearnsAndReportsAccuracy) {
  run("dense", {"train.steps=5"});
  const auto result = evaluation("dense");
  EXPECT_EQ(result.contains("val_accuracy_no_recalibration"), false);
  const double accuracy = result["val_accuracy"];
  EXPECT_NEAR(accuracy * 21, std::round(accuracy * 21), 1e-9);
  std::ifstream file(out("dense") / "metrics.jsonl");
  std::vector<double> losses;
  for (std::string line; std::getline(file, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] != "train") continue;
    losses.push_back(event["loss"]);
    EXPECT_GT(event["images_per_s"].get<double>(), 0.0);
    EXPECT_FALSE(event.contains("tokens_per_s"));
  }
  std::ifstream summary_file(out("dense") / "summary.json");
  const auto memory = nlohmann::json::parse(summary_file)["memory"];
  for (char const* category : {"weights", "gradients", "optimizer", "activations"})
    EXPECT_EQ(memory[category]["predicted"], memory[category]["measured"]["mean"]) << category;
  ASSERT_EQ(losses.size(), 5u);
  EXPECT_LT(losses.back(), losses.front());
}

TEST_F(ResnetRun, RanksAgreeWithOneRankAtTheSameMicroBatches) {
  const auto many = run("many", {});
  train(m_self, images(m_self, "alone" + std::to_string(m_world.rank()), {}));
  const auto one = weights(last("alone" + std::to_string(m_world.rank())));
  // Statistics differ: those of ranks are averaged, those of one rank's batches follow each other.
  EXPECT_LE(relative_difference(parameters(many), parameters(one)), 1e-11);
}

TEST_F(ResnetRun, FullCoverageHasTheBitsOfADenseRun) {
  const auto dense = run("dense", {});
  for (Variant const& variant : k_variants)
    for (char const* sharding : {"none", "holders"}) {
      const std::string name = variant.name() + sharding;
      SCOPED_TRACE(name);
      EXPECT_EQ(
          run(name, variant.overrides() + Overrides{std::string("optimizer.sharding=") + sharding}),
          dense);
    }
}

TEST_F(ResnetRun, ShardingChangesNoBits) {
  for (Variant const& variant : k_variants) {
    const std::string name = variant.name();
    SCOPED_TRACE(name);
    EXPECT_EQ(run(name, variant.overrides() + half()),
              run(name + "sharded",
                  variant.overrides() + half() + Overrides{"optimizer.sharding=holders"}));
  }
}

TEST_F(ResnetRun, BackwardMasksOnEqualBatchesTrainAsTheDenseModel) {
  const Overrides same{"data.train=[\"" + (m_folder / "same_batch.bin").string() + "\"]"};
  const auto dense = run("dense", same);
  for (Variant const& variant : k_variants) {
    if (variant.is_forward()) continue;
    const auto masked = run(variant.level, variant.overrides() + half() + same);
    EXPECT_LE(relative_difference(masked, dense), 1e-11);
  }
}

TEST_F(ResnetRun, StoppedAndResumedRunsAreBitIdentical) {
  for (Variant const& variant : k_variants) {
    const std::string name = variant.name();
    SCOPED_TRACE(name);
    const Overrides overrides = variant.overrides() + half() + Overrides{"data.augment=true"};
    const auto whole = run(name, overrides);
    // The same schedule, stopped after two updates.
    train(m_world, images(m_world, name + "stopped",
                          overrides + Overrides{"checkpoint.every_steps=2", "checkpoint.keep=5"}));
    m_world.barrier();
    if (m_world.is_root()) {
      const auto folder = out(name + "stopped");
      std::filesystem::remove(folder / "summary.json");
      for (char const* step : {"step-00000004.h5", "step-00000005.h5", "latest"})
        std::filesystem::remove(folder / "checkpoints" / step);
    }
    m_world.barrier();
    EXPECT_EQ(run(name + "stopped", overrides), whole);
  }
}

TEST_F(ResnetRun, ValidationIsOfTheMergedModelRecalibratedOnTheTrainingBatches) {
  for (Variant const& variant : k_variants) {
    const std::string name = variant.name();
    SCOPED_TRACE(name);
    run(name, variant.overrides() + half());
    const auto found = evaluation(name);
    const Config config = images(m_self, "unused", {});
    const ParameterTable table(resnet_tensors(config.model.resnet));
    View1<double> weights("weights", table.size());
    CheckpointReader(last(name).string()).read(k_group_model, table, weights);
    Resnet<double> model(config.model.resnet, {table, table, {}}, 1, false);
    DataSets data = open_data(m_self, config, true);
    const EvalScope scope{*data.val, 8, 1, 0};
    const ExecSpace exec;
    const EvalResult plain = evaluate<double>(m_self, exec, model, weights, scope);
    if (!variant.is_forward()) {
      EXPECT_NEAR(found["val_loss"], plain.val_loss, 1e-12 * plain.val_loss);
      EXPECT_EQ(found["val_accuracy"].get<double>(), *plain.accuracy);
      EXPECT_FALSE(found.contains("ensemble_loss"));
      continue;
    }
    EXPECT_TRUE(found.contains("ensemble_loss"));
    EXPECT_EQ(found["val_accuracy_no_recalibration"].get<double>(), *plain.accuracy);
    TrainBatches<double> batches(*data.train, config, batch_plan(config, 1, 0));
    int number = 0;
    for (int update = 0; update < 2; ++update)
      for (index_t m = 0; m < 8; ++m) {
        batches.read(update, m);
        model.recalibrate(exec, weights, batches.upload(exec).images, ++number);
      }
    model.take_statistics(exec, weights);
    const EvalResult recalibrated = evaluate<double>(m_self, exec, model, weights, scope);
    EXPECT_NEAR(found["val_loss"], recalibrated.val_loss, 1e-10 * recalibrated.val_loss);
    EXPECT_EQ(found["val_accuracy"].get<double>(), *recalibrated.accuracy);
    EXPECT_NE(recalibrated.val_loss, plain.val_loss);
  }
}

}  // namespace
}  // namespace sdp
