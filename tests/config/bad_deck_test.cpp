// SPDX-License-Identifier: Apache-2.0
#include "base/version.hpp"
#include "config/supported.hpp"
#include "tests/config/decks.hpp"

namespace sdp::test {
namespace {

using ::testing::HasSubstr;
using Fragments = std::vector<std::string>;

void expect_error(std::string const& text, Fragments const& fragments, Launch const& launch = {},
                  std::vector<std::string> const& overrides = {}) {
  const std::string error = error_of([&] { parse(text, overrides, launch); });
  for (auto const& fragment : fragments) EXPECT_THAT(error, HasSubstr(fragment)) << text;
}

TEST(BadDeck, NotToml) {
  expect_error("", {"deck.toml: model.kind is missing; it must be \"llama\" or \"resnet18\""});
  expect_error("# nothing but a comment\n", {"deck.toml: model.kind is missing"});
  expect_error("[run]\nname = \n", {"deck.toml:2:", "not valid TOML"});
  expect_error("[run\nname = 1", {"deck.toml:1:5", "not valid TOML"});
  expect_error("[run]\nseed = 1\nseed = 2\n", {"deck.toml:3:", "not valid TOML", "seed"});
  expect_error("[run]\n[run]\n", {"deck.toml:2:", "not valid TOML"});
  expect_error("[run]\nseed = 99999999999999999999\n", {"deck.toml:2:", "not valid TOML"});
  expect_error(std::string("[run]\nname = \"\xff\xfe\"\n"), {"deck.toml:2:", "not valid TOML"});
  expect_error(std::string("\x7f\x45LF\x02\x01\x00\x00", 8), {"deck.toml:1:1", "not valid TOML"});
  expect_error("# c\n[run]\nname = 'x'\n[# no name\nseed = 1\n",
               {"deck.toml:4:", "not valid TOML"});
  expect_error("[run]\nname = \"open\n", {"deck.toml:2:", "not valid TOML"});
}

TEST(BadDeck, UnknownKeysAndSections) {
  const auto unknown = [](std::string const& key, std::string const& value, Fragments fragments) {
    fragments.push_back("is not a key of a deck");
    expect_error(llama_deck({{key, value}}), fragments);
  };
  unknown("model.hiden_size", "48", {"model.hiden_size", "did you mean model.hidden_size?"});
  unknown("train.step", "1", {"train.step is not", "did you mean train.steps?"});
  unknown("sdp.steps", "1", {"did you mean train.steps?"});
  unknown("optimizer.learning_rate", "0.1", {"inputs/reference.toml lists them all"});
  unknown("optimiser.lr", "0.1", {"optimiser is not", "did you mean optimizer?"});
  unknown("zzzzzz.qqqqqq", "1", {"zzzzzz is not", "inputs/reference.toml lists them all"});
  unknown("schedule.warm_up_steps", "5", {"did you mean schedule.warmup_steps?"});
  expect_error("lr = 1\n" + llama_deck(), {"deck.toml:1: lr is not", "did you mean optimizer.lr?"});
  expect_error("train = 5\n", {"deck.toml:1: train is 5 (an integer), but [train] is a section"});
  expect_error("[[train]]\nsteps = 5\n", {"deck.toml:1: train is", "but [train] is a section"});
  expect_error("[model.llama]\nvocab_size = 5\n", {"deck.toml:1: model.llama is not a key"});
  expect_error("\"a\\nb\" = 1\n", {"deck.toml:1: a b is not a key"});
  // The first fault of the file is reported, whatever the names.
  expect_error("[train]\nzz = 1\n[run]\naa = 1\n", {"deck.toml:2: train.zz"});
}

struct BadValue {
  std::string key, value;
  Fragments fragments;
};

TEST(BadDeck, TypesAndRanges) {
  const BadValue cases[] = {
      {"train.steps", "\"many\"", {"train.steps is \"many\" (a string)", "an integer from 1 to"}},
      {"train.steps", "20.0", {"train.steps is 20.0 (a number with a point)", "an integer"}},
      {"train.steps", "true", {"train.steps is true (a boolean)"}},
      {"train.steps", "[1]", {"train.steps is [ 1 ] (a list)"}},
      {"train.steps", "{a = 1}", {"train.steps is", "(a table)"}},
      {"train.steps", "1979-05-27", {"train.steps is 1979-05-27 (a date or time)"}},
      {"train.steps", "0", {"train.steps is 0 (an integer), but it must be an integer from 1 to"}},
      {"train.steps", "-5", {"train.steps is -5"}},
      {"train.steps", "9223372036854775807", {"train.steps", "to 1000000000000"}},
      {"train.global_batch", "0", {"an integer from 1 to 1000000000"}},
      {"train.micro_batch", "0", {"train.micro_batch is 0"}},
      {"train.seq_len", "0", {"train.seq_len is 0", "from 1 to 16777216"}},
      {"train.seq_len", "16777217", {"train.seq_len is 16777217", "from 1 to 16777216"}},
      {"train.eval_every", "-1", {"train.eval_every is -1", "from 0 to"}},
      {"train.log_every", "0", {"train.log_every is 0", "from 1 to"}},
      {"train.match", "\"time\"", {"train.match is \"time\"", "\"steps\" or \"flops\""}},
      {"train.label_smoothing", "1.0", {"a number of at least 0 and below 1"}},
      {"train.max_nonfinite", "0", {"train.max_nonfinite is 0"}},
      {"run.name", "5", {"run.name is 5 (an integer), but it must be a string"}},
      {"run.seed", "-1", {"run.seed is -1", "from 0 to 9007199254740992"}},
      {"run.seed", "9007199254740993", {"run.seed is 9007199254740993", "to 9007199254740992"}},
      {"run.out_dir", "\"\"", {"run.out_dir is \"\"", "a string that is not empty"}},
      {"run.precision", "\"fp16\"", {"\"fp32\", \"bf16\" or \"fp64\""}},
      {"run.deterministic", "1", {"run.deterministic is 1 (an integer)", "true or false"}},
      {"model.kind", "\"gpt\"", {"model.kind is \"gpt\"", "\"llama\" or \"resnet18\""}},
      {"model.vocab_size", "2147483648", {"model.vocab_size", "from 1 to 2147483647"}},
      {"model.hidden_size", "0", {"model.hidden_size is 0"}},
      {"model.hidden_size", "20000000", {"model.hidden_size", "from 1 to 16777216"}},
      {"model.intermediate_size", "-96", {"model.intermediate_size is -96"}},
      {"model.num_layers", "0", {"model.num_layers is 0", "from 1 to 65536"}},
      {"model.num_heads", "0", {"model.num_heads is 0"}},
      {"model.num_kv_heads", "0", {"model.num_kv_heads is 0"}},
      {"model.head_dim", "0", {"model.head_dim is 0"}},
      {"model.rope_theta", "0", {"model.rope_theta is 0", "a number above 0"}},
      {"model.rms_norm_eps", "nan", {"model.rms_norm_eps is nan", "a number above 0"}},
      {"model.tie_embeddings", "\"yes\"", {"true or false"}},
      {"model.init_std", "-0.02", {"model.init_std", "a number of at least 0"}},
      {"model.recompute", "\"all\"", {"\"none\" or \"block\""}},
      {"data.kind", "\"text\"", {"\"tokens\", \"cifar10\", \"cifar100\" or \"idx\""}},
      {"data.train", "\"train.bin\"", {"(a string)", "a list of at least one string"}},
      {"data.train", "[]", {"data.train is [] (a list)", "a list of at least one string"}},
      {"data.train", "[1, 2]", {"data.train is [ 1, 2 ]"}},
      {"data.train", "[\"a\", \"\"]", {"data.train has an empty string"}},
      {"data.val", "[\"a\", 1]", {"data.val", "a list of strings"}},
      {"data.format", "\"parquet\"", {"\"auto\", \"llmc\" or \"nanogpt-u16\""}},
      {"optimizer.kind", "\"adam\"", {"\"adamw\" or \"sgd\""}},
      {"optimizer.lr", "-1e-3", {"optimizer.lr is -0.001", "a number of at least 0"}},
      {"optimizer.lr", "inf", {"optimizer.lr is inf", "a number of at least 0"}},
      {"optimizer.lr", "\"1e-3\"", {"optimizer.lr is \"1e-3\" (a string)"}},
      {"optimizer.beta1", "1.0", {"optimizer.beta1 is 1.0", "below 1"}},
      {"optimizer.beta2", "-0.1", {"optimizer.beta2", "of at least 0 and below 1"}},
      {"optimizer.eps", "0.0", {"optimizer.eps is 0.0", "a number above 0"}},
      {"optimizer.weight_decay", "-0.1", {"optimizer.weight_decay"}},
      {"optimizer.grad_clip", "-1", {"optimizer.grad_clip is -1 (an integer)"}},
      {"optimizer.momentum", "1", {"optimizer.momentum is 1", "below 1"}},
      {"schedule.kind", "\"step\"", {"\"cosine\", \"wsd\", \"linear\" or \"constant\""}},
      {"schedule.warmup_steps", "-1", {"schedule.warmup_steps is -1"}},
      {"schedule.final_ratio", "1.5", {"schedule.final_ratio is 1.5", "a number from 0 to 1"}},
      {"schedule.decay_fraction", "0", {"a number above 0 and at most 1"}},
      {"sdp.coverage", "0", {"sdp.coverage is 0", "above 0 and at most 1"}},
      {"sdp.coverage", "1.25", {"sdp.coverage is 1.25"}},
      {"sdp.subnetworks", "65", {"sdp.subnetworks is 65", "from 1 to 64"}},
      {"sdp.design", "\"best\"", {"\"auto\", \"windows\""}},
      {"checkpoint.keep", "0", {"checkpoint.keep is 0"}},
      {"checkpoint.files", "0", {"checkpoint.files is 0"}},
      {"checkpoint.resume", "\"\"", {"a string that is not empty"}},
      {"system.comm", "\"ucx\"", {"\"auto\", \"mpi\" or \"nccl\""}},
      {"system.bucket_mb", "0", {"system.bucket_mb is 0"}},
      {"system.watchdog_seconds", "2000000000", {"from 1 to 1000000000"}},
  };
  for (auto const& bad : cases) {
    SCOPED_TRACE(bad.key + " = " + bad.value);
    auto fragments = bad.fragments;
    fragments.push_back("deck.toml:");
    fragments.push_back(bad.key);
    expect_error(llama_deck({{bad.key, bad.value}}), fragments);
  }
}

TEST(BadDeck, NamesOfManyParts) {
  std::string name = "a";
  for (int i = 0; i < 100000; ++i) name += ".a";
  expect_error("[run]\n" + name + " = 1\n", {"deck.toml:2:", "more parts than any"});
  expect_error("[" + name + "]\n", {"deck.toml:1:", "more parts than any"});
  // Dots elsewhere are no names.
  const std::string dots(200, '.');
  const Config config =
      parse(llama_deck({{"run.name", "\"" + dots + "\\\"" + dots + "\""}}) + "# " + dots + "\n");
  EXPECT_EQ(config.run.name, dots + "\"" + dots);
}

TEST(BadDeck, NamesTheLine) {
  expect_error("[model]\nkind = \"llama\"\n\n[train]\nsteps = 0\n",
               {"deck.toml:5: train.steps is 0"});
}

TEST(BadDeck, MissingKeys) {
  for (auto const* key :
       {"run.out_dir", "model.kind", "model.vocab_size", "model.hidden_size",
        "model.intermediate_size", "model.num_layers", "model.num_heads", "data.kind", "data.train",
        "train.steps", "train.global_batch", "train.seq_len"})
    expect_error(llama_deck({{key, ""}}),
                 {"deck.toml: " + std::string(key) + " is missing; it must be"});
}

TEST(BadDeck, ShapesThatDoNotFit) {
  expect_error(llama_deck({{"model.num_heads", "5"}}),
               {"deck.toml:8: model.num_heads is 5, which does not divide model.hidden_size (48)",
                "nearest that work: 4 and 6"});
  expect_error(llama_deck({{"model.num_heads", "64"}}),
               {"model.num_heads is 64", "nearest that work: 48"});
  expect_error(llama_deck({{"model.num_kv_heads", "3"}}),
               {"model.num_kv_heads is 3, which does not divide model.num_heads (4)",
                "nearest that work: 2 and 4"});
  expect_error(llama_deck({{"model.num_kv_heads", "8"}}),
               {"model.num_kv_heads is 8", "nearest that work: 4"});
  expect_error(llama_deck({{"model.head_dim", "7"}}), {"model.head_dim is 7", "must be even"});
  expect_error(llama_deck({{"model.num_heads", "16"}}),
               {"model.hidden_size / model.num_heads is 48 / 16 = 3", "must be even"});
  expect_error(llama_deck({{"model.max_seq_len", "8"}}),
               {"train.seq_len is 16, but model.max_seq_len is 8"});
  expect_error(llama_deck({{"model.hidden_size", "16777216"},
                           {"model.intermediate_size", "16777216"},
                           {"model.num_layers", "65536"}}),
               {"deck.toml: the sizes in [model] make 1.29e+20 parameters", "at most 9.01e+15"});
  expect_error(llama_deck({{"train.global_batch", "1000000000"},
                           {"train.seq_len", "16777216"},
                           {"train.steps", "1"}}),
               {"train.micro_batch 1000000000 x train.seq_len 16777216", "can be counted"});
  expect_error(llama_deck({{"train.steps", "1000000000000"}, {"train.global_batch", "1000000"}}),
               {"train.steps 1000000000000 x train.global_batch 1000000 x train.seq_len 16"});
}

TEST(BadDeck, BatchesThatDoNotDivide) {
  const Launch four{.ranks = 4};
  expect_error(llama_deck({{"train.global_batch", "10"}}),
               {"train.global_batch is 10, which 4 ranks cannot share equally",
                "nearest that work: 8 and 12"},
               four);
  expect_error(llama_deck({{"train.global_batch", "3"}}),
               {"train.global_batch is 3", "nearest that work: 4"}, four);
  expect_error(llama_deck({{"train.global_batch", "24"}, {"train.micro_batch", "4"}}),
               {"train.micro_batch is 4, which does not divide the 6 samples of a rank "
                "(train.global_batch 24 / 4 ranks); nearest that work: 3 and 6"},
               four);
  expect_error(llama_deck({{"train.micro_batch", "16"}}),
               {"micro_batch is 16", "nearest that work: 8"});
  // Evaluation does not depend on the rank count.
  parse(llama_deck({{"train.global_batch", "10"}}), {}, {.ranks = 4, .training = false});
}

TEST(BadDeck, KeysThatExcludeEachOther) {
  expect_error(llama_deck({{"data.kind", "\"cifar10\""}}),
               {"data.kind is \"cifar10\", but model.kind \"llama\" needs \"tokens\""});
  expect_error(resnet_deck({{"data.kind", "\"tokens\""}}),
               {"data.kind is \"tokens\"", "needs \"cifar10\", \"cifar100\" or \"idx\""});
  for (auto const* key : {"model.vocab_size", "model.hidden_size", "train.seq_len", "data.format",
                          "data.tokenizer", "model.recompute", "sdp.block_unit"})
    expect_error(
        resnet_deck({{key, "1"}}),
        {std::string(key) + " belongs to model.kind \"llama\", but model.kind is \"resnet18\""});
  for (auto const* key : {"model.width", "model.num_classes", "model.in_channels", "data.augment",
                          "train.bn_batches"})
    expect_error(
        llama_deck({{key, "1"}}),
        {std::string(key) + " belongs to model.kind \"resnet18\", but model.kind is \"llama\""});
  expect_error(llama_deck({{"schedule.warmup_steps", "21"}}),
               {"schedule.warmup_steps is 21, but it must be at most train.steps (20)"});
  expect_error(llama_deck({{"train.eval_every", "5"}}),
               {"train.eval_every is 5, but data.val names no files"});
  expect_error(llama_deck({{"sdp.protect_first", "2"}, {"sdp.protect_last", "1"}}),
               {"sdp.protect_first 2 + sdp.protect_last 1 is more than the 2 blocks"});
}

TEST(BadDeck, Subnetworks) {
  const Launch eight{.ranks = 8};
  const auto sdp = [](std::string const& coverage, std::string const& n) {
    return llama_deck(
        {{"sdp.regime", "\"forward\""}, {"sdp.coverage", coverage}, {"sdp.subnetworks", n}});
  };
  expect_error(sdp("0.3", "8"),
               {"sdp.coverage 0.3 x sdp.subnetworks 8 is 2.4", "whole number from 1 to 8",
                "nearest coverage is 0.25"},
               eight);
  expect_error(sdp("0.01", "8"), {"is 0.08", "nearest coverage is 0.125"}, eight);
  expect_error(sdp("0.5", "1"), {"sdp.coverage 0.5 x sdp.subnetworks 1", "nearest coverage is 1"},
               eight);
  expect_error(sdp("0.5", "16"), {"sdp.subnetworks is 16", "at most the number of ranks (8)"},
               eight);
  expect_error(
      llama_deck(
          {{"sdp.regime", "\"forward\""}, {"sdp.level", "\"neuron\""}, {"sdp.neuron_group", "10"}}),
      {"sdp.neuron_group is 10", "model.intermediate_size (96)", "nearest that work: 8 and 12"});
  EXPECT_EQ(parse(sdp("0.3333333333", "6"), {"train.global_batch=6"}, {.ranks = 6}).sdp.subnetworks,
            6);
  EXPECT_EQ(parse(sdp("0.3", "8"), {}, {.ranks = 1, .training = false}).sdp.coverage, 0.3);
}

TEST(BadDeck, Overrides) {
  const auto bad = [](std::string const& text, Fragments const& fragments) {
    expect_error(llama_deck(), fragments, {}, {text});
  };
  bad("train.steps", {"command line, train.steps: an override is written section.key=value"});
  bad("", {"an override is written section.key=value"});
  bad("=5", {"command line, =5:"});
  bad("train=5", {"command line, train=5: train is a section"});
  bad("train.stepz=5", {"command line, train.stepz=5: train.stepz is not a key of a deck",
                        "did you mean train.steps?"});
  bad("steps=5", {"steps is not a key", "did you mean train.steps?"});
  bad("train.steps=", {"command line: train.steps is \"\" (a string)"});
  bad("train.steps=ten", {"command line: train.steps is \"ten\" (a string)"});
  bad("train.steps=1\n[x]", {"command line: train.steps is", "(a string)"});
  bad("train.steps=1\nother=2", {"command line: train.steps is", "(a string)"});
  bad("train.steps.x=1", {"train.steps.x is not a key"});
  bad("model.num_heads=5", {"command line: model.num_heads is 5, which does not divide"});
  bad("run.name=\xff", {"not valid UTF-8"});
  bad("run.name=two\nlines \xff", {"not valid UTF-8"});
  bad("model.width=64", {"command line: model.width belongs to model.kind \"resnet18\""});
}

TEST(BadDeck, WhatThisVersionDoesNotDo) {
  const auto refusal = [](Config const& config) {
    return error_of([&] { require_supported(config); });
  };
  EXPECT_EQ(refusal(parse(resnet_deck({{"run.precision", "\"bf16\""}}))), "no error");
  const auto wire = [&](char const* key, char const* value) {
    return refusal(parse(llama_deck({{"system.gradient_wire", "\"bf16\""}, {key, value}})));
  };
  EXPECT_EQ(wire("run.precision", "\"fp64\""),
            "system.gradient_wire is \"bf16\", which is not available with run.precision \"fp64\" "
            "in this version; use \"fp32\"");
  EXPECT_EQ(wire("system.reduction", "\"allreduce\""),
            "system.gradient_wire is \"bf16\", which is not available with system.reduction "
            "\"allreduce\" in this version; use \"fp32\"");
  EXPECT_EQ(wire("run.precision", "\"bf16\""), "no error");
  EXPECT_EQ(wire("system.node_memory", "\"on\""),
            "system.node_memory is \"on\", which is not available with system.gradient_wire "
            "\"bf16\" in this version; use \"auto\"");
  EXPECT_EQ(wire("system.node_memory", "\"auto\""), "no error");
  EXPECT_EQ(refusal(parse(llama_deck(
                {{"system.node_memory", "\"on\""}, {"system.reduction", "\"allreduce\""}}))),
            "system.node_memory is \"on\", which is not available with system.reduction "
            "\"allreduce\" in this version; use \"auto\"");
  const Config nccl = parse(llama_deck({{"system.comm", "\"nccl\""}}));
  EXPECT_THAT(error_of([&] { require_supported(nccl); }),
              has_nccl() ? HasSubstr("no error")
                         : HasSubstr("system.comm is \"nccl\", but this sdp was built without it"));
  EXPECT_EQ(error_of([&] { require_supported(parse(resnet_deck())); }), "no error");
  EXPECT_EQ(error_of([&] { require_supported(parse(llama_deck())); }), "no error");
}

}  // namespace
}  // namespace sdp::test
