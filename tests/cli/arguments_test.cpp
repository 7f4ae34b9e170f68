// SPDX-License-Identifier: Apache-2.0
#include "cli/arguments.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

namespace sdp::test {
namespace {

using namespace cli;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string version() {
  return "version 7\n";
}

std::variant<Answer, Command> parse_words(std::vector<char const*> words) {
  words.insert(words.begin(), "sdp");
  return parse(static_cast<int>(words.size()), words.data(), version);
}

template <class Arguments>
Arguments arguments_of(std::vector<char const*> const& words) {
  return std::get<Arguments>(std::get<Command>(parse_words(words)));
}

Answer answer_to(std::vector<char const*> const& words) {
  return std::get<Answer>(parse_words(words));
}

TEST(Arguments, AreThoseOfTheCommand) {
  const auto plan = arguments_of<PlanArguments>(
      {"plan", "deck.toml", "train.steps=3", "run.seed=4", "--ranks", "8", "--json"});
  EXPECT_EQ(plan.deck, "deck.toml");
  EXPECT_EQ(plan.overrides, (std::vector<std::string>{"train.steps=3", "run.seed=4"}));
  EXPECT_EQ(plan.ranks, 8);
  EXPECT_TRUE(plan.json);
  EXPECT_EQ(plan.machine, "");
}

TEST(Arguments, KnowTheCommandInsideACommand) {
  EXPECT_EQ(arguments_of<StepBenchArguments>({"bench", "step", "d", "--steps", "4"}).bench.steps,
            4);
  EXPECT_EQ(arguments_of<CommBenchArguments>({"bench", "comm", "--elements", "2.5", "10"}).millions,
            (std::vector<double>{2.5, 10.0}));
}

TEST(Arguments, HaveTheDefaultsOfTheOptions) {
  const auto sample =
      arguments_of<SampleArguments>({"sample", "--checkpoint", "c", "--tokenizer", "t"});
  EXPECT_EQ(sample.tokens, SampleOptions().tokens);
  EXPECT_EQ(sample.temperature, SampleOptions().temperature);
  const auto tokenize =
      arguments_of<TokenizeArguments>({"tokenize", "x", "--model", "m", "--out", "o"});
  EXPECT_EQ(tokenize.shard_tokens, TokenizeOptions().shard_tokens);
  EXPECT_EQ(arguments_of<ExportArguments>({"export", "c", "--out", "o"}).dtype, "f32");
}

TEST(Arguments, ThatAreWrongAreAnsweredWithOneSentence) {
  for (std::vector<char const*> const& words :
       std::vector<std::vector<char const*>>{{"train"},
                                             {"frobnicate"},
                                             {"train", "deck.toml", "--frobnicate"},
                                             {"plan", "deck.toml", "--ranks", "0"},
                                             {"bench"},
                                             {"export", "c", "--out", "o", "--dtype", "f64"}}) {
    const Answer answer = answer_to(words);
    EXPECT_EQ(answer.code, ExitCode::usage);
    EXPECT_EQ(answer.text, "");
    EXPECT_THAT(answer.error, HasSubstr(" (sdp --help lists the commands)"));
  }
}

TEST(Arguments, ThatAskForHelpGetThatOfTheirCommand) {
  const Answer program = answer_to({"--help"});
  EXPECT_EQ(program.code, ExitCode::ok);
  EXPECT_THAT(program.text, StartsWith("Pre-trains neural networks"));
  EXPECT_THAT(answer_to({"bench", "comm", "--help"}).text, StartsWith("Times the exchange"));
  const Answer nothing = answer_to({});
  EXPECT_EQ(nothing.code, ExitCode::usage);
  EXPECT_EQ(nothing.text, program.text);
}

TEST(Arguments, ThatAskForVersionsRunNothing) {
  for (std::vector<char const*> const& words :
       std::vector<std::vector<char const*>>{{"--version"}, {"--version", "train", "deck.toml"}}) {
    EXPECT_EQ(answer_to(words).code, ExitCode::ok);
    EXPECT_EQ(answer_to(words).text, "version 7\n");
  }
}

}  // namespace
}  // namespace sdp::test
