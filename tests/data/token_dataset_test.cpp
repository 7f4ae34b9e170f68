// SPDX-License-Identifier: Apache-2.0
#include "data/token_dataset.hpp"

#include "base/memory_ledger.hpp"
#include "tests/data/data_support.hpp"

namespace sdp {
namespace {

using namespace test;

std::vector<std::int32_t> sample_of(TokenDataset& data, index_t sample) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(data.seq_len()) + 2, -7);
  data.read(sample, tokens.data());
  EXPECT_EQ(tokens.back(), -7);
  tokens.pop_back();
  return tokens;
}

TEST(TokenDataset, SamplesOverlapByTheTargetAndNeverCrossShards) {
  Folder folder;
  const std::vector<std::string> files = {
      write_file(folder / "a.bin", gpt2_shard(counting(9))),           // (9-1)/4 = 2
      write_file(folder / "b.bin", gpt2_shard(counting(8, 100))),      // (8-1)/4 = 1
      write_file(folder / "c.bin", llama3_shard(counting(13, 200)))};  // (13-1)/4 = 3
  TokenDataset data("data.train", files, TokenFormat::automatic, 4, 1000);
  EXPECT_EQ(data.num_samples(), 6);
  EXPECT_EQ(data.num_tokens(), 30);
  EXPECT_EQ(data.num_shards(), 3);
  EXPECT_EQ(sample_of(data, 0), counting(5, 0));
  EXPECT_EQ(sample_of(data, 1), counting(5, 4));
  EXPECT_EQ(sample_of(data, 2), counting(5, 100));
  EXPECT_EQ(sample_of(data, 3), counting(5, 200));
  EXPECT_EQ(sample_of(data, 5), counting(5, 208));
  std::int32_t tokens[5];
  EXPECT_THROW(data.read(6, tokens), std::out_of_range);
  EXPECT_THROW(data.read(-1, tokens), std::out_of_range);
}

TEST(TokenDataset, ASequenceOfOneTokenIsLegal) {
  Folder folder;
  const auto path = write_file(folder / "a.bin", gpt2_shard(counting(3)));
  TokenDataset data("data.train", {path}, TokenFormat::automatic, 1, 3);
  EXPECT_EQ(data.num_samples(), 2);
  EXPECT_EQ(sample_of(data, 1), counting(2, 1));
}

TEST(TokenDataset, LeavesOutShortShardsAndRefusesASetWithoutASample) {
  Folder folder;
  const auto shorter = write_file(folder / "a.bin", gpt2_shard(counting(4)));
  const auto enough = write_file(folder / "b.bin", gpt2_shard(counting(5, 50)));
  ::testing::internal::CaptureStderr();
  TokenDataset data("data.train", {shorter, enough}, TokenFormat::automatic, 4, 100);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::AllOf(::testing::HasSubstr("data.train: 1 of 2 files"),
                               ::testing::HasSubstr(shorter + " (4 tokens)")));
  EXPECT_EQ(data.num_samples(), 1);
  EXPECT_EQ(sample_of(data, 0), counting(5, 50));
  expect_error<ConfigError>(
      [&] { TokenDataset("data.val", {shorter}, TokenFormat::automatic, 4, 100); },
      {"data.val", "4 tokens in all", "5 tokens", "train.seq_len = 4"});
}

TEST(TokenDataset, TokensOutsideTheVocabularyAreFoundWithTheirOffset) {
  Folder folder;
  auto tokens = counting(20);
  tokens[14] = 500;
  const auto narrow = write_file(folder / "a.bin", gpt2_shard(tokens));
  TokenDataset data("data.train", {narrow}, TokenFormat::automatic, 4, 500);
  EXPECT_EQ(sample_of(data, 2), counting(5, 8));
  expect_error<DataError>([&] { sample_of(data, 3); },
                          {narrow, "token 500", "byte 1052", "model.vocab_size = 500"});
  tokens[14] = static_cast<std::int32_t>(0x80000001u);
  const auto wide = write_file(folder / "b.bin", llama3_shard(tokens));
  TokenDataset large("data.train", {wide}, TokenFormat::automatic, 4, 500);
  expect_error<DataError>([&] { sample_of(large, 3); }, {wide, "token 2147483649", "byte 1080"});
  // The last id of the vocabulary is inside.
  EXPECT_EQ(TokenDataset("data.train", {narrow}, TokenFormat::automatic, 4, 501).num_samples(), 4);
  TokenDataset inside("data.train", {narrow}, TokenFormat::automatic, 4, 501);
  EXPECT_EQ(sample_of(inside, 3)[2], 500);
}

TEST(TokenDataset, FindsABadHeaderAmongGoodShards) {
  Folder folder;
  const auto good = write_file(folder / "a.bin", gpt2_shard(counting(20)));
  const auto bad = write_file(folder / "b.bin", gpt2_shard(counting(20)).substr(0, 1050));
  expect_error<ConfigError>(
      [&] {
        TokenDataset("data.train", {good, bad}, TokenFormat::automatic, 4, 100);
      },
      {bad, "truncated"});
}

index_t open_files() {
  index_t count = 0;
  for (auto const& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    count += entry.exists() ? 1 : 0;
  return count;
}

TEST(TokenDataset, KeepsFewOfManyShardsOpen) {
  Folder folder;
  std::vector<std::string> files;
  for (int i = 0; i < 300; ++i)
    files.push_back(
        write_file(folder / (std::to_string(i) + ".bin"), gpt2_shard(counting(5, i * 10))));
  const index_t before = open_files();
  {
    TokenDataset data("data.train", files, TokenFormat::automatic, 4, 10000);
    EXPECT_EQ(open_files(), before);
    for (int pass = 0; pass < 2; ++pass)
      for (index_t i = 0; i < 300; ++i) {
        const index_t sample = i * 7 % 300;
        EXPECT_EQ(sample_of(data, sample), counting(5, static_cast<std::int32_t>(sample * 10)));
      }
    EXPECT_EQ(open_files(), before + TokenDataset::k_max_open);
  }
  EXPECT_EQ(open_files(), before);
}

TEST(TokenDataset, ALongPassTakesNoMemory) {
  Folder folder;
  const index_t count = 1'000'000'000;
  const auto path =
      write_file(folder / "a.bin", llmc_header(20240520, 1, static_cast<std::int32_t>(count)));
  std::filesystem::resize_file(path, static_cast<std::uintmax_t>(1024 + 2 * count));
  TokenDataset data("data.train", {path}, TokenFormat::automatic, 256, 100);
  std::vector<std::int32_t> tokens(257);
  data.read(0, tokens.data());
  const auto before = resident_bytes();
  for (index_t i = 0; i < 20'000; ++i) data.read(i * 190, tokens.data());
  EXPECT_LT(resident_bytes() - before, std::int64_t{8} << 20);
}

}  // namespace
}  // namespace sdp
