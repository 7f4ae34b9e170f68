// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "cli/commands.hpp"
#include "config/load.hpp"
#include "config/supported.hpp"
#include "kernels/core/team.hpp"
#include "train/machine_file.hpp"
#include "train/plan.hpp"

namespace sdp::cli {

namespace {

/// The deck for that many ranks.
Config deck_for(std::string const& path, std::vector<std::string> const& overrides, int ranks) {
  Launch launch;
  launch.ranks = ranks;
  launch.gpu = !kernels::k_on_cpu<ExecSpace>;
  Config config = parse_deck(read_deck(path), path, overrides, launch);
  require_supported(config);
  return config;
}

}  // namespace

ExitCode run(PlanArguments const& arguments) {
  const Config config = deck_for(arguments.deck, arguments.overrides, arguments.ranks);
  const Machine machine = arguments.machine.empty() ? Machine{} : read_machine(arguments.machine);
  const Plan plan = make_plan(config, arguments.ranks, machine);
  if (!arguments.out.empty()) write_plan(plan, arguments.out);
  const std::string text = arguments.json ? plan_json(plan) : plan_table(config, plan);
  std::fputs(text.c_str(), stdout);
  return ExitCode::ok;
}

}  // namespace sdp::cli
