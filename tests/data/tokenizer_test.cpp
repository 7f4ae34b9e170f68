// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.hpp"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <random>

#include "tests/data/data_support.hpp"
#include "tests/data/text_support.hpp"

namespace sdp {
namespace {

using namespace test;

std::vector<std::int32_t> by_library(std::string const& model, std::string const& text) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.Load(model).ok());
  std::vector<int> ids;
  EXPECT_TRUE(processor.Encode(text, &ids).ok());
  return {ids.begin(), ids.end()};
}

/// Texts that a tokenizer which cuts its input may get wrong.
std::vector<std::string> hard_texts() {
  std::vector<std::string> texts = {"",
                                    " ",
                                    "\n",
                                    "a",
                                    " a",
                                    "a ",
                                    "  a  ",
                                    "\n\na\n\n",
                                    "a\n b",
                                    "x \n y",
                                    "\ta\t\tb",
                                    "a\r\nb\r\n",
                                    "12345 6.7",
                                    "\xE2\x96\x81",
                                    "a\xE2\x96\x81 b",
                                    "a \xE2\x96\x81\n\xE2\x96\x81 b",
                                    "\xF0\x9F\x98\x80\xF0\x9F\x98\x80\n\xF0\x9F\x98\x80",
                                    "\xC2\xA0 x\xE3\x80\x80y",
                                    std::string("nul\0inside \0", 12)};
  std::mt19937 random(9);
  std::string const alphabet[] = {" ",           " ",  "\n", "a", "e",  "th",       "ing",
                                  "the",         "of", "9",  ".", "\t", "\xC3\xA9", "\xE2\x96\x81",
                                  "\xE4\xB8\xAD"};
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (unsigned n = random() % 60; n > 0; --n) text += alphabet[random() % (i % 2 ? 13 : 15)];
    texts.push_back(text);
  }
  texts.push_back(english(50'000, 4));
  return texts;
}

class TokenizerTest : public ::testing::Test {
 protected:
  Folder m_folder;
  std::string train(index_t vocab_size = 500) {
    TrainTokenizerOptions options;
    options.model_file = m_folder / "t.model";
    options.vocab_size = vocab_size;
    options.inputs = {write_file(m_folder / "corpus.txt", english(200'000, 1))};
    const auto summary = train_tokenizer(options);
    EXPECT_EQ(summary.vocab_size, vocab_size);
    EXPECT_EQ(summary.documents, 1);
    EXPECT_GE(summary.bytes, 200'000);
    return options.model_file;
  }
};

TEST_F(TokenizerTest, TrainsAModelThatRoundTripsEveryText) {
  Tokenizer tokenizer(train());
  EXPECT_EQ(tokenizer.vocab_size(), 500);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  for (std::string const& text : hard_texts()) {
    if (text.find("\xE2\x96\x81") != std::string::npos) continue;  // a space to the model
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
  EXPECT_EQ(tokenizer.decode({1}), "");
  EXPECT_LT(tokenizer.encode(english(5000, 2)).size(), 3000u);
}

TEST_F(TokenizerTest, EncodesAsTheLibraryDoesForTheWholeText) {
  const auto model = train();
  Tokenizer tokenizer(model);
  for (int pass = 0; pass < 2; ++pass)  // the second from the cache
    for (std::string const& text : hard_texts())
      ASSERT_EQ(tokenizer.encode(text), by_library(model, text)) << '"' << text << '"';
}

TEST_F(TokenizerTest, EncodesAsTheLibraryDoesForOtherKindsOfModels) {
  const auto corpus = write_file(m_folder / "corpus.txt", english(100'000, 1));
  std::string const variants[] = {
      "--model_type=bpe --byte_fallback=true --normalization_rule_name=identity "
      "--remove_extra_whitespaces=false --add_dummy_prefix=false",
      "--model_type=bpe --byte_fallback=true",  // NFKC, runs of spaces become one
      "--model_type=bpe --byte_fallback=false --normalization_rule_name=identity",
      "--model_type=bpe --byte_fallback=false",
      "--model_type=unigram --byte_fallback=true --normalization_rule_name=identity "
      "--remove_extra_whitespaces=false",
      "--model_type=bpe --byte_fallback=true --split_by_whitespace=false",
      "--model_type=bpe --byte_fallback=true --treat_whitespace_as_suffix=true",
      "--model_type=bpe --byte_fallback=true --normalization_rule_name=identity "
      "--user_defined_symbols=a\xE2\x96\x81"
      "b,\xE2\x96\x81\xE2\x96\x81th --remove_extra_whitespaces=false"};
  for (std::string const& variant : variants) {
    const auto status = sentencepiece::SentencePieceTrainer::Train(
        variant + " --vocab_size=450 --minloglevel=2 --input=" + corpus +
        " --model_prefix=" + (m_folder / "v"));
    ASSERT_TRUE(status.ok()) << variant << status.ToString();
    Tokenizer tokenizer(m_folder / "v.model");
    for (std::string const& text : hard_texts())
      ASSERT_EQ(tokenizer.encode(text), by_library(m_folder / "v.model", text))
          << variant << " \"" << text << '"';
  }
}

TEST_F(TokenizerTest, PiecesCutBeforeNewlinesEncodeLikeTheWhole) {
  Tokenizer tokenizer(train());
  std::string const text = english(20'000, 3) + "\n\n  indented\n\nlast";
  std::vector<std::int32_t> ids;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin + 300), text.size());
    tokenizer.encode(std::string_view(text).substr(begin, end - begin), begin > 0, ids);
    begin = end;
  }
  EXPECT_EQ(ids, tokenizer.encode(text));
}

TEST_F(TokenizerTest, TrainingIsDeterministicAndSamplesLargeInputsEvenly) {
  const auto first = read_file(train());
  EXPECT_EQ(read_file(train()), first);
  TrainTokenizerOptions options;
  options.model_file = m_folder / "small.model";
  options.vocab_size = 400;
  options.inputs = {m_folder / "corpus.txt"};
  options.max_bytes = 50'000;
  const auto summary = train_tokenizer(options);
  EXPECT_GE(summary.bytes, 200'000);
  EXPECT_LE(summary.used_bytes, 50'000);
  EXPECT_GE(summary.used_bytes, 20'000);
  EXPECT_THAT(m_folder.names(), ::testing::ElementsAre("corpus.txt", "small.model", "t.model"));
}

TEST_F(TokenizerTest, TrainingRefusesSizesThatDoNotFitTheText) {
  TrainTokenizerOptions options;
  options.model_file = m_folder / "t.model";
  options.inputs = {write_file(m_folder / "corpus.txt", english(2000, 1))};
  auto expect_bad = [&](index_t vocab_size, std::vector<std::string> const& parts) {
    options.vocab_size = vocab_size;
    expect_error<ConfigError>([&] { train_tokenizer(options); }, parts);
  };
  expect_bad(100, {"--vocab-size is 100", "at least 260"});
  expect_bad(265, {"--vocab-size is 265", "alone take 2"});
  expect_bad(30000, {"--vocab-size is 30000", "at most "});
  options.inputs = {write_file(m_folder / "blank.txt", "\n \n")};
  expect_bad(500, {"blank.txt", "no text"});
  options.inputs = {m_folder / "corpus.txt"};
  options.model_file = m_folder / "absent/t.model";
  expect_bad(300, {"absent/t.model", "does not exist"});
  EXPECT_THAT(m_folder.names(), ::testing::ElementsAre("blank.txt", "corpus.txt"));
}

TEST_F(TokenizerTest, RefusesWhatIsNotAModelAndIdsOutsideIt) {
  expect_error<ConfigError>([&] { Tokenizer(m_folder / "absent.model"); },
                            {"absent.model", "No such file"});
  expect_error<ConfigError>([&] { Tokenizer(write_file(m_folder / "x.model", "not a model")); },
                            {"x.model", "not a sentencepiece model"});
  expect_error<ConfigError>([&] { Tokenizer(write_file(m_folder / "e.model", "")); }, {"e.model"});
  expect_error<ConfigError>([&] { Tokenizer(m_folder.path()); }, {m_folder.path()});
  Tokenizer tokenizer(train());
  expect_error<DataError>([&] { tokenizer.decode({5, 500}); }, {"token 500", "500 pieces"});
  expect_error<DataError>([&] { tokenizer.decode({-1}); }, {"token -1"});
}

}  // namespace
}  // namespace sdp
