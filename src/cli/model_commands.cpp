// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "checkpoint/convert.hpp"
#include "checkpoint/describe.hpp"
#include "cli/commands.hpp"
#include "models/model_family.hpp"
#include "train/progress.hpp"

namespace sdp::cli {

namespace {

void report(char const* verb, ConvertedModel const& converted) {
  fmt::print("{} {} parameters\n", verb, short_count(static_cast<double>(converted.parameters)));
  for (std::string const& path : converted.paths) fmt::print("  {}\n", path);
}

}  // namespace

void add_export(CLI::App& app, Action& action) {
  struct Options {
    std::string checkpoint, out, dtype = "f32";
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("export",
                         "Write a checkpoint as safetensors: a LLaMA as a Hugging Face "
                         "folder, a ResNet-18 under its PyTorch names");
  command->add_option("CHECKPOINT", options->checkpoint, "Checkpoint (.h5)")->required();
  command->add_option("--out", options->out, "Folder to write")->required();
  command->add_option("--dtype", options->dtype, "f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command->callback([&action, options] {
    action = [options](World const*) {
      report("exported",
             export_checkpoint(options->checkpoint, options->out,
                               options->dtype == "bf16" ? TensorType::bf16 : TensorType::f32,
                               model_tensors));
      return ExitCode::ok;
    };
  });
}

void add_import(CLI::App& app, Action& action) {
  struct Options {
    std::string source, out;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "import",
      "Turn safetensors into a checkpoint: a LLaMA from its Hugging Face folder, a CIFAR "
      "ResNet-18 under its PyTorch names");
  command
      ->add_option("DIR_OR_FILE", options->source,
                   "Hugging Face folder or safetensors file (LLaMA), safetensors file (ResNet-18)")
      ->required();
  command->add_option("--out", options->out, "Checkpoint (.h5) to write")->required();
  command->callback([&action, options] {
    action = [options](World const*) {
      report("imported", import_model(options->source, options->out, model_tensors));
      return ExitCode::ok;
    };
  });
}

void add_info(CLI::App& app, Action& action) {
  struct Options {
    std::string checkpoint;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("info", "Say what a checkpoint holds");
  command->add_option("CHECKPOINT", options->checkpoint, "Checkpoint (.h5)")->required();
  command->add_flag("--json", options->json, "Print one JSON object and nothing else");
  command->callback([&action, options] {
    action = [options](World const*) {
      const CheckpointReader reader(options->checkpoint);
      const std::string text =
          options->json ? describe_json(reader.info()) : describe(reader.info());
      fmt::print("{}{}", text, text.empty() || text.back() != '\n' ? "\n" : "");
      return ExitCode::ok;
    };
  });
}

}  // namespace sdp::cli
