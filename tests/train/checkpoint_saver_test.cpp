// SPDX-License-Identifier: Apache-2.0
// Checkpoints in several files and in the background, as a run writes them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "tests/train/run_fixture.hpp"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

class CheckpointSaverTest : public test::RunFixture {
 protected:
  static std::string bytes_of(fs::path const& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
  std::vector<json> checkpoint_records(std::string const& name) const {
    std::ifstream file(out(name) / "metrics.jsonl");
    std::vector<json> records;
    for (std::string line; std::getline(file, line);) {
      const json record = json::parse(line);
      if (record["event"] == "checkpoint") records.push_back(record);
    }
    return records;
  }
};

TEST_F(CheckpointSaverTest, ABackgroundSaveHasTheBytesOfAnImmediateOne) {
  for (char const* variant : {"none", "forward"}) {
    if (std::string(variant) == "forward" && m_world.size() == 1) continue;
    std::vector<std::string> overrides{
        "checkpoint.every_steps=4",   "checkpoint.keep=9",
        "optimizer.sharding=holders", std::string("sdp.regime=") + variant,
        "sdp.coverage=0.5",           "sdp.subnetworks=2",
        "sdp.remask_every=5"};
    if (std::string(variant) == "none") overrides.resize(3);
    const std::string now = std::string("now_") + variant, later = std::string("later_") + variant;
    EXPECT_EQ(train(m_world, deck(m_world, now, overrides)), TrainEnd::finished);
    overrides.push_back("checkpoint.async=true");
    EXPECT_EQ(train(m_world, deck(m_world, later, overrides)), TrainEnd::finished);
    if (m_world.is_root()) {
      for (char const* name : {"step-00000004.h5", "step-00000008.h5", "step-00000012.h5"}) {
        // The decks differ in the folder and the key: compare what lies behind the header.
        const CheckpointReader a((out(now) / "checkpoints" / name).string());
        const CheckpointReader b((out(later) / "checkpoints" / name).string());
        EXPECT_EQ(a.info().header.mask, b.info().header.mask);
        EXPECT_EQ(a.info().header.state.samples, b.info().header.state.samples);
        std::vector<std::string> groups = a.info().moments;
        groups.push_back(k_group_model);
        EXPECT_EQ(groups.size(), 3u);
        for (std::string const& group : groups) {
          for (StoredTensor const& tensor : a.info().tensors) {
            const auto size = static_cast<std::size_t>(tensor.elements);
            std::vector<double> x(size), y(size);
            a.read_elements(group, tensor.name, 0, tensor.elements, x.data());
            b.read_elements(group, tensor.name, 0, tensor.elements, y.data());
            ASSERT_EQ(std::memcmp(x.data(), y.data(), size * sizeof(double)), 0)
                << variant << " " << name << " " << group << " " << tensor.name;
          }
        }
      }
      const auto records = checkpoint_records(later);
      ASSERT_EQ(records.size(), 3u);
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(records[i]["step"], 4 * (i + 1));
        EXPECT_LE(records[i]["blocked_seconds"].get<double>(),
                  records[i]["seconds"].get<double>() + 0.1);
      }
      EXPECT_EQ(bytes_of(out(later) / "checkpoints/latest"), "step-00000012.h5\n");
    }
    m_world.barrier();
  }
}

TEST_F(CheckpointSaverTest, SeveralFilesContinueOnAnyNumberOfRanks) {
  const std::vector<std::string> overrides{"checkpoint.files=3", "checkpoint.async=true",
                                           "checkpoint.every_steps=6", "checkpoint.keep=9",
                                           "optimizer.sharding=holders"};
  EXPECT_EQ(train(m_world, deck(m_world, "whole", overrides)), TrainEnd::finished);
  if (m_world.is_root()) {
    const CheckpointReader reader((out("whole") / "checkpoints/step-00000006.h5").string());
    const std::size_t files = std::min(3, m_world.size());
    EXPECT_EQ(reader.info().parts.size(), files > 1 ? files : 0);
    // One rank goes on from what all of them wrote.
    auto once = overrides;
    once.push_back("checkpoint.resume=" + reader.info().path);
    EXPECT_EQ(train(m_self, deck(m_self, "alone", once)), TrainEnd::finished);
    const auto a = weights(out("whole") / "checkpoints/step-00000012.h5");
    const auto b = weights(out("alone") / "checkpoints/step-00000012.h5");
    ASSERT_EQ(a.size(), b.size());
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    EXPECT_LT(worst, 1e-9);
  }
  m_world.barrier();
  // The same ranks continue with the same bits.
  auto half = overrides;
  half.push_back("checkpoint.resume=" + (out("whole") / "checkpoints/step-00000006.h5").string());
  EXPECT_EQ(train(m_world, deck(m_world, "half", half)), TrainEnd::finished);
  if (m_world.is_root()) {
    EXPECT_EQ(weights(out("whole") / "checkpoints/step-00000012.h5"),
              weights(out("half") / "checkpoints/step-00000012.h5"));
  }
  m_world.barrier();
}

TEST_F(CheckpointSaverTest, AFullDiskUnderABackgroundSaveEndsTheRunOnEveryRank) {
  void (*handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  // Enough for everything that a run writes but the checkpoint, on the last rank alone: it finds
  // out in its thread.
  rlimit limit = before;
  if (m_world.rank() == m_world.size() - 1) limit.rlim_cur = 60000;
  setrlimit(RLIMIT_FSIZE, &limit);
  std::string error = "no error";
  try {
    train(m_world, deck(m_world, "full", {"checkpoint.async=true", "checkpoint.every_steps=4"}));
  } catch (DataError const& e) {
    error = e.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(error, HasSubstr("cannot write"));
  EXPECT_THAT(error, HasSubstr("step-00000004.h5.tmp"));
  m_world.barrier();
  if (m_world.is_root()) {
    EXPECT_TRUE(fs::is_empty(out("full") / "checkpoints"));
  }
  m_world.barrier();
}

}  // namespace
}  // namespace sdp
