// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "base/types.hpp"
#include "cli/commands.hpp"
#include "config/load.hpp"
#include "kernels/core/team.hpp"
#include "train/bench_comm.hpp"
#include "train/bench_step.hpp"
#include "train/machine_file.hpp"

namespace sdp::cli {

namespace {

constexpr int k_most_ranks = 1 << 20;
constexpr int k_most_rounds = 1000000;
constexpr bool k_gpu = !kernels::k_is_host<ExecSpace>;

/// The machine of a file, or what `sdp train` plans with.
Machine machine_of(std::string const& path) {
  if (!path.empty()) return read_machine(path);
  return k_gpu ? Machine{} : cpu_cores();
}

/// As many ranks as the deck has subnetworks.
int ranks_of(std::string const& deck, std::vector<std::string> const& overrides) {
  Launch launch;
  launch.gpu = k_gpu;
  launch.training = false;
  SdpConfig const& sdp = load_deck(deck, overrides, launch).sdp;
  return sdp.regime == Regime::none ? 1 : static_cast<int>(sdp.subnetworks);
}

void add_step(CLI::App& parent, Action& action) {
  struct Options {
    std::string deck, machine;
    std::vector<std::string> overrides;
    int ranks = 0;
    double peak_tflops = 0.0;
    StepBenchOptions bench;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "step", "Times one worker of a job without the others, on random data, beside the plan");
  command->add_option("DECK", options->deck, "Deck in TOML; its data files are not opened")
      ->required();
  command->add_option("OVERRIDES", options->overrides, "section.key=value, wins over the deck");
  command->add_option("--ranks", options->ranks, "Ranks of the job (default: sdp.subnetworks)")
      ->check(CLI::Range(1, k_most_ranks));
  command->add_option("--worker", options->bench.worker, "Which of them (default: 0)")
      ->check(CLI::Range(0, k_most_ranks - 1));
  command->add_option("--steps", options->bench.steps, "Timed steps (default: 10)")
      ->check(CLI::Range(1, k_most_rounds));
  command->add_option("--warmup", options->bench.warmup, "Steps before those (default: 3)")
      ->check(CLI::Range(0, k_most_rounds));
  command
      ->add_option("--peak-tflops", options->peak_tflops,
                   "Peak of the device in the precision of the deck, for MFU (H200 bf16: 989)")
      ->check(CLI::Range(1e-6, 1e9));
  command->add_option("--machine", options->machine, "Machine in TOML that the plan is made for");
  command->add_flag("--json", options->json, "Print one JSON object and nothing else");
  command->callback([&action, options] {
    action = [options](World const* world) {
      if (world->size() > 1)
        throw on_all_ranks(
            ConfigError("sdp bench step measures one worker in one process: start "
                        "it without a launcher, and give --ranks"));
      Launch launch;
      launch.gpu = k_gpu;
      launch.ranks =
          options->ranks > 0 ? options->ranks : ranks_of(options->deck, options->overrides);
      const Config config = load_deck(options->deck, options->overrides, launch);
      StepBenchOptions bench = options->bench;
      bench.ranks = launch.ranks;
      bench.machine = machine_of(options->machine);
      if (options->peak_tflops > 0.0) bench.peak_flops = 1e12 * options->peak_tflops;
      const StepBenchResult result = bench_step(config, bench);
      const std::string text =
          options->json ? bench_step_json(config, result) : bench_step_table(config, result);
      std::fputs(text.c_str(), stdout);
      return ExitCode::ok;
    };
  });
}

void add_comm(CLI::App& parent, Action& action) {
  struct Options {
    std::string deck, machine;
    std::vector<std::string> overrides;
    std::vector<double> millions;
    double bucket_mb = 0.0;
    CommBenchOptions bench;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "comm", "Times the exchange of a deck's mask beside all-reduce, under mpirun");
  CLI::Option* deck =
      command->add_option("DECK", options->deck, "Deck in TOML; its data files are not opened");
  command->add_option("OVERRIDES", options->overrides, "section.key=value, wins over the deck");
  command
      ->add_option("--elements", options->millions,
                   "Instead of a deck: dense models of so many million parameters")
      ->check(CLI::Range(1e-6, 1e6))
      ->excludes(deck);
  command
      ->add_option("--bucket-mb", options->bucket_mb,
                   "MiB of a bucket, with --elements (default: 64)")
      ->check(CLI::Range(1e-3, 1024.0))
      ->excludes(deck);
  command->add_option("--repeat", options->bench.repeat, "Timed rounds (default: 10)")
      ->check(CLI::Range(1, k_most_rounds));
  command->add_option("--warmup", options->bench.warmup, "Rounds before those (default: 2)")
      ->check(CLI::Range(0, k_most_rounds));
  command->add_option("--machine", options->machine,
                      "Machine in TOML with the values that are not measured here");
  command->add_flag("--json", options->json, "Print one JSON object and nothing else");
  command->callback([&action, options] {
    action = [options](World const* world) {
      Launch launch;
      launch.ranks = world->size();
      launch.gpu = k_gpu;
      CommBenchOptions bench = options->bench;
      Config config;
      world->collectively([&] {
        if (options->deck.empty() && options->millions.empty())
          throw ConfigError("sdp bench comm needs a deck, or --elements with a size");
        bench.machine = machine_of(options->machine);
        if (!options->deck.empty()) config = load_deck(options->deck, options->overrides, launch);
      });
      std::vector<std::int64_t> elements;
      for (double millions : options->millions)
        elements.push_back(static_cast<std::int64_t>(std::ceil(1e6 * millions)));
      const CommBenchResult result =
          options->deck.empty()
              ? bench_comm(*world, elements,
                           options->bucket_mb > 0.0 ? options->bucket_mb
                                                    : static_cast<double>(SystemConfig{}.bucket_mb),
                           bench)
              : bench_comm(*world, config, bench);
      if (!world->is_root()) return ExitCode::ok;
      const std::string text = options->json ? bench_comm_json(result) : bench_comm_table(result);
      std::fputs(text.c_str(), stdout);
      return ExitCode::ok;
    };
  });
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("bench", "Measures a step, or the exchange");
  command->require_subcommand(1);
  add_step(*command, action);
  add_comm(*command, action);
}

}  // namespace sdp::cli
