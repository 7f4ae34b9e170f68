// SPDX-License-Identifier: Apache-2.0
#include "data/batch_reader.hpp"

#include <set>

#include "tests/data/data_support.hpp"

namespace sdp {
namespace {

using namespace test;

constexpr index_t k_seq_len = 3;

/// 29 samples in two shards; sample s of the first starts with token 3s, of the second with 100 +
/// 3s.
class BatchReaderTest : public ::testing::Test {
 protected:
  Folder m_folder;
  TokenDataset m_data{"data.train",
                      {write_file(m_folder / "a.bin", gpt2_shard(counting(41))),
                       write_file(m_folder / "b.bin", gpt2_shard(counting(50, 100)))},
                      TokenFormat::automatic,
                      k_seq_len,
                      1000};

  static index_t sample_of(std::int32_t first_token) {
    return first_token < 100 ? first_token / 3 : 13 + (first_token - 100) / 3;
  }

  /// Samples of rows of a batch; checks that inputs and targets are those of one sample.
  static std::vector<index_t> samples(std::vector<std::int32_t> const& inputs,
                                      std::vector<std::int32_t> const& targets, index_t rows) {
    std::vector<index_t> found;
    for (index_t row = 0; row < rows; ++row) {
      const auto begin = static_cast<std::size_t>(row * k_seq_len);
      found.push_back(sample_of(inputs[begin]));
      for (std::size_t t = 0; t < k_seq_len; ++t) {
        EXPECT_EQ(inputs[begin + t], inputs[begin] + static_cast<std::int32_t>(t));
        EXPECT_EQ(targets[begin + t], inputs[begin + t] + 1);
      }
    }
    return found;
  }

  /// The samples of update `update` over all ranks, in global order.
  std::vector<index_t> update_samples(index_t update, index_t global, index_t micro, int ranks) {
    std::vector<index_t> all;
    for (int rank = 0; rank < ranks; ++rank) {
      TrainReader reader(m_data, 42, {global, micro, ranks, rank});
      for (index_t step = 0; step < reader.plan().accumulation(); ++step) {
        std::vector<std::int32_t> inputs(static_cast<std::size_t>(micro * k_seq_len), -1);
        auto targets = inputs;
        reader.read(update, step, inputs.data(), targets.data());
        for (index_t sample : samples(inputs, targets, micro)) all.push_back(sample);
      }
    }
    return all;
  }

  std::vector<index_t> eval_samples(index_t global, index_t micro, int ranks, index_t batches) {
    std::vector<index_t> all;
    for (int rank = 0; rank < ranks; ++rank) {
      EvalReader reader(m_data, {global, micro, ranks, rank}, batches);
      for (index_t step = 0; step < reader.steps(); ++step) {
        std::vector<std::int32_t> inputs(static_cast<std::size_t>(micro * k_seq_len), -1);
        auto targets = inputs;
        const index_t rows = reader.read(step, inputs.data(), targets.data());
        EXPECT_EQ(rows, reader.rows(step));
        for (index_t sample : samples(inputs, targets, rows)) all.push_back(sample);
        for (auto i = static_cast<std::size_t>(rows * k_seq_len); i < inputs.size(); ++i)
          EXPECT_EQ(inputs[i], -1);
      }
      EXPECT_EQ(reader.rows(reader.steps()), 0);
    }
    return all;
  }
};

TEST_F(BatchReaderTest, TheGlobalOrderDependsOnNeitherRanksNorMicroBatch) {
  ASSERT_EQ(m_data.num_samples(), 29);
  const Sampler sampler(42, 29);
  for (index_t update = 0; update < 9; ++update) {
    std::vector<index_t> expected;
    for (index_t i = 0; i < 8; ++i) expected.push_back(sampler.sample_at(update * 8 + i));
    for (int ranks : {1, 2, 4, 8})
      for (index_t micro = 1; micro * ranks <= 8; micro *= 2)
        EXPECT_EQ(update_samples(update, 8, micro, ranks), expected) << ranks << " ranks";
  }
}

TEST_F(BatchReaderTest, AnEpochUsesEverySampleOnce) {
  std::set<index_t> seen;
  for (index_t update = 0; update < 29; ++update)
    for (index_t sample : update_samples(update, 1, 1, 1)) seen.insert(sample);
  EXPECT_EQ(seen.size(), 29u);
}

TEST_F(BatchReaderTest, EvaluationIsInFileOrderForEveryRankCount) {
  std::vector<index_t> all(29);
  for (index_t i = 0; i < 29; ++i) all[static_cast<std::size_t>(i)] = i;
  const std::vector<index_t> some(all.begin(), all.begin() + 12);
  for (int ranks : {1, 2, 4, 31})
    for (index_t micro : {1, 2, 5, 64}) {
      EXPECT_EQ(eval_samples(4, micro, ranks, 0), all) << ranks << " ranks, micro " << micro;
      EXPECT_EQ(eval_samples(4, micro, ranks, 3), some);
      EXPECT_EQ(eval_samples(4, micro, ranks, 100), all);
      EXPECT_EQ(eval_samples(4, micro, ranks, index_t{1} << 62), all);
    }
}

TEST_F(BatchReaderTest, EveryRankEvaluatesTheSameNumberOfSteps) {
  for (int rank = 0; rank < 4; ++rank) {
    EvalReader reader(m_data, {4, 2, 4, rank}, 0);  // 29 samples: 7, 7, 7, 8
    EXPECT_EQ(reader.steps(), 4);
    EXPECT_EQ(reader.rows(3), rank == 3 ? 2 : 1);
    EXPECT_EQ(reader.num_samples(), 29);
  }
}

TEST_F(BatchReaderTest, RefusesPlansThatDoNotDivideAndSetsThatAreTooSmall) {
  expect_error<ConfigError>(
      [&] {
        TrainReader(m_data, 1, {8, 3, 1, 0});
      },
      {"train.global_batch = 8", "1 * 3"});
  expect_error<ConfigError>(
      [&] {
        TrainReader(m_data, 1, {30, 30, 1, 0});
      },
      {"data.train has 29 samples", "train.global_batch = 30"});
  expect_error<ConfigError>([&] { TrainReader(m_data, 1, {8, 0, 1, 0}); }, {"micro_batch = 0"});
}

}  // namespace
}  // namespace sdp
