// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/error.hpp"
#include "cli/arguments.hpp"
#include "comm/world.hpp"

namespace sdp::cli {

// The commands. Those that run on all ranks of a launcher get their world and are collective; the
// others are one process by nature.
ExitCode run(TrainArguments const& arguments, World const& world);
ExitCode run(EvalArguments const& arguments, World const& world);
ExitCode run(StepBenchArguments const& arguments, World const& world);
ExitCode run(CommBenchArguments const& arguments, World const& world);
ExitCode run(PlanArguments const& arguments);
ExitCode run(CompareArguments const& arguments);
ExitCode run(ExportArguments const& arguments);
ExitCode run(ImportArguments const& arguments);
ExitCode run(InfoArguments const& arguments);
ExitCode run(TokenizeArguments const& arguments);
ExitCode run(SampleArguments const& arguments);

/// The text of `sdp --version`.
std::string version_text();

}  // namespace sdp::cli
