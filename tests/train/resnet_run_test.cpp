// SPDX-License-Identifier: Apache-2.0
// Runs of a narrow ResNet-18 in all variants, against what must hold of every one of them.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/resnet.hpp"
#include "tests/train/run_fixture.hpp"
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

/// Runs of 5 updates of 8 images, one image at a time.
class ResnetRun : public test::RunFixture {
 protected:
  static constexpr int k_labels = 3;

  void SetUp() override {
    RunFixture::SetUp();
    if (m_world.is_root()) {
      write_images("train_batch.bin", 48, false);
      write_images("same_batch.bin", 48, true);
      write_images("test_batch.bin", 21, false);
    }
    m_world.barrier();
  }
  /// CIFAR-10 records in which the label shows as brightness; or one image again and again.
  void write_images(std::string const& name, int count, bool same) const {
    std::ofstream file(m_folder / name, std::ios::binary);
    std::uint32_t state = 12345;
    std::vector<char> first;
    for (int i = 0; i < count; ++i) {
      std::vector<char> record(3073);
      const int label = i % k_labels;
      record[0] = static_cast<char>(label);
      for (std::size_t p = 1; p < record.size(); ++p) {
        state = state * 1664525u + 1013904223u;
        record[p] = static_cast<char>(static_cast<int>(state >> 25) + 60 * label);
      }
      if (first.empty()) first = record;
      file.write(same ? first.data() : record.data(), 3073);
    }
  }
  Config images(World const& world, std::string const& out, Overrides const& overrides) const {
    const std::string text = fmt::format(R"(
[run]
out_dir = "{0}/{1}"
precision = "fp64"
[model]
kind = "resnet18"
width = 4
[data]
kind = "cifar10"
train = ["{0}/train_batch.bin"]
val = ["{0}/test_batch.bin"]
augment = false
[train]
steps = 5
global_batch = 8
micro_batch = 1
bn_batches = 2
log_every = 1
[optimizer]
lr = 0.05
[schedule]
warmup_steps = 2
)",
                                         m_folder.string(), out);
    Launch launch;
    launch.ranks = world.size();
    return parse_deck(text, "test deck", overrides, launch);
  }

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
  /// The parameters among weights(), without running statistics.
  std::vector<double> parameters(std::vector<double> const& all) const {
    std::vector<double> kept;
    std::size_t at = 0;
    for (TensorSpec const& tensor : resnet_tensors(images(m_self, "unused", {}).model.resnet)) {
      const auto size = static_cast<std::size_t>(tensor.size());
      if (!tensor.statistic) kept.insert(kept.end(), &all[at], &all[at] + size);
      at += size;
    }
    return kept;
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
