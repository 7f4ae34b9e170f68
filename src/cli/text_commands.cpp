// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "cli/commands.hpp"
#include "data/tokenize.hpp"
#include "data/tokenizer.hpp"
#include "train/progress.hpp"
#include "train/sample.hpp"

namespace sdp::cli {

void add_tokenize(CLI::App& app, Action& action) {
  struct Options {
    std::string model, train_model, out, jsonl_field = "text";
    index_t vocab_size = 0;
    double val_fraction = 0;
    index_t shard_tokens = TokenizeOptions().shard_tokens;
    std::vector<std::string> inputs;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "tokenize", "Turn text into token shards, or train a tokenizer on it (--train-model)");
  command
      ->add_option("INPUT", options->inputs,
                   "Text or JSONL files, plain, gzip or zstd, or folders of them")
      ->required();
  CLI::Option* model = command->add_option("--model", options->model, "sentencepiece model to use");
  CLI::Option* train = command->add_option("--train-model", options->train_model,
                                           "Train a sentencepiece model and write it here");
  CLI::Option* out = command->add_option("--out", options->out,
                                         "Prefix of PREFIX_train_*.bin and PREFIX_val_*.bin");
  command->add_option("--val-fraction", options->val_fraction, "Share kept for validation")
      ->check(CLI::Range(0.0, 0.999))
      ->needs(model);
  command->add_option("--shard-tokens", options->shard_tokens, "Most tokens in one file")
      ->check(CLI::PositiveNumber)
      ->needs(model);
  CLI::Option* vocab =
      command->add_option("--vocab-size", options->vocab_size, "Pieces of the new model")
          ->check(CLI::PositiveNumber)
          ->needs(train);
  command->add_option("--jsonl-field", options->jsonl_field, "Field of JSONL lines that holds text")
      ->capture_default_str();
  model->excludes(train);
  model->needs(out);
  out->needs(model);
  train->needs(vocab);
  command->callback([&action, options] {
    action = [options](World const*) {
      if (!options->train_model.empty()) {
        TrainTokenizerOptions t;
        t.model_file = options->train_model;
        t.vocab_size = options->vocab_size;
        t.inputs = options->inputs;
        t.jsonl_field = options->jsonl_field;
        const TrainTokenizerSummary s = train_tokenizer(t);
        fmt::print("trained {} with {} pieces on {} of {} in {} documents ({:.1f} s)\n",
                   options->train_model, s.vocab_size,
                   short_bytes(static_cast<double>(s.used_bytes)),
                   short_bytes(static_cast<double>(s.bytes)), s.documents, s.seconds);
        return ExitCode::ok;
      }
      if (options->model.empty())
        throw ConfigError(
            "tokenize needs --model FILE --out PREFIX, or --train-model FILE "
            "--vocab-size V");
      TokenizeOptions t;
      t.model_file = options->model;
      t.out_prefix = options->out;
      t.inputs = options->inputs;
      t.jsonl_field = options->jsonl_field;
      t.val_fraction = options->val_fraction;
      t.shard_tokens = options->shard_tokens;
      const TokenizeSummary s = tokenize(t);
      fmt::print(
          "tokenised {} documents ({}) into {} training and {} validation tokens ({:.1f} s)\n",
          s.documents, short_bytes(static_cast<double>(s.bytes)), s.train_tokens, s.val_tokens,
          s.seconds);
      for (std::string const& file : s.files) fmt::print("  {}\n", file);
      return ExitCode::ok;
    };
  });
}

void add_sample(CLI::App& app, Action& action) {
  auto options = std::make_shared<SampleOptions>();
  CLI::App* command = app.add_subcommand("sample", "Continue a text with a trained model");
  command->add_option("--checkpoint", options->checkpoint, "Checkpoint (.h5)")->required();
  command->add_option("--tokenizer", options->tokenizer, "sentencepiece model")->required();
  command->add_option("--prompt", options->prompt, "Text to continue");
  command->add_option("--tokens", options->tokens, "Tokens to generate")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", options->temperature, "0: always the likeliest token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-k", options->top_k, "Choose among the k likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Same seed, same text")->capture_default_str();
  command->callback([&action, options] {
    action = [options](World const*) {
      sample(*options, [](std::string const& text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
      });
      std::fputs("\n", stdout);
      return ExitCode::ok;
    };
  });
}

}  // namespace sdp::cli
