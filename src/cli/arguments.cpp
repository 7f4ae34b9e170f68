// SPDX-License-Identifier: Apache-2.0
#include "cli/arguments.hpp"

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

namespace sdp::cli {

namespace {

constexpr int k_most_ranks = 1 << 20;
constexpr int k_most_rounds = 1000000;

constexpr char const* k_deck_help = "Deck in TOML; inputs/reference.toml lists every key";
constexpr char const* k_shapes_help = "Deck in TOML; its data files are not opened";
constexpr char const* k_overrides_help = "section.key=value, wins over the deck";
constexpr char const* k_json_help = "Print one JSON object and nothing else";

/// What the user asks for, once a subcommand has all of its arguments.
using Chosen = std::optional<Command>;

template <class Arguments>
void choose_with(CLI::App& command, std::shared_ptr<Arguments> const& arguments, Chosen& chosen) {
  command.callback([arguments, &chosen] { chosen = *arguments; });
}

void add_train(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "Train a model as a deck says");
  command->add_option("DECK", arguments->deck, k_deck_help)->required();
  command->add_option("OVERRIDES", arguments->overrides, k_overrides_help);
  command->add_flag("--dry-run", arguments->dry_run,
                    "Check everything, print the plan, write nothing");
  command->add_flag("--json", arguments->json, "With --dry-run: the plan as one JSON object")
      ->needs("--dry-run");
  choose_with(*command, arguments, chosen);
}

void add_eval(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command =
      app.add_subcommand("eval", "Validation loss of a model on data.val of a deck");
  command->add_option("DECK", arguments->deck, "Deck in TOML")->required();
  command->add_option("OVERRIDES", arguments->overrides, k_overrides_help);
  command
      ->add_option("--checkpoint", arguments->checkpoint,
                   "Checkpoint (.h5), Hugging Face folder or safetensors file")
      ->required();
  command->add_flag("--json", arguments->json, k_json_help);
  choose_with(*command, arguments, chosen);
}

void add_plan(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App* command = app.add_subcommand(
      "plan",
      "Memory, messages and step time of a deck on any number of ranks, beside DDP and ZeRO");
  command->add_option("DECK", arguments->deck, k_deck_help)->required();
  command->add_option("OVERRIDES", arguments->overrides, k_overrides_help);
  command->add_option("--ranks", arguments->ranks, "Number of ranks")
      ->required()
      ->check(CLI::Range(1, k_most_ranks));
  command->add_option("--machine", arguments->machine,
                      "Machine in TOML, such as those of inputs/machines (default: h200.toml)");
  command->add_option("--out", arguments->out, "Folder to write plan.json and mask.json to");
  command->add_flag("--json", arguments->json, k_json_help);
  choose_with(*command, arguments, chosen);
}

void add_bench_step(CLI::App& bench, Chosen& chosen) {
  auto arguments = std::make_shared<StepBenchArguments>();
  CLI::App* command = bench.add_subcommand(
      "step", "Times one worker of a job without the others, on random data, beside the plan");
  command->add_option("DECK", arguments->deck, k_shapes_help)->required();
  command->add_option("OVERRIDES", arguments->overrides, k_overrides_help);
  command->add_option("--ranks", arguments->ranks, "Ranks of the job (default: sdp.subnetworks)")
      ->check(CLI::Range(1, k_most_ranks));
  command->add_option("--worker", arguments->bench.worker, "Which of them (default: 0)")
      ->check(CLI::Range(0, k_most_ranks - 1));
  command->add_option("--steps", arguments->bench.steps, "Timed steps (default: 10)")
      ->check(CLI::Range(1, k_most_rounds));
  command->add_option("--warmup", arguments->bench.warmup, "Steps before those (default: 3)")
      ->check(CLI::Range(0, k_most_rounds));
  command
      ->add_option("--peak-tflops", arguments->peak_tflops,
                   "Peak of the device in the precision of the deck, for MFU (H200 bf16: 989)")
      ->check(CLI::Range(1e-6, 1e9));
  command->add_option("--machine", arguments->machine, "Machine in TOML that the plan is made for");
  command->add_flag("--json", arguments->json, k_json_help);
  choose_with(*command, arguments, chosen);
}

void add_bench_comm(CLI::App& bench, Chosen& chosen) {
  auto arguments = std::make_shared<CommBenchArguments>();
  CLI::App* command = bench.add_subcommand(
      "comm", "Times the exchange of a deck's mask beside all-reduce, under mpirun");
  CLI::Option* deck = command->add_option("DECK", arguments->deck, k_shapes_help);
  command->add_option("OVERRIDES", arguments->overrides, k_overrides_help);
  command
      ->add_option("--elements", arguments->millions,
                   "Instead of a deck: dense models of so many million parameters")
      ->check(CLI::Range(1e-6, 1e6))
      ->excludes(deck);
  command
      ->add_option("--bucket-mb", arguments->bucket_mb,
                   "MiB of a bucket, with --elements (default: 64)")
      ->check(CLI::Range(1e-3, 1024.0))
      ->excludes(deck);
  command->add_option("--repeat", arguments->bench.repeat, "Timed rounds (default: 10)")
      ->check(CLI::Range(1, k_most_rounds));
  command->add_option("--warmup", arguments->bench.warmup, "Rounds before those (default: 2)")
      ->check(CLI::Range(0, k_most_rounds));
  command->add_option("--machine", arguments->machine,
                      "Machine in TOML with the values that are not measured here");
  command->add_flag("--json", arguments->json, k_json_help);
  choose_with(*command, arguments, chosen);
}

void add_bench(CLI::App& app, Chosen& chosen) {
  CLI::App* command = app.add_subcommand("bench", "Measures a step, or the exchange");
  command->require_subcommand(1);
  add_bench_step(*command, chosen);
  add_bench_comm(*command, chosen);
}

void add_compare(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<CompareArguments>();
  CLI::App* command = app.add_subcommand(
      "compare", "Loss, memory, messages and time of finished runs side by side");
  command->add_option("RUN", arguments->runs, "run.out_dir of each run; ratios are to the first")
      ->required()
      ->expected(1, 8);
  choose_with(*command, arguments, chosen);
}

void add_export(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App* command =
      app.add_subcommand("export",
                         "Write a checkpoint as safetensors: a LLaMA as a Hugging Face "
                         "folder, a ResNet-18 under its PyTorch names");
  command->add_option("CHECKPOINT", arguments->checkpoint, "Checkpoint (.h5)")->required();
  command->add_option("--out", arguments->out, "Folder to write")->required();
  command->add_option("--dtype", arguments->dtype, "f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}));
  choose_with(*command, arguments, chosen);
}

void add_import(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* command = app.add_subcommand(
      "import",
      "Turn safetensors into a checkpoint: a LLaMA from its Hugging Face folder, a CIFAR "
      "ResNet-18 under its PyTorch names");
  command
      ->add_option("DIR_OR_FILE", arguments->source,
                   "Hugging Face folder or safetensors file (LLaMA), safetensors file (ResNet-18)")
      ->required();
  command->add_option("--out", arguments->out, "Checkpoint (.h5) to write")->required();
  choose_with(*command, arguments, chosen);
}

void add_info(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<InfoArguments>();
  CLI::App* command = app.add_subcommand("info", "Say what a checkpoint holds");
  command->add_option("CHECKPOINT", arguments->checkpoint, "Checkpoint (.h5)")->required();
  command->add_flag("--json", arguments->json, k_json_help);
  choose_with(*command, arguments, chosen);
}

void add_tokenize(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<TokenizeArguments>();
  CLI::App* command = app.add_subcommand(
      "tokenize", "Turn text into token shards, or train a tokenizer on it (--train-model)");
  command
      ->add_option("INPUT", arguments->inputs,
                   "Text or JSONL files, plain, gzip or zstd, or folders of them")
      ->required();
  CLI::Option* model =
      command->add_option("--model", arguments->model, "sentencepiece model to use");
  CLI::Option* train = command->add_option("--train-model", arguments->train_model,
                                           "Train a sentencepiece model and write it here");
  CLI::Option* out = command->add_option("--out", arguments->out,
                                         "Prefix of PREFIX_train_*.bin and PREFIX_val_*.bin");
  command->add_option("--val-fraction", arguments->val_fraction, "Share kept for validation")
      ->check(CLI::Range(0.0, 0.999))
      ->needs(model);
  command->add_option("--shard-tokens", arguments->shard_tokens, "Most tokens in one file")
      ->check(CLI::PositiveNumber)
      ->needs(model);
  CLI::Option* vocab =
      command->add_option("--vocab-size", arguments->vocab_size, "Pieces of the new model")
          ->check(CLI::PositiveNumber)
          ->needs(train);
  command
      ->add_option("--jsonl-field", arguments->jsonl_field, "Field of JSONL lines that holds text")
      ->capture_default_str();
  model->excludes(train);
  model->needs(out);
  out->needs(model);
  train->needs(vocab);
  choose_with(*command, arguments, chosen);
}

void add_sample(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<SampleArguments>();
  CLI::App* command = app.add_subcommand("sample", "Continue a text with a trained model");
  command->add_option("--checkpoint", arguments->checkpoint, "Checkpoint (.h5)")->required();
  command->add_option("--tokenizer", arguments->tokenizer, "sentencepiece model")->required();
  command->add_option("--prompt", arguments->prompt, "Text to continue");
  command->add_option("--tokens", arguments->tokens, "Tokens to generate")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", arguments->temperature, "0: always the likeliest token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-k", arguments->top_k, "Choose among the k likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--seed", arguments->seed, "Same seed, same text")->capture_default_str();
  choose_with(*command, arguments, chosen);
}

}  // namespace

std::variant<Answer, Command> parse(int argc, char const* const* argv, std::string (*version)()) {
  CLI::App app{"Pre-trains neural networks with Subnetwork Data Parallelism"};
  app.name("sdp");
  app.require_subcommand(0, 1);
  bool asks_version = false;
  app.add_flag("--version", asks_version, "Print versions of the program and its libraries");
  Chosen chosen;
  add_train(app, chosen);
  add_eval(app, chosen);
  add_plan(app, chosen);
  add_bench(app, chosen);
  add_compare(app, chosen);
  add_export(app, chosen);
  add_import(app, chosen);
  add_info(app, chosen);
  add_tokenize(app, chosen);
  add_sample(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (CLI::CallForHelp const&) {  // of the program, or of the subcommand that was named
    return Answer{ExitCode::ok, app.help(), {}};
  } catch (CLI::ParseError const& error) {
    return Answer{
        ExitCode::usage, {}, std::string(error.what()) + " (sdp --help lists the commands)"};
  }
  if (asks_version) return Answer{ExitCode::ok, version(), {}};
  if (!chosen) return Answer{ExitCode::usage, app.help(), {}};
  return *chosen;
}

}  // namespace sdp::cli
