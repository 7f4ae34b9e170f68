// SPDX-License-Identifier: Apache-2.0
#include "data/token_shard.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <limits>

#include "tests/data/data_support.hpp"

namespace sdp {
namespace {

using namespace test;

void expect_refused(std::string const& path, std::vector<std::string> parts,
                    TokenFormat format = TokenFormat::automatic) {
  parts.insert(parts.begin(), path);
  expect_error<ConfigError>([&] { TokenShard shard(path, format); }, parts);
}

TEST(TokenShard, ReadsGpt2Shard) {
  Folder folder;
  const std::vector<std::int32_t> tokens = {50256, 0, 1, 65535, 17};
  const auto path = write_file(folder / "a.bin", gpt2_shard(tokens));
  for (auto format : {TokenFormat::automatic, TokenFormat::llmc}) {
    TokenShard shard(path, format);
    EXPECT_EQ(shard.num_tokens(), 5);
    EXPECT_EQ(shard.token_bytes(), 2);
    EXPECT_EQ(shard.offset(3), 1030);
    EXPECT_FALSE(shard.is_open());
    EXPECT_EQ(all_tokens(path, format), tokens);
  }
}

TEST(TokenShard, ReadsLlama3Shard) {
  Folder folder;
  const std::vector<std::int32_t> tokens = {128000, 0, 70000, 128255};
  const auto path = write_file(folder / "a.bin", llama3_shard(tokens));
  TokenShard shard(path, TokenFormat::automatic);
  EXPECT_EQ(shard.token_bytes(), 4);
  EXPECT_EQ(shard.offset(3), 1036);
  EXPECT_EQ(all_tokens(path), tokens);
}

TEST(TokenShard, ReadsNanogptBin) {
  Folder folder;
  const std::vector<std::int32_t> tokens = {50256, 7, 65535};
  const auto path = write_file(folder / "a.bin", bytes_of<std::uint16_t>(tokens));
  EXPECT_EQ(all_tokens(path, TokenFormat::nanogpt_u16), tokens);
  EXPECT_EQ(TokenShard(path, TokenFormat::nanogpt_u16).offset(2), 4);
}

TEST(TokenShard, ReadsPartsAndWritesNothingBehindThem) {
  Folder folder;
  const auto path = write_file(folder / "a.bin", gpt2_shard(counting(100)));
  TokenShard shard(path, TokenFormat::automatic);
  for (index_t count : {0, 1, 2, 31, 100}) {
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(count) + 1, -7);
    shard.read(100 - count, count, tokens.data());
    for (index_t i = 0; i < count; ++i) EXPECT_EQ(tokens[i], 100 - count + i);
    EXPECT_EQ(tokens.back(), -7);
  }
  std::int32_t token = 0;
  EXPECT_THROW(shard.read(100, 1, &token), std::out_of_range);
  EXPECT_THROW(shard.read(-1, 1, &token), std::out_of_range);
  EXPECT_THROW(shard.read(1, std::numeric_limits<index_t>::max(), &token), std::out_of_range);
}

TEST(TokenShard, RefusesDamagedHeaders) {
  Folder folder;
  const auto path = folder / "shard.bin";
  const auto good = gpt2_shard(counting(10));
  write_file(path, llmc_header(20240521, 1, 10) + bytes_of<std::uint16_t>(counting(10)));
  expect_refused(path, {"starts with 20240521", "20240520 or 20240801", "nanogpt-u16"});
  write_file(path, llmc_header(20240520, 2, 10) + bytes_of<std::uint16_t>(counting(10)));
  expect_refused(path, {"version 2, expected 1"});
  write_file(path, llmc_header(20240801, 1, 10) + bytes_of<std::uint32_t>(counting(10)));
  expect_refused(path, {"version 1, expected 7"});
  write_file(path, good.substr(0, good.size() - 4));
  expect_refused(path, {"10 tokens (1044 bytes)", "1040 bytes", "truncated"});
  write_file(path, good + "xx");
  expect_refused(path, {"10 tokens (1044 bytes)", "1046 bytes"});
  write_file(path, good.substr(0, 1043));
  expect_refused(path, {"1043 bytes", "truncated"});
  write_file(path, good.substr(0, 600));
  expect_refused(path, {"truncated", "600 bytes", "1024"});
  write_file(path, good.substr(0, 3));
  expect_refused(path, {"only 3 bytes"});
  write_file(path, llmc_header(20240520, 1, -3));
  expect_refused(path, {"-3 tokens", "negative"});
  write_file(path, llmc_header(20240520, 1, 0));
  expect_refused(path, {"without a token"});
  write_file(path, "");
  expect_refused(path, {"is empty"});
}

TEST(TokenShard, NeverTakesADamagedShardForBareTokens) {
  Folder folder;
  const auto path = write_file(folder / "a.bin", bytes_of<std::uint16_t>(counting(2000)));
  expect_refused(path, {"nanogpt-u16"});
  expect_refused(path, {"nanogpt-u16"}, TokenFormat::llmc);
  write_file(path, gpt2_shard(counting(10)));
  expect_refused(path, {"header of an llm.c shard"}, TokenFormat::nanogpt_u16);
  write_file(path, "odd");
  expect_refused(path, {"3 bytes", "even"}, TokenFormat::nanogpt_u16);
}

TEST(TokenShard, RefusesWhatIsNotAFile) {
  Folder folder;
  expect_refused(folder / "absent.bin", {"cannot be opened", "No such file"});
  expect_refused(folder.path(), {"is a folder"});
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_refused(folder / "pipe", {"not a regular file"});
  if (::geteuid() != 0) {
    const auto path = write_file(folder / "secret.bin", gpt2_shard(counting(10)));
    ::chmod(path.c_str(), 0);
    expect_refused(path, {"Permission denied"});
  }
}

TEST(TokenShard, FaultsWhileReadingNameFileAndOffset) {
  Folder folder;
  const auto path = write_file(folder / "a.bin", gpt2_shard(counting(100)));
  TokenShard shard(path, TokenFormat::automatic);
  std::vector<std::int32_t> tokens(10);
  shard.read(90, 10, tokens.data());
  std::filesystem::resize_file(path, 1024 + 2 * 95);
  expect_error<DataError>([&] { shard.read(90, 10, tokens.data()); },
                          {path, "ends at byte 1214", "1224"});
  shard.close();
  std::filesystem::remove(path);
  expect_error<DataError>([&] { shard.read(0, 1, tokens.data()); }, {path, "opened any more"});
}

/// A file with holes: it has the size, the disk has not.
void sparse(std::string const& path, std::string const& head, index_t size, index_t offset,
            std::string const& tail) {
  write_file(path, head);
  std::filesystem::resize_file(path, static_cast<std::uintmax_t>(size));
  const int file = ::open(path.c_str(), O_WRONLY);
  ASSERT_EQ(::pwrite(file, tail.data(), tail.size(), offset), static_cast<ssize_t>(tail.size()));
  ::close(file);
}

TEST(TokenShard, ReadsBeyondTwoAndFourGibibytes) {
  Folder folder;
  const index_t count = std::numeric_limits<std::int32_t>::max();
  const auto tail = counting(8, 100);
  for (int bytes : {2, 4}) {
    const index_t size = 1024 + count * bytes;
    const auto path = folder / ("large" + std::to_string(bytes));
    sparse(path,
           bytes == 2 ? llmc_header(20240520, 1, static_cast<std::int32_t>(count))
                      : llmc_header(20240801, 7, static_cast<std::int32_t>(count)),
           size, size - 8 * bytes,
           bytes == 2 ? bytes_of<std::uint16_t>(tail) : bytes_of<std::uint32_t>(tail));
    TokenShard shard(path, TokenFormat::automatic);
    EXPECT_EQ(shard.num_tokens(), count);
    std::vector<std::int32_t> tokens(8);
    shard.read(count - 8, 8, tokens.data());
    EXPECT_EQ(tokens, tail);
  }
  // Without a header a file may have more tokens than 32 bits count.
  const index_t many = index_t{5} << 30;
  sparse(folder / "bare", "", many * 2, many * 2 - 16, bytes_of<std::uint16_t>(tail));
  TokenShard shard(folder / "bare", TokenFormat::nanogpt_u16);
  EXPECT_EQ(shard.num_tokens(), many);
  std::vector<std::int32_t> tokens(8);
  shard.read(many - 8, 8, tokens.data());
  EXPECT_EQ(tokens, tail);
}

}  // namespace
}  // namespace sdp
