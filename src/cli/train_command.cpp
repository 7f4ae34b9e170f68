// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <string>

#include "base/types.hpp"
#include "cli/commands.hpp"
#include "config/load.hpp"
#include "kernels/core/team.hpp"
#include "train/trainer.hpp"

namespace sdp::cli {

ExitCode run(TrainArguments const& arguments, World const& world) {
  Launch launch;
  launch.ranks = world.size();
  launch.gpu = !kernels::k_on_cpu<ExecSpace>;
  const Config config =
      world.collectively([&] { return load_deck(arguments.deck, arguments.overrides, launch); });
  if (arguments.dry_run) {
    const std::string text = dry_run(world, config, arguments.json);
    if (world.is_root()) std::fputs(text.c_str(), stdout);
    return ExitCode::ok;
  }
  return train(world, config) == TrainEnd::stopped ? ExitCode::stopped : ExitCode::ok;
}

}  // namespace sdp::cli
