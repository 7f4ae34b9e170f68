// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "cli/commands.hpp"
#include "config/load.hpp"
#include "kernels/core/team.hpp"
#include "train/bench_comm.hpp"
#include "train/bench_step.hpp"
#include "train/machine_file.hpp"
#include "train/watchdog.hpp"

namespace sdp::cli {

namespace {

constexpr bool k_gpu = !kernels::k_on_cpu<ExecSpace>;

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

}  // namespace

ExitCode run(StepBenchArguments const& arguments, World const& world) {
  if (world.size() > 1)
    throw on_all_ranks(
        ConfigError("sdp bench step measures one worker in one process: start "
                    "it without a launcher, and give --ranks"));
  Launch launch;
  launch.gpu = k_gpu;
  launch.ranks =
      arguments.ranks > 0 ? arguments.ranks : ranks_of(arguments.deck, arguments.overrides);
  const Config config = load_deck(arguments.deck, arguments.overrides, launch);
  StepBenchOptions bench = arguments.bench;
  bench.ranks = launch.ranks;
  bench.machine = machine_of(arguments.machine);
  if (arguments.peak_tflops > 0.0) bench.peak_flops = 1e12 * arguments.peak_tflops;
  const StepBenchResult result = bench_step(config, bench);
  const std::string text =
      arguments.json ? bench_step_json(config, result) : bench_step_table(config, result);
  std::fputs(text.c_str(), stdout);
  return ExitCode::ok;
}

ExitCode run(CommBenchArguments const& arguments, World const& world) {
  Launch launch;
  launch.ranks = world.size();
  launch.gpu = k_gpu;
  CommBenchOptions bench = arguments.bench;
  Config config;
  world.collectively([&] {
    if (arguments.deck.empty() && arguments.millions.empty())
      throw ConfigError("sdp bench comm needs a deck, or --elements with a size");
    bench.machine = machine_of(arguments.machine);
    if (!arguments.deck.empty()) config = load_deck(arguments.deck, arguments.overrides, launch);
  });
  // NCCL waits for ever for ranks that it cannot reach.
  const Watchdog watchdog(world.rank(), static_cast<double>(config.system.watchdog_seconds));
  std::vector<std::int64_t> elements;
  for (double millions : arguments.millions)
    elements.push_back(static_cast<std::int64_t>(std::ceil(1e6 * millions)));
  const CommBenchResult result =
      arguments.deck.empty()
          ? bench_comm(world, elements,
                       arguments.bucket_mb > 0.0 ? arguments.bucket_mb
                                                 : static_cast<double>(SystemConfig{}.bucket_mb),
                       bench)
          : bench_comm(world, config, bench);
  if (!world.is_root()) return ExitCode::ok;
  const std::string text = arguments.json ? bench_comm_json(result) : bench_comm_table(result);
  std::fputs(text.c_str(), stdout);
  return ExitCode::ok;
}

}  // namespace sdp::cli
