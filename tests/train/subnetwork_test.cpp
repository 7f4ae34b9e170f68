// SPDX-License-Identifier: Apache-2.0
// Training with subnetworks against what must hold of every variant: a dense run, other ways to
// divide the same work, and finite differences.
#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/device_pool.hpp"
#include "comm/exchange.hpp"
#include "models/llama.hpp"
#include "tests/train/run_fixture.hpp"
#include "tests/train/variants.hpp"
#include "train/arrangement.hpp"
#include "train/evaluate.hpp"

namespace sdp {
namespace {

using test::Overrides;
using test::relative_difference;
using test::Variant;
using test::operator+;

constexpr auto k_variants = test::variants(4);

class Subnetworks : public test::RunFixture {
 protected:
  int ranks() const { return m_world.size(); }
  Overrides half() const { return test::half_of_the_units(ranks()); }

  std::filesystem::path last(std::string const& name) const {
    return out(name) / "checkpoints" / "step-00000012.h5";
  }
  /// The weights that a run of 12 updates ends with.
  std::vector<double> run(std::string const& name, Overrides const& overrides) {
    train(m_world, deck(m_world, name, overrides));
    m_world.barrier();
    return weights(last(name));
  }
  std::vector<nlohmann::json> events(std::string const& name, std::string const& kind) const {
    std::vector<nlohmann::json> list;
    std::ifstream file(out(name) / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      auto event = nlohmann::json::parse(line);
      if (event["event"] == kind) list.push_back(std::move(event));
    }
    return list;
  }
  nlohmann::json summary(std::string const& name) const {
    std::ifstream file(out(name) / "summary.json");
    return nlohmann::json::parse(file);
  }
  /// Every sample of the training set is the same.
  void write_uniform_data() const {
    if (m_world.is_root()) {
      std::vector<std::int32_t> header(256, 0);
      header[0] = 20240520;
      header[1] = 1;
      header[2] = 901;
      std::vector<std::uint16_t> tokens(901);
      for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = static_cast<std::uint16_t>((i % 9) * 7 + 3);
      std::ofstream file(m_folder / "train.bin", std::ios::binary);
      file.write(reinterpret_cast<char const*>(header.data()), 1024);
      file.write(reinterpret_cast<char const*>(tokens.data()), 2 * 901);
    }
    m_world.barrier();
  }
};

TEST_F(Subnetworks, FullCoverageHasTheBitsOfADenseRun) {
  const auto dense = run("dense", {});
  const auto losses = events("dense", "train");
  int number = 0;
  for (Variant const& variant : k_variants)
    for (std::string sharding : {"none", "holders"}) {
      SCOPED_TRACE(std::string(variant.regime) + " " + variant.level + " " + sharding);
      const std::string name = "full" + std::to_string(number++);
      EXPECT_EQ(run(name, variant.overrides() + half() +
                              Overrides{"sdp.coverage=1.0", "sdp.remask_every=5",
                                        "optimizer.sharding=" + sharding}),
                dense);
      const auto train = events(name, "train");
      ASSERT_EQ(train.size(), losses.size());
      for (std::size_t i = 0; i < train.size(); ++i)
        for (char const* key : {"loss", "grad_norm"}) EXPECT_EQ(train[i][key], losses[i][key]);
    }
  EXPECT_EQ(run("zero1", {"optimizer.sharding=holders"}), dense);
}

TEST_F(Subnetworks, FullCoverageWithMomentumHasTheBitsOfADenseRun) {
  const Overrides sgd{"optimizer.kind=sgd", "optimizer.lr=0.1", "optimizer.nesterov=true"};
  const auto dense = run("dense", sgd);
  for (Variant const& variant : k_variants)
    EXPECT_EQ(run(variant.name(), sgd + variant.overrides() + half() +
                                      Overrides{"sdp.coverage=1.0", "sdp.remask_every=5",
                                                "optimizer.sharding=holders"}),
              dense);
}

TEST_F(Subnetworks, ShardingChangesNoBits) {
  for (Variant const& variant : k_variants)
    for (Overrides const& kind : {Overrides{"optimizer.kind=adamw", "model.num_kv_heads=4"},
                                  Overrides{"optimizer.kind=sgd", "optimizer.lr=0.1"}}) {
      SCOPED_TRACE(std::string(variant.regime) + " " + variant.level + " " + kind[0]);
      const std::string name = variant.name() + kind[0].substr(15);
      const auto common = variant.overrides() + half() + kind;
      const auto unsharded = run(name + "0", common + Overrides{"optimizer.sharding=none"});
      EXPECT_EQ(run(name + "1", common + Overrides{"optimizer.sharding=holders"}), unsharded);
      EXPECT_TRUE(std::all_of(unsharded.begin(), unsharded.end(),
                              [](double value) { return std::isfinite(value); }));
    }
}

TEST_F(Subnetworks, BackwardMasksOnEqualBatchesTrainAsTheDenseModelInSinglePrecision) {
  write_uniform_data();
  const Overrides sgd{"run.precision=fp32", "optimizer.kind=sgd", "optimizer.lr=0.1"};
  const auto dense = run("dense", sgd);
  for (char const* level : {"block", "neuron"})
    EXPECT_LT(relative_difference(run(level, Variant{"backward", level}.overrides() + half() + sgd),
                                  dense),
              1e-6);
}

TEST_F(Subnetworks, BackwardMasksOnEqualBatchesTrainAsTheDenseModel) {
  // Every worker's gradient is the same, so the average over holders is the dense gradient whatever
  // the mask; a mask that changes hands over moments that are the dense run's, too.
  write_uniform_data();
  for (std::string kind : {"adamw", "sgd"}) {
    const Overrides optimizer{"optimizer.kind=" + kind,
                              std::string("model.num_kv_heads=") + (kind == "sgd" ? "4" : "2")};
    const auto dense = run("dense-" + kind, optimizer);
    for (char const* level : {"block", "neuron"})
      for (std::string sharding : {"none", "holders"})
        for (char const* remask : {"0", "5"}) {
          const Overrides overrides{"optimizer.sharding=" + sharding,
                                    std::string("sdp.remask_every=") + remask};
          const std::string name = kind + level + sharding + remask;
          SCOPED_TRACE(name);
          EXPECT_LT(relative_difference(run(name, Variant{"backward", level}.overrides() + half() +
                                                      optimizer + overrides),
                                        dense),
                    1e-11);
        }
  }
}

TEST_F(Subnetworks, StoppedAndResumedRunsAreBitIdentical) {
  for (Variant const& variant : k_variants)
    for (std::string sharding : {"none", "holders"}) {
      const auto common = variant.overrides() + half() +
                          Overrides{"optimizer.sharding=" + sharding, "sdp.remask_every=4",
                                    variant.regime[0] == variant.level[0] || sharding == "none"
                                        ? "optimizer.kind=adamw"
                                        : "optimizer.kind=sgd"};
      const std::string name = variant.name() + sharding;
      SCOPED_TRACE(name);
      const auto whole = run(name, common);
      // The schedule of 12 steps, stopped after 5.
      train(m_world, deck(m_world, name + "-parts",
                          common + Overrides{"checkpoint.every_steps=5", "checkpoint.keep=9"}));
      m_world.barrier();
      if (m_world.is_root()) {
        const auto folder = out(name + "-parts");
        std::filesystem::remove(folder / "summary.json");
        std::filesystem::remove(folder / "checkpoints" / "step-00000012.h5");
        std::filesystem::remove(folder / "checkpoints" / "step-00000010.h5");
        std::filesystem::remove(folder / "checkpoints" / "latest");
      }
      m_world.barrier();
      EXPECT_EQ(run(name + "-parts", common), whole);
    }
}

TEST_F(Subnetworks, RanksNeedNotBeAMultipleOfTheSubnetworks) {
  if (ranks() < 4) GTEST_SKIP() << "needs 4 ranks";
  for (Variant const& variant : k_variants) {
    const auto odd =
        variant.overrides() + Overrides{"sdp.subnetworks=3", "sdp.coverage=0.6666666666666666"};
    const std::string name = variant.name();
    EXPECT_EQ(run(name + "-odd", odd), run(name + "-again", odd)) << "twice the same run";
    const auto even = variant.overrides() + Overrides{"sdp.subnetworks=2", "sdp.coverage=0.5"};
    run(name + "-two", even + Overrides{"optimizer.sharding=holders"});
    EXPECT_EQ(summary(name + "-two")["subnetworks"], 2);
    EXPECT_EQ(summary(name + "-two")["rho"], 0.0) << "one holder of two: disconnected";
  }
}

TEST_F(Subnetworks, NodesChangeNoBitsWhereTheirSizeIsAPowerOfTwo) {
  if (ranks() < 4) GTEST_SKIP() << "needs 4 ranks";
  for (char const* placement : {"round_robin", "node_aligned"})
    for (Variant const& variant : k_variants) {
      SCOPED_TRACE(std::string(placement) + variant.regime + variant.level);
      const std::string name = std::string(placement) + variant.regime + variant.level;
      const auto common = variant.overrides() +
                          Overrides{"sdp.subnetworks=2", std::string("sdp.placement=") + placement,
                                    // A placement by nodes changes who holds what.
                                    placement[0] == 'r' ? "sdp.coverage=0.5" : "sdp.coverage=1.0"};
      const auto flat = run(name + "0", common + Overrides{"sdp.placement=round_robin"});
      EXPECT_EQ(run(name + "1", common + Overrides{"system.ranks_per_node=2"}), flat);
    }
}

TEST_F(Subnetworks, NodeMemoryChangesNoBits) {
  if (ranks() < 2) GTEST_SKIP() << "nobody to share memory with";
  // "on" must succeed wherever there is a place for shared memory.
  const std::string shared = access("/dev/shm", W_OK) == 0 ? "on" : "auto";
  for (char const* nodes : {"system.ranks_per_node=0", "system.ranks_per_node=2"})
    for (char const* sharding : {"optimizer.sharding=none", "optimizer.sharding=holders"})
      for (Variant const& variant : k_variants) {
        SCOPED_TRACE(std::string(nodes) + sharding + variant.regime + variant.level);
        const std::string name = std::string(nodes) + sharding + variant.regime + variant.level;
        const auto common =
            variant.overrides() + half() +
            Overrides{nodes, sharding, "system.bucket_mb=1", "optimizer.grad_clip=0.1"};
        const auto messages = run(name + "0", common + Overrides{"system.node_memory=off"});
        EXPECT_EQ(run(name + "1", common + Overrides{"system.node_memory=" + shared}), messages);
      }
}

/// Device builds cut the buffers of a worker from a pool, and others can.
TEST_F(Subnetworks, MemoryPoolChangesNoBits) {
  const bool was_in_use = device_pool::in_use();
  int number = 0;
  for (char const* sharding : {"optimizer.sharding=none", "optimizer.sharding=holders"})
    for (Variant const& variant : k_variants) {
      SCOPED_TRACE(std::string(sharding) + variant.regime + variant.level);
      const auto common =
          variant.overrides() + half() +
          Overrides{sharding, "sdp.remask_every=5", "train.eval_every=4", "system.node_memory=off"};
      const std::string name = "run" + std::to_string(number++);
      device_pool::use(false);
      const auto alone = run(name + "alone", common);
      device_pool::use(true);
      EXPECT_EQ(run(name + "pool", common), alone);
      device_pool::use(was_in_use);
      EXPECT_EQ(summary(name + "pool")["val_loss"], summary(name + "alone")["val_loss"]);
      for (char const* category : {"weights", "gradients", "optimizer", "activations"})
        EXPECT_NEAR(summary(name + "pool")["memory"][category]["measured"]["max"],
                    summary(name + "alone")["memory"][category]["measured"]["max"], 20000)
            << category;
      EXPECT_EQ(device_pool::usage().pieces, 0) << "something was not given back";
    }
}

TEST_F(Subnetworks, ProtectedBlocksAreHeldByAll) {
  if (ranks() < 2) GTEST_SKIP() << "needs 2 ranks";
  const auto all = half() + Variant{"forward", "block"}.overrides();
  run("none", all);
  run("first", all + Overrides{"sdp.protect_first=1"});
  EXPECT_GT(summary("first")["true_fraction"]["mean"], summary("none")["true_fraction"]["mean"]);
  run("both", all + Overrides{"sdp.protect_first=1", "sdp.protect_last=1"});
  EXPECT_EQ(summary("both")["true_fraction"]["min"], 1.0);
}

TEST_F(Subnetworks, ScalesAffectTrainingOnly) {
  if (ranks() < 2) GTEST_SKIP() << "needs 2 ranks";
  const auto common = half() + Variant{"forward", "neuron"}.overrides();
  const auto automatic = run("auto", common);
  EXPECT_EQ(run("inverse", common + Overrides{"sdp.forward_scale=inverse_keep"}), automatic);
  EXPECT_NE(run("unscaled", common + Overrides{"sdp.forward_scale=none"}), automatic);
  const auto blocks = half() + Variant{"forward", "block"}.overrides();
  EXPECT_EQ(run("block", blocks), run("block-none", blocks + Overrides{"sdp.forward_scale=none"}));
}

TEST_F(Subnetworks, MatchedFlopsStretchTheRun) {
  if (ranks() < 2) GTEST_SKIP() << "needs 2 ranks";
  const auto common = half() + Variant{"forward", "block"}.overrides();
  train(m_world, deck(m_world, "matched", common + Overrides{"train.match=flops"}));
  m_world.barrier();
  const auto result = summary("matched");
  const double share = result["flop_share"]["mean"];
  EXPECT_LT(share, 1.0);
  EXPECT_EQ(result["steps"], std::llround(12 / share));
  const Config config = deck(m_world, "unused", common + Overrides{"train.match=flops"});
  EXPECT_EQ(run_length(config, 0.5).steps, 24);
  EXPECT_EQ(run_length(config, 0.5).schedule.warmup_steps, 8);
}

TEST_F(Subnetworks, TheMaskOfARunIsWrittenAndCanBeLoaded) {
  if (ranks() < 2) GTEST_SKIP() << "needs 2 ranks";
  const auto common = half() + Variant{"forward", "neuron"}.overrides();
  const auto first = run("first", common + Overrides{"sdp.mask_seed=77"});
  const std::string file = (out("first") / "mask.json").string();
  ASSERT_TRUE(std::filesystem::exists(file));
  EXPECT_EQ(run("second", common + Overrides{"sdp.mask_file=" + file}), first);
  EXPECT_THROW(train(m_world, deck(m_world, "third",
                                   common + Overrides{"sdp.mask_file=" + file, "sdp.level=block"})),
               ConfigError);
  EXPECT_FALSE(std::filesystem::exists(out("third")));
}

TEST_F(Subnetworks, SummaryComparesPredictionsWithMeasurements) {
  for (Variant const& variant : k_variants)
    for (std::string sharding : {"none", "holders"}) {
      const std::string name = variant.name() + sharding;
      SCOPED_TRACE(name);
      memory_ledger::reset_peaks();
      run(name, variant.overrides() + half() + Overrides{"optimizer.sharding=" + sharding});
      const auto s = summary(name);
      for (char const* category : {"weights", "gradients", "optimizer"}) {
        const double predicted = s["memory"][category]["predicted"];
        EXPECT_EQ(predicted, s["memory"][category]["measured"]["mean"]) << category;
      }
      const double predicted = s["sent_bytes_per_step"]["predicted"];
      EXPECT_EQ(predicted, s["sent_bytes_per_step"]["measured"]);
      if (ranks() > 1) {
        EXPECT_GT(predicted, 0);
        EXPECT_LT(s["true_fraction"]["mean"], 1.0);
        EXPECT_LT(s["flop_share"]["mean"], 1.0);
      }
    }
}

TEST_F(Subnetworks, ValidationIsOfTheMergedModel) {
  for (Variant const& variant : k_variants) {
    const std::string name = variant.name();
    SCOPED_TRACE(name);
    run(name, variant.overrides() + half() + Overrides{"train.eval_batches=5"});
    const auto evaluation = events(name, "eval").at(0);
    EXPECT_EQ(evaluation.contains("ensemble_loss"), variant.is_forward());

    const Config config = deck(m_self, "unused");
    const ParameterTable table(llama_tensors(config.model.llama));
    View1<double> weights("weights", table.size());
    CheckpointReader(last(name).string()).read(k_group_model, table, weights);
    Llama<double> model(config.model.llama, table, 1, 9, Recompute::none, false);
    DataSet data = tokens("val.bin", 9);
    const EvalResult alone = evaluate<double>(m_self, ExecSpace(), model, weights, {data, 8, 1, 5});
    const double val_loss = evaluation["val_loss"];
    EXPECT_NEAR(val_loss, alone.val_loss, 1e-13 * alone.val_loss);
    if (variant.is_forward() && ranks() > 1) {
      EXPECT_NE(evaluation["ensemble_loss"].get<double>(), val_loss);
    }
  }
}

/// Mean over the ranks of the loss at their masked weights, everything at the same batch per rank.
class Objective {
 public:
  Objective(World const& world, Config const& config, Arrangement const& arrangement)
      : m_world(world),
        m_subnetwork(arrangement.subnetwork(world.worker())),
        m_model(config.model.llama, m_subnetwork, 1, 9, Recompute::none, true),
        m_tokens("tokens", 1, 9),
        m_targets("targets", 1, 9),
        m_losses("losses", 9) {
    for (int i = 0; i < 9; ++i) {
      m_tokens(0, i) = (5 * i + 11 * world.rank()) % 97;
      m_targets(0, i) = (7 * i + 3 * world.rank() + 1) % 97;
    }
  }

  double value(View1<double> const& weights) {
    m_model.forward(m_exec, weights, m_tokens);
    m_model.loss(m_exec, weights, m_targets, m_losses);
    double sum = 0;
    for (int i = 0; i < 9; ++i) sum += m_losses(i);
    return m_world.sum(sum / 9) / m_world.size();
  }

  void gradient(View1<double> const& weights, View1<double> const& grads) {
    m_model.forward(m_exec, weights, m_tokens);
    m_model.loss_backward(m_exec, weights, m_targets, 1.0 / 9, false, grads, m_losses);
    m_model.backward(m_exec, weights, m_tokens, false, grads, nullptr);
  }

  ModelSubnetwork const& subnetwork() const { return m_subnetwork; }

 private:
  World const& m_world;
  ModelSubnetwork m_subnetwork;
  ExecSpace m_exec;
  Llama<double> m_model;
  View2<std::int32_t> m_tokens, m_targets;
  View1<double> m_losses;
};

TEST_F(Subnetworks, ForwardGradientsArePreconditionedEnsembleGradients) {
  if (ranks() < 2) GTEST_SKIP() << "needs 2 ranks";
  for (char const* level : {"block", "neuron"}) {
    SCOPED_TRACE(level);
    const Config config = deck(m_world, "unused", Variant{"forward", level}.overrides() + half());
    const Arrangement arrangement = arrange(config, ranks(), ranks());
    Objective objective(m_world, config, arrangement);
    ParameterTable const& table = objective.subnetwork().weights;
    const ExecSpace exec;
    const auto weights = initial<double>(exec, table, 5);
    View1<double> grads("grads", table.size());
    objective.gradient(weights, grads);
    Exchange<double> exchange(m_world, arrangement.schedule(m_world.worker()));
    exchange.begin(grads);
    exchange.finish();

    // Every 37th element of the logical model, on whichever ranks hold it.
    std::vector<index_t> first{0};
    for (TensorSpec const& tensor : table.tensors()) first.push_back(first.back() + tensor.size());
    for (index_t element = 0; element < first.back(); element += 37) {
      index_t flat = -1;
      for (Span const& span : table.spans()) {
        const index_t cols = table.tensors()[static_cast<std::size_t>(span.tensor)].cols;
        const index_t begin = first[static_cast<std::size_t>(span.tensor)] + span.row_begin * cols;
        if (element >= begin && element < begin + span.rows * cols)
          flat = span.offset + element - begin;
      }
      const double holders = m_world.sum(flat >= 0 ? 1.0 : 0.0);
      const double exchanged = m_world.max(flat >= 0 ? grads(flat) : -1e300);
      constexpr double k_step = 2e-5;
      double values[2];
      for (int side : {0, 1}) {
        const double sign = side == 0 ? -1.0 : 1.0;
        if (flat >= 0) weights(flat) += sign * k_step;
        values[side] = objective.value(weights);
        if (flat >= 0) weights(flat) -= sign * k_step;
      }
      const double derivative = (values[1] - values[0]) / (2 * k_step);
      EXPECT_NEAR(exchanged, ranks() / holders * derivative, 2e-8) << "element " << element;
    }
  }
}

}  // namespace
}  // namespace sdp
