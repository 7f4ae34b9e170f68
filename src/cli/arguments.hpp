// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "base/error.hpp"
#include "data/tokenize.hpp"
#include "train/bench_options.hpp"
#include "train/sample.hpp"

// All that a user may type. Neither this header nor arguments.cpp sees Kokkos, so that compilers
// for devices take the parser's headers as plain C++.

namespace sdp::cli {

/// A deck and the values that win over it, as "section.key=value".
struct DeckArguments {
  std::string deck;
  std::vector<std::string> overrides;
};

struct TrainArguments : DeckArguments {
  bool dry_run = false;
  bool json = false;
};

struct EvalArguments : DeckArguments {
  std::string checkpoint;
  bool json = false;
};

struct PlanArguments : DeckArguments {
  std::string machine;  ///< file; empty: the default one
  std::string out;      ///< folder; empty: nothing is written
  int ranks = 0;
  bool json = false;
};

struct StepBenchArguments : DeckArguments {
  std::string machine;       ///< file; empty: what `sdp train` plans with
  int ranks = 0;             ///< 0: as many as the deck has subnetworks
  double peak_tflops = 0.0;  ///< 0: unknown
  StepBenchOptions bench;    ///< worker, steps and warmup of it
  bool json = false;
};

struct CommBenchArguments : DeckArguments {
  std::string machine;           ///< file; empty: what `sdp train` plans with
  std::vector<double> millions;  ///< parameters of dense models, instead of a deck
  double bucket_mb = 0.0;        ///< with those; 0: the default of a deck
  CommBenchOptions bench;        ///< repeat and warmup of it
  bool json = false;
};

struct CompareArguments {
  std::vector<std::string> runs;  ///< their folders
};

struct ExportArguments {
  std::string checkpoint, out;
  std::string dtype = "f32";  ///< or "bf16"
};

struct ImportArguments {
  std::string source, out;
};

struct InfoArguments {
  std::string checkpoint;
  bool json = false;
};

struct TokenizeArguments {
  std::string model;        ///< to use, or ...
  std::string train_model;  ///< ... to train
  std::string out;
  std::string jsonl_field = "text";
  index_t vocab_size = 0;
  double val_fraction = 0;
  index_t shard_tokens = TokenizeOptions().shard_tokens;
  std::vector<std::string> inputs;
};

using SampleArguments = SampleOptions;

/// What a user asks for.
using Command = std::variant<TrainArguments, EvalArguments, PlanArguments, StepBenchArguments,
                             CommBenchArguments, CompareArguments, ExportArguments, ImportArguments,
                             InfoArguments, TokenizeArguments, SampleArguments>;

/// What is said instead of running a command: help or versions, or what is wrong with the words.
struct Answer {
  ExitCode code = ExitCode::ok;
  std::string text;   ///< for standard output if the code is ok, else for standard error
  std::string error;  ///< one sentence, for the log
};

/// Reads the words of a command line, that of the program first. `version` gives the text of
/// --version. Prints nothing, and throws nothing for wrong words.
std::variant<Answer, Command> parse(int argc, char const* const* argv, std::string (*version)());

}  // namespace sdp::cli
