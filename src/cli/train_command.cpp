// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <memory>

#include "base/types.hpp"
#include "cli/commands.hpp"
#include "config/load.hpp"
#include "kernels/core/team.hpp"
#include "train/trainer.hpp"

namespace sdp::cli {

void add_train(CLI::App& app, Action& action) {
  struct Options {
    std::string deck;
    std::vector<std::string> overrides;
    bool dry_run = false;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Train a model as a deck says");
  command->add_option("DECK", options->deck, "Deck in TOML; inputs/reference.toml lists every key")
      ->required();
  command->add_option("OVERRIDES", options->overrides, "section.key=value, wins over the deck");
  command->add_flag("--dry-run", options->dry_run,
                    "Check everything, print the plan, write nothing");
  command->add_flag("--json", options->json, "With --dry-run: the plan as one JSON object")
      ->needs("--dry-run");
  command->callback([&action, options] {
    action = [options](World const* world) {
      Launch launch;
      launch.ranks = world->size();
      launch.gpu = !kernels::k_is_host<ExecSpace>;
      const Config config =
          world->collectively([&] { return load_deck(options->deck, options->overrides, launch); });
      if (options->dry_run) {
        const std::string text = dry_run(*world, config, options->json);
        if (world->is_root()) std::fputs(text.c_str(), stdout);
        return ExitCode::ok;
      }
      return train(*world, config) == TrainEnd::stopped ? ExitCode::stopped : ExitCode::ok;
    };
  });
}

}  // namespace sdp::cli
