// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdio>
#include <string>

#include "cli/commands.hpp"
#include "data/tokenize.hpp"
#include "data/tokenizer.hpp"
#include "train/progress.hpp"
#include "train/sample.hpp"

namespace sdp::cli {

ExitCode run(TokenizeArguments const& arguments) {
  if (!arguments.train_model.empty()) {
    TrainTokenizerOptions t;
    t.model_file = arguments.train_model;
    t.vocab_size = arguments.vocab_size;
    t.inputs = arguments.inputs;
    t.jsonl_field = arguments.jsonl_field;
    const TrainTokenizerSummary s = train_tokenizer(t);
    fmt::print("trained {} with {} pieces on {} of {} in {} documents ({:.1f} s)\n",
               arguments.train_model, s.vocab_size, short_bytes(static_cast<double>(s.used_bytes)),
               short_bytes(static_cast<double>(s.bytes)), s.documents, s.seconds);
    return ExitCode::ok;
  }
  if (arguments.model.empty())
    throw ConfigError(
        "tokenize needs --model FILE --out PREFIX, or --train-model FILE "
        "--vocab-size V");
  TokenizeOptions t;
  t.model_file = arguments.model;
  t.out_prefix = arguments.out;
  t.inputs = arguments.inputs;
  t.jsonl_field = arguments.jsonl_field;
  t.val_fraction = arguments.val_fraction;
  t.shard_tokens = arguments.shard_tokens;
  const TokenizeSummary s = tokenize(t);
  fmt::print("tokenised {} documents ({}) into {} training and {} validation tokens ({:.1f} s)\n",
             s.documents, short_bytes(static_cast<double>(s.bytes)), s.train_tokens, s.val_tokens,
             s.seconds);
  for (std::string const& file : s.files) fmt::print("  {}\n", file);
  return ExitCode::ok;
}

ExitCode run(SampleArguments const& arguments) {
  sample(arguments, [](std::string const& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  });
  std::fputs("\n", stdout);
  return ExitCode::ok;
}

}  // namespace sdp::cli
