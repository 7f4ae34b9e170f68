// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <memory>

#include "base/types.hpp"
#include "cli/commands.hpp"
#include "config/load.hpp"
#include "config/supported.hpp"
#include "kernels/core/team.hpp"
#include "train/machine_file.hpp"
#include "train/plan.hpp"

namespace sdp::cli {

namespace {

constexpr int k_most_ranks = 1 << 20;

/// The deck for that many ranks.
Config deck_for(std::string const& path, std::vector<std::string> const& overrides, int ranks) {
  Launch launch;
  launch.ranks = ranks;
  launch.gpu = !kernels::k_is_host<ExecSpace>;
  Config config = parse_deck(read_deck(path), path, overrides, launch);
  require_supported(config);
  return config;
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  struct Options {
    std::string deck, machine, out;
    std::vector<std::string> overrides;
    int ranks = 0;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "plan",
      "Memory, messages and step time of a deck on any number of ranks, beside DDP and ZeRO");
  command->add_option("DECK", options->deck, "Deck in TOML; inputs/reference.toml lists every key")
      ->required();
  command->add_option("OVERRIDES", options->overrides, "section.key=value, wins over the deck");
  command->add_option("--ranks", options->ranks, "Number of ranks")
      ->required()
      ->check(CLI::Range(1, k_most_ranks));
  command->add_option("--machine", options->machine,
                      "Machine in TOML, such as those of inputs/machines (default: h200.toml)");
  command->add_option("--out", options->out, "Folder to write plan.json and mask.json to");
  command->add_flag("--json", options->json, "Print one JSON object and nothing else");
  command->callback([&action, options] {
    action = [options](World const*) {
      const Config config = deck_for(options->deck, options->overrides, options->ranks);
      const Machine machine = options->machine.empty() ? Machine{} : read_machine(options->machine);
      const Plan plan = make_plan(config, options->ranks, machine);
      if (!options->out.empty()) write_plan(plan, options->out);
      const std::string text = options->json ? plan_json(plan) : plan_table(config, plan);
      std::fputs(text.c_str(), stdout);
      return ExitCode::ok;
    };
  });
}

}  // namespace sdp::cli
