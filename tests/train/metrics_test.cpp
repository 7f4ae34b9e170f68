// SPDX-License-Identifier: Apache-2.0
#include "train/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "train/progress.hpp"

namespace sdp {
namespace {

namespace fs = std::filesystem;

struct Metrics : ::testing::Test {
  fs::path path = fs::temp_directory_path() / ("sdp_metrics_" + std::to_string(::getpid()));
  ~Metrics() override { fs::remove(path); }
  std::vector<int> steps() const {
    std::ifstream file(path);
    std::vector<int> found;
    for (std::string line; std::getline(file, line);)
      found.push_back(nlohmann::json::parse(line)["step"]);
    return found;
  }
};

TEST_F(Metrics, RewindDropsLaterLinesAndACutOne) {
  const MetricsLog log(path);
  for (std::int64_t step : {2, 4, 6}) {
    TrainRecord record;
    record.step = step;
    log.append(record);
    log.append(EvalRecord{step, 1.0, {}, {}, {}});
  }
  std::ofstream(path, std::ios::app) << R"({"event":"train","step":3,"lo)";
  log.rewind(4);
  EXPECT_EQ(steps(), (std::vector<int>{2, 2, 4, 4}));
  EXPECT_TRUE(log.has_evaluation(4));
  EXPECT_FALSE(log.has_evaluation(6));
  log.rewind(0);
  EXPECT_TRUE(steps().empty());
}

TEST_F(Metrics, ValuesThatAreNotFiniteBecomeNull) {
  TrainRecord record;
  record.loss = NAN;
  record.grad_norm = INFINITY;
  const MetricsLog log(path);
  log.append(record);
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  EXPECT_TRUE(json["loss"].is_null());
  EXPECT_TRUE(json["grad_norm"].is_null());
}

TEST_F(Metrics, AFullDiskIsAnError) {
  const MetricsLog log("/dev/full");
  try {
    log.append(EvalRecord{1, 2.0, {}, {}, 2.5});
    FAIL() << "no error";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("/dev/full"));
  }
}

TEST(Progress, WritesNumbersForPeople) {
  EXPECT_EQ(short_count(999), "999");
  EXPECT_EQ(short_count(1234), "1.2k");
  EXPECT_EQ(short_count(5.27e6), "5.27M");
  EXPECT_EQ(short_bytes(512), "512 B");
  EXPECT_EQ(short_bytes(1.5 * 1024 * 1024), "1.5 MiB");
  EXPECT_EQ(short_duration(45), "45s");
  EXPECT_EQ(short_duration(192), "3m12s");
  EXPECT_EQ(short_duration(7500), "2h05m");
  EXPECT_EQ(short_duration(NAN), "?");
}

}  // namespace
}  // namespace sdp
