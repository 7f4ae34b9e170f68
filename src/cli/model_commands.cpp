// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdio>
#include <string>

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

ExitCode run(ExportArguments const& arguments) {
  report("exported",
         export_checkpoint(arguments.checkpoint, arguments.out,
                           arguments.dtype == "bf16" ? TensorType::bf16 : TensorType::f32,
                           model_tensors));
  return ExitCode::ok;
}

ExitCode run(ImportArguments const& arguments) {
  report("imported", import_model(arguments.source, arguments.out, model_tensors));
  return ExitCode::ok;
}

ExitCode run(InfoArguments const& arguments) {
  const CheckpointReader reader(arguments.checkpoint);
  const std::string text = arguments.json ? describe_json(reader.info()) : describe(reader.info());
  fmt::print("{}{}", text, text.empty() || text.back() != '\n' ? "\n" : "");
  return ExitCode::ok;
}

}  // namespace sdp::cli
