// SPDX-License-Identifier: Apache-2.0
#include "data/tokenize.hpp"

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <numeric>

#include "data/tokenizer.hpp"
#include "tests/data/data_support.hpp"
#include "tests/data/text_support.hpp"

namespace sdp {
namespace {

using namespace test;

class TokenizeTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    s_folder = new Folder;
    TrainTokenizerOptions options;
    options.model_file = *s_folder / "t.model";
    options.vocab_size = 400;
    options.inputs = {write_file(*s_folder / "corpus.txt", english(100'000, 1))};
    train_tokenizer(options);
  }
  static void TearDownTestSuite() { delete s_folder; }

  TokenizeOptions options(std::vector<std::string> inputs) const {
    TokenizeOptions result;
    result.model_file = *s_folder / "t.model";
    result.out_prefix = m_out / "text";
    result.inputs = std::move(inputs);
    return result;
  }

  /// `count` documents as JSONL; document i is "document number i" with i + 1 words.
  std::string jsonl(int count) {
    std::string lines;
    for (int i = 0; i < count; ++i) lines += "{\"text\":\"" + document(i) + "\"}\n";
    return write_file(m_in / "in.jsonl", lines);
  }
  static std::string document(int i) {
    std::string text = "document number " + std::to_string(i);
    for (int j = 0; j < i % 7; ++j) text += " word";
    return text;
  }

  static std::vector<std::int32_t> encoded(std::string const& text) {
    auto ids = Tokenizer(*s_folder / "t.model").encode(text);
    ids.insert(ids.begin(), 1);
    return ids;
  }
  static std::vector<std::int32_t> joined(std::vector<std::string> const& files) {
    std::vector<std::int32_t> tokens;
    for (std::string const& file : files)
      for (std::int32_t token : all_tokens(file)) tokens.push_back(token);
    return tokens;
  }

  static inline Folder* s_folder = nullptr;
  Folder m_in;
  Folder m_out;
};

TEST_F(TokenizeTest, EveryDocumentStartsWithBosAndAllTokensAreThere) {
  const auto summary = tokenize(options({jsonl(50)}));
  EXPECT_EQ(summary.files, std::vector<std::string>{m_out / "text_train_000000.bin"});
  EXPECT_EQ(summary.documents, 50);
  EXPECT_EQ(summary.val_tokens, 0);
  std::vector<std::int32_t> expected;
  index_t bytes = 0;
  for (int i = 0; i < 50; ++i) {
    bytes += static_cast<index_t>(document(i).size());
    for (std::int32_t id : encoded(document(i))) expected.push_back(id);
  }
  EXPECT_EQ(joined(summary.files), expected);
  EXPECT_EQ(summary.train_tokens, static_cast<index_t>(expected.size()));
  EXPECT_EQ(summary.bytes, bytes);
  EXPECT_EQ(TokenShard(summary.files[0], TokenFormat::llmc).token_bytes(), 2);
  EXPECT_EQ(m_out.names(), std::vector<std::string>{"text_train_000000.bin"});
}

TEST_F(TokenizeTest, TheSplitIsExactToADocument) {
  auto with = options({jsonl(50)});
  with.val_fraction = 0.1;
  const auto summary = tokenize(with);
  EXPECT_EQ(summary.val_documents, 5);
  std::vector<std::int32_t> train, val;
  for (int i = 0; i < 50; ++i)
    for (std::int32_t id : encoded(document(i))) (i % 10 == 9 ? val : train).push_back(id);
  EXPECT_EQ(joined({summary.files.at(0)}), train);
  EXPECT_EQ(joined({summary.files.at(1)}), val);
  EXPECT_EQ(m_out.names(),
            (std::vector<std::string>{"text_train_000000.bin", "text_val_000000.bin"}));
}

TEST_F(TokenizeTest, ShardsEndAtTheirLimit) {
  const auto whole = joined(tokenize(options({jsonl(50)})).files);
  auto with = options({m_in / "in.jsonl"});
  with.out_prefix = m_out / "cut";
  with.shard_tokens = 100;
  const auto summary = tokenize(with);
  ASSERT_EQ(summary.files.size(), (whole.size() + 99) / 100);
  EXPECT_EQ(summary.files[2], m_out / "cut_train_000002.bin");
  EXPECT_EQ(TokenShard(summary.files[0], TokenFormat::llmc).num_tokens(), 100);
  EXPECT_EQ(joined(summary.files), whole);
}

TEST_F(TokenizeTest, OneLongTextIsOneDocumentAndItsEndBecomesValidation) {
  const auto path = write_file(m_in / "long.txt", english(2'500'000, 6));
  const auto whole = encoded(read_file(path));
  for (index_t shard_tokens : {index_t{100'000'000}, index_t{50'000}}) {
    auto with = options({path});
    with.out_prefix = m_out / ("long" + std::to_string(shard_tokens));
    with.val_fraction = 0.25;
    with.shard_tokens = shard_tokens;
    const auto summary = tokenize(with);
    EXPECT_EQ(summary.documents, 1);
    EXPECT_EQ(summary.val_tokens,
              static_cast<index_t>(std::lround(0.25 * static_cast<double>(whole.size()))) + 1);
    EXPECT_EQ(summary.train_tokens + summary.val_tokens, static_cast<index_t>(whole.size()) + 1);
    std::vector<std::string> train, val;
    for (auto const& file : summary.files)
      (file.find("_val_") != std::string::npos ? val : train).push_back(file);
    auto tokens = joined(train);
    EXPECT_EQ(static_cast<index_t>(tokens.size()), summary.train_tokens);
    const auto end = joined(val);
    EXPECT_EQ(static_cast<index_t>(end.size()), summary.val_tokens);
    EXPECT_EQ(end.front(), 1);
    tokens.insert(tokens.end(), end.begin() + 1, end.end());
    EXPECT_EQ(tokens, whole);
    for (auto const& name : m_out.names()) EXPECT_THAT(name, ::testing::EndsWith(".bin"));
  }
}

TEST_F(TokenizeTest, ATailThatTakesWholeShardsLeavesNoEmptyOne) {
  auto with = options({write_file(m_in / "a.txt", english(1000, 6))});
  with.val_fraction = 0.999;
  with.shard_tokens = 7;
  const auto summary = tokenize(with);
  EXPECT_EQ(summary.train_tokens, 1);
  EXPECT_EQ(summary.files[0], m_out / "text_train_000000.bin");
  EXPECT_EQ(summary.files[1], m_out / "text_val_000000.bin");
  EXPECT_EQ(static_cast<index_t>(joined(summary.files).size()),
            summary.train_tokens + summary.val_tokens);
}

TEST_F(TokenizeTest, RefusesBadOptionsAndAnOutputThatExists) {
  auto expect_bad = [&](TokenizeOptions const& bad, std::vector<std::string> const& parts) {
    expect_error<ConfigError>([&] { tokenize(bad); }, parts);
  };
  auto base = options({jsonl(5)});
  auto bad = base;
  bad.val_fraction = 1;
  expect_bad(bad, {"--val-fraction is 1"});
  bad.val_fraction = std::nan("");
  expect_bad(bad, {"--val-fraction is nan"});
  bad = base;
  bad.shard_tokens = 0;
  expect_bad(bad, {"shard of 0 tokens"});
  bad = base;
  bad.model_file = m_in / "absent.model";
  expect_bad(bad, {"absent.model"});
  bad = base;
  bad.out_prefix = m_out / "absent/text";
  expect_bad(bad, {"absent", "does not exist"});
  bad.out_prefix = m_out.path() + "/";
  expect_bad(bad, {"names no file"});
  bad = base;
  bad.inputs = {write_file(m_in / "empty.txt", " \n")};
  expect_bad(bad, {"empty.txt", "no text"});
  EXPECT_TRUE(m_out.names().empty());
  write_file(m_out / "text_train_000007.bin", "");
  expect_bad(base, {"text_train_000007.bin exists already"});
  EXPECT_EQ(m_out.names().size(), 1u);
}

TEST_F(TokenizeTest, AFaultInTheInputLeavesNothingBehind) {
  jsonl(30);
  const auto path = write_file(m_in / "in.jsonl", read_file(m_in / "in.jsonl") + "{oops\n");
  auto with = options({path});
  with.val_fraction = 0.1;
  with.shard_tokens = 50;
  expect_error<DataError>([&] { tokenize(with); }, {path + ":31: "});
  EXPECT_TRUE(m_out.names().empty());
}

/// A limit on the size of files stands in for a full disk: both end a write part of the way.
TEST_F(TokenizeTest, AFullDiskNamesFileAndOffsetAndLeavesNothingBehind) {
  const auto path = write_file(m_in / "long.txt", english(3'000'000, 6));
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit limit = before;
  limit.rlim_cur = 300'000;
  ::setrlimit(RLIMIT_FSIZE, &limit);
  expect_error<DataError>([&] { tokenize(options({path})); },
                          {m_out / "text_train_000000.bin", "offset 300000", "File too large"});
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(m_out.names().empty());
}

}  // namespace
}  // namespace sdp
