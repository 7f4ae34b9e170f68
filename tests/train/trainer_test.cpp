// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.hpp"

#include <gmock/gmock.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "tests/train/run_fixture.hpp"

namespace sdp {
namespace {

using nlohmann::json;

class Trainer : public test::RunFixture {
 protected:
  std::vector<json> metrics(std::string const& run) const {
    std::ifstream file(out(run) / "metrics.jsonl");
    std::vector<json> records;
    for (std::string line; std::getline(file, line);) records.push_back(json::parse(line));
    return records;
  }
  std::vector<json> metrics(std::string const& run, std::string const& event) const {
    std::vector<json> chosen;
    for (json const& record : metrics(run))
      if (record["event"] == event) chosen.push_back(record);
    return chosen;
  }
  std::vector<double> final_weights(std::string const& run) const {
    return weights(out(run) / "checkpoints/step-00000012.h5");
  }
  template <class F>
  void expect_error(ExitCode code, std::string const& part, F&& f) const {
    try {
      f();
      ADD_FAILURE() << "no error";
    } catch (Error const& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), ::testing::HasSubstr(part));
      EXPECT_TRUE(m_world.size() == 1 || error.agreed());
    }
  }
};

TEST_F(Trainer, LearnsAndWritesEverythingARunWrites) {
  EXPECT_EQ(train(m_world, deck(m_world, "a", {"train.eval_every=6"})), TrainEnd::finished);
  const auto updates = metrics("a", "train");
  ASSERT_EQ(updates.size(), 4u);
  EXPECT_EQ(updates[0]["step"], 3);
  EXPECT_NEAR(updates[0]["loss"].get<double>(), std::log(97.0), 0.1);
  EXPECT_LT(updates[3]["loss"].get<double>(), updates[0]["loss"].get<double>());
  EXPECT_EQ(updates[3]["samples"], 96);
  EXPECT_EQ(updates[3]["tokens"], 96 * 9);
  EXPECT_DOUBLE_EQ(updates[0]["lr"].get<double>(), 0.01 * 3 / 4);
  for (char const* key : {"grad_norm", "step_ms", "forward_ms", "backward_ms", "exchange_ms",
                          "optimizer_ms", "tokens_per_s", "mem_peak_bytes"})
    EXPECT_TRUE(updates[0][key].is_number()) << key;
  EXPECT_TRUE(updates[0]["mfu"].is_null());
  EXPECT_EQ(metrics("a", "eval").size(), 2u);
  EXPECT_EQ(metrics("a", "checkpoint").size(), 1u);

  std::ifstream file(out("a") / "summary.json");
  const json summary = json::parse(file);
  EXPECT_EQ(summary["steps"], 12);
  EXPECT_EQ(summary["val_loss"], metrics("a", "eval")[1]["val_loss"]);
  EXPECT_LE(summary["best_val_loss"], summary["val_loss"]);
  const double n = summary["parameters"];
  for (char const* category : {"weights", "gradients", "optimizer"}) {
    auto const& memory = summary["memory"][category];
    EXPECT_EQ(memory["predicted"], n * 8 * (category == std::string("optimizer") ? 2 : 1));
    EXPECT_NEAR(memory["measured"]["max"].get<double>(), memory["predicted"].get<double>(),
                0.02 * memory["predicted"].get<double>() + 4096);
  }
  const double ranks = m_world.size();
  EXPECT_NEAR(summary["sent_bytes_per_step"]["measured"].get<double>(), 2 * (1 - 1 / ranks) * n * 8,
              0.01 * n * 8);
  EXPECT_EQ(updates[3]["sent_bytes"], updates[3]["recv_bytes"]);

  Launch launch;
  launch.ranks = m_world.size();
  const std::string resolved = read_deck((out("a") / "config.toml").string());
  EXPECT_EQ(parse_deck(resolved, "config.toml", {}, launch),
            deck(m_world, "a", {"train.eval_every=6"}));
  std::ifstream latest(out("a") / "checkpoints/latest");
  std::string name;
  std::getline(latest, name);
  EXPECT_EQ(name, "step-00000012.h5");
}

TEST_F(Trainer, AnyRankCountGivesTheResultOfOneRank) {
  train(m_world, deck(m_world, "many"));
  if (m_world.is_root()) train(m_self, deck(m_self, "one"));
  m_world.barrier();
  const auto many = final_weights("many"), one = final_weights("one");
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    difference += (many[i] - one[i]) * (many[i] - one[i]);
    norm += one[i] * one[i];
  }
  EXPECT_LE(std::sqrt(difference / norm), 1e-12);
  const auto a = metrics("many", "train"), b = metrics("one", "train");
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i]["loss"].get<double>(), b[i]["loss"].get<double>(), 1e-12);
    EXPECT_NEAR(a[i]["grad_norm"].get<double>(), b[i]["grad_norm"].get<double>(), 1e-11);
  }
  EXPECT_NEAR(metrics("many", "eval")[0]["val_loss"].get<double>(),
              metrics("one", "eval")[0]["val_loss"].get<double>(), 1e-12);
}

TEST_F(Trainer, MicroBatchesDoNotChangeTheResult) {
  train(m_world, deck(m_world, "ones"));
  train(m_world,
        deck(m_world, "whole", {"train.micro_batch=" + std::to_string(8 / m_world.size())}));
  const auto ones = final_weights("ones"), whole = final_weights("whole");
  for (std::size_t i = 0; i < ones.size(); ++i) ASSERT_NEAR(ones[i], whole[i], 1e-10);
}

TEST_F(Trainer, TheSameRunTwiceIsBitIdenticalAndRecomputationChangesNothing) {
  const std::vector<std::string> fp32 = {"run.precision=fp32"};
  train(m_world, deck(m_world, "a", fp32));
  train(m_world, deck(m_world, "b", fp32));
  train(m_world, deck(m_world, "c", {"run.precision=fp32", "model.recompute=block"}));
  EXPECT_EQ(final_weights("a"), final_weights("b"));
  EXPECT_EQ(final_weights("a"), final_weights("c"));
}

TEST_F(Trainer, AllReduceAgreesToRounding) {
  train(m_world, deck(m_world, "a"));
  train(m_world, deck(m_world, "b", {"system.reduction=allreduce"}));
  const auto a = final_weights("a"), b = final_weights("b");
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-10);
}

TEST_F(Trainer, ResumesBitIdenticallyFromACheckpoint) {
  train(m_world, deck(m_world, "straight"));
  train(m_world, deck(m_world, "cut", {"checkpoint.every_steps=5", "checkpoint.keep=9"}));
  m_world.barrier();
  if (m_world.is_root()) {
    std::filesystem::remove(out("cut") / "checkpoints/step-00000012.h5");
    std::filesystem::remove(out("cut") / "checkpoints/step-00000010.h5");
  }
  m_world.barrier();
  EXPECT_EQ(train(m_world, deck(m_world, "cut")), TrainEnd::finished);
  EXPECT_EQ(final_weights("straight"), final_weights("cut"));
  std::vector<int> steps;
  for (json const& record : metrics("cut", "train")) steps.push_back(record["step"]);
  EXPECT_THAT(steps, ::testing::ElementsAre(3, 6, 9, 12));
}

TEST_F(Trainer, AFinishedRunIsLeftAloneAndAUsedFolderCanBeRefused) {
  train(m_world, deck(m_world, "a"));
  const auto before = std::filesystem::last_write_time(out("a") / "summary.json");
  m_world.barrier();
  EXPECT_EQ(train(m_world, deck(m_world, "a")), TrainEnd::finished);
  EXPECT_EQ(std::filesystem::last_write_time(out("a") / "summary.json"), before);
  expect_error(ExitCode::usage, "checkpoint.resume is \"never\"",
               [&] { train(m_world, deck(m_world, "a", {"checkpoint.resume=never"})); });
  expect_error(ExitCode::usage, "run.seed differs", [&] {
    train(m_world, deck(m_world, "a", {"run.seed=2", "train.steps=20"}));
  });
}

TEST_F(Trainer, AFinishedRunIsKnownWithoutACheckpointAndEvaluatedAgainWithoutASummary) {
  train(m_world, deck(m_world, "bare", {"checkpoint.at_end=false"}));
  const auto lines = metrics("bare").size();
  EXPECT_EQ(train(m_world, deck(m_world, "bare", {"checkpoint.at_end=false"})), TrainEnd::finished);
  EXPECT_EQ(metrics("bare").size(), lines);

  train(m_world, deck(m_world, "a"));
  m_world.barrier();
  if (m_world.is_root()) std::filesystem::remove(out("a") / "summary.json");
  m_world.barrier();
  train(m_world, deck(m_world, "a"));
  std::ifstream file(out("a") / "summary.json");
  const json summary = json::parse(file);
  EXPECT_EQ(summary["val_loss"], metrics("a", "eval")[0]["val_loss"]);
  EXPECT_TRUE(summary["step_ms"].is_null());
  EXPECT_EQ(summary["checkpoints"].size(), 1u);
}

TEST_F(Trainer, TrainingDataCannotChangeOnResume) {
  train(m_world, deck(m_world, "a"));
  m_world.barrier();
  if (m_world.is_root()) write_shard("train.bin", 3100, 1);
  m_world.barrier();
  expect_error(ExitCode::usage, "3100 tokens now, but 3000",
               [&] { train(m_world, deck(m_world, "a", {"train.steps=20"})); });
}

TEST_F(Trainer, AModelThatDoesNotFitIsOneSentence) {
  expect_error(ExitCode::usage, "out of memory: the model of this rank has", [&] {
    train(m_world, deck(m_world, "a", {"model.vocab_size=2000000000", "model.hidden_size=4096"}));
  });
  EXPECT_FALSE(std::filesystem::exists(out("a")));
}

TEST_F(Trainer, ASignalOnOneRankStopsAllAfterTheStepAndTheRunContinues) {
  train(m_world, deck(m_world, "straight"));
  // max_walltime of a second is not reached by twelve updates, so only the signal can stop the run.
  const std::vector<std::string> slow = {"train.steps=100000", "train.eval_every=0"};
  if (m_world.rank() == m_world.size() - 1) {
    struct itimerval timer = {{0, 0}, {0, 300000}};
    std::signal(SIGALRM, [](int) { std::raise(SIGUSR1); });
    ::setitimer(ITIMER_REAL, &timer, nullptr);
  }
  EXPECT_EQ(train(m_world, deck(m_world, "stopped", slow)), TrainEnd::stopped);
  const auto latest = find_latest((out("stopped") / "checkpoints").string());
  ASSERT_TRUE(latest.has_value());
  const std::int64_t step = CheckpointReader(*latest).info().header.state.step;
  EXPECT_GT(step, 0);
  EXPECT_LT(step, 100000);
  EXPECT_FALSE(std::filesystem::exists(out("stopped") / "summary.json"));
}

TEST_F(Trainer, WallTimeStopsARun) {
  EXPECT_EQ(train(m_world, deck(m_world, "a", {"train.steps=10000000", "system.max_walltime=1"})),
            TrainEnd::stopped);
  EXPECT_TRUE(find_latest((out("a") / "checkpoints").string()).has_value());
}

TEST_F(Trainer, NonFiniteUpdatesAreSkippedEverywhereAndThenGivenUp) {
  // With a sharded optimizer weights are still on their way when the run gives up.
  expect_error(ExitCode::non_finite, "updates in a row", [&] {
    train(m_world, deck(m_world, "sharded",
                        {"optimizer.lr=1e300", "schedule.warmup_steps=0", "train.max_nonfinite=3",
                         "optimizer.sharding=holders", "sdp.hash_every=0"}));
  });
  expect_error(ExitCode::non_finite, "updates in a row", [&] {
    train(m_world, deck(m_world, "a",
                        {"optimizer.lr=1e300", "schedule.warmup_steps=0", "train.max_nonfinite=3",
                         "train.log_every=1"}));
  });
  const auto updates = metrics("a", "train");
  ASSERT_FALSE(updates.empty());
  EXPECT_GE(updates.back()["skipped"].get<int>(), 1);
  EXPECT_FALSE(find_latest((out("a") / "checkpoints").string()).has_value());
}

TEST_F(Trainer, FaultsOfTheDataAreTheSameErrorOnEveryRank) {
  if (m_world.is_root()) {
    // One token outside the vocabulary, which only the rank that reads it sees.
    std::fstream file(out("train.bin"), std::ios::in | std::ios::out | std::ios::binary);
    const std::uint16_t bad = 60000;
    file.seekp(1024 + 2 * 1500);
    file.write(reinterpret_cast<char const*>(&bad), 2);
  }
  m_world.barrier();
  expect_error(ExitCode::data, "train.bin",
               [&] { train(m_world, deck(m_world, "a", {"train.steps=200"})); });
}

TEST_F(Trainer, RefusesBeforeAnythingIsWritten) {
  expect_error(ExitCode::usage, "data.train", [&] {
    train(m_world, deck(m_world, "a", {"data.train=[\"" + out("none*.bin").string() + "\"]"}));
  });
  expect_error(ExitCode::usage, "samples", [&] {
    train(m_world, deck(m_world, "a", {"train.global_batch=4000", "train.micro_batch=1"}));
  });
  EXPECT_FALSE(std::filesystem::exists(out("a")));
}

TEST_F(Trainer, StartsFromTheWeightsOfAnotherRun) {
  train(m_world, deck(m_world, "a"));
  const std::string checkpoint = (out("a") / "checkpoints/step-00000012.h5").string();
  train(m_world, deck(m_world, "b",
                      {"model.init_from=" + checkpoint, "train.steps=1", "optimizer.lr=0.0",
                       "schedule.warmup_steps=0"}));
  EXPECT_EQ(weights(out("b") / "checkpoints/step-00000001.h5"), final_weights("a"));
  expect_error(ExitCode::usage, "model.hidden_size is 32 in the deck, but 16 in", [&] {
    train(m_world, deck(m_world, "c", {"model.init_from=" + checkpoint, "model.hidden_size=32"}));
  });
  EXPECT_FALSE(std::filesystem::exists(out("c")));
}

TEST_F(Trainer, DryRunChecksAndWritesNothing) {
  const std::string text = dry_run(m_world, deck(m_world, "a"), false);
  EXPECT_THAT(text, ::testing::HasSubstr("nothing was written"));
  const json plan = json::parse(dry_run(m_world, deck(m_world, "a"), true));
  EXPECT_EQ(plan["ranks"], m_world.size());
  EXPECT_EQ(plan["accumulation"], 8 / m_world.size());
  EXPECT_FALSE(std::filesystem::exists(out("a")));
}

}  // namespace
}  // namespace sdp
