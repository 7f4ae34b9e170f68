// SPDX-License-Identifier: Apache-2.0
// The `sdp` command: arguments, MPI and Kokkos, and the one place where errors become exit codes.
#include <mpi.h>

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/device.hpp"
#include "base/log.hpp"
#include "base/memory_ledger.hpp"
#include "base/types.hpp"
#include "cli/commands.hpp"
#include "comm/mpi_session.hpp"
#include "train/stop_request.hpp"

namespace sdp::cli {

namespace {

int to_status(ExitCode code) {
  return static_cast<int>(code);
}

int from_environment(std::initializer_list<char const*> variables, int otherwise) {
  for (char const* variable : variables)
    if (char const* text = std::getenv(variable)) return std::atoi(text);
  return otherwise;
}

/// Whether a launcher started several processes of a command that is one process by nature; `rank`
/// is this one's number among them.
bool launched_many_times(int& rank) {
  rank = from_environment({"OMPI_COMM_WORLD_RANK", "PMI_RANK"}, 0);
  return from_environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, 1) > 1;
}

/// Whether this process is going to train. Signals ask such a process to stop after a step, from
/// its first moment on; other commands end at once.
bool will_train(std::vector<char*> const& arguments) {
  return arguments.size() > 1 && std::strcmp(arguments[1], "train") == 0 &&
         std::none_of(arguments.begin(), arguments.end(),
                      [](char const* word) { return std::strcmp(word, "--dry-run") == 0; });
}

/// Whether this command measures one process by intention, in a job of whatever size.
bool is_lone(std::vector<char*> const& arguments) {
  return arguments.size() > 2 && std::strcmp(arguments[1], "bench") == 0 &&
         std::strcmp(arguments[2], "step") == 0;
}

/// Parses the arguments; a status to exit with, or nothing when `action` is to be run. Only a
/// process that may speak prints.
std::optional<int> parse(int argc, char** argv, bool speaks, Action& action) {
  CLI::App app{"Pre-trains neural networks with Subnetwork Data Parallelism"};
  app.name("sdp");
  app.require_subcommand(0, 1);
  bool version = false;
  app.add_flag("--version", version, "Print versions of the program and its libraries");
  add_train(app, action);
  add_eval(app, action);
  add_plan(app, action);
  add_bench(app, action);
  add_compare(app, action);
  add_export(app, action);
  add_import(app, action);
  add_info(app, action);
  add_tokenize(app, action);
  add_sample(app, action);
  try {
    app.parse(argc, argv);
  } catch (CLI::CallForHelp const&) {
    if (speaks) std::fputs(app.help().c_str(), stdout);
    return to_status(ExitCode::ok);
  } catch (CLI::ParseError const& error) {
    // Help of a subcommand arrives here as well.
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      if (speaks) app.exit(error);
      return to_status(ExitCode::ok);
    }
    if (speaks) log::error(std::string(error.what()) + " (sdp --help lists the commands)");
    return to_status(ExitCode::usage);
  }
  if (version) {
    if (speaks) std::fputs(version_text().c_str(), stdout);
    return to_status(ExitCode::ok);
  }
  if (!action) {
    if (speaks) std::fputs(app.help().c_str(), stderr);
    return to_status(ExitCode::usage);
  }
  return std::nullopt;
}

/// A job step of several tasks in which every process believes to be alone means an MPI that does
/// not fit the launcher; it would train the same model many times over.
void check_launcher(World const& world) {
  char const* tasks = std::getenv("SLURM_NTASKS");
  if (world.size() == 1 && tasks && std::atoi(tasks) > 1 && std::getenv("SLURM_PROCID"))
    throw ConfigError(std::string("SLURM_NTASKS is ") + tasks +
                      " but MPI sees one rank: launch with an MPI that srun supports "
                      "(srun --mpi=list) or with mpirun");
}

/// The status of a rank of a run that was stopped and saved. Launchers end all ranks at the first
/// status that is not 0, and some report that as a failure of those that were about to leave; so
/// rank 0 speaks for all, once the others are gone.
int leave_stopped(int rank) {
  if (rank != 0) return to_status(ExitCode::ok);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  return to_status(ExitCode::stopped);
}

int run(Action const& action, World const* world, bool lone) {
  try {
    if (world && !lone) world->collectively([&] { check_launcher(*world); });
    return to_status(action(world));
  } catch (Error const& error) {
    const bool alone = !world || world->size() == 1;
    if (alone || (error.agreed() && world->is_root()))
      log::error(error.what());
    else if (!error.agreed())
      log::error("rank " + std::to_string(world->rank()) + ": " + error.what());
    if (!alone && !error.agreed()) MpiSession::abort(error.code());
    return to_status(error.code());
  } catch (std::bad_alloc const&) {
    log::error("out of memory");
    if (world && world->size() > 1) MpiSession::abort(ExitCode::data);
    return to_status(ExitCode::data);
  } catch (std::exception const& error) {
    log::error(error.what());
    if (world && world->size() > 1) MpiSession::abort(ExitCode::data);
    return to_status(ExitCode::data);
  }
}

}  // namespace

}  // namespace sdp::cli

int main(int argc, char** argv) {
  using namespace sdp;
  using namespace sdp::cli;
  // Kokkos' own options stand apart, or it would answer --help and --threads itself.
  std::vector<std::string> kokkos_words = {argv[0]};
  std::vector<char*> arguments = {argv[0]};
  for (int i = 1; i < argc; ++i)
    if (std::strncmp(argv[i], "--kokkos-", 9) == 0)
      kokkos_words.emplace_back(argv[i]);
    else
      arguments.push_back(argv[i]);
  const bool named = arguments.size() > 1 && arguments[1][0] != '-';
  const bool parallel = named && is_parallel(arguments[1]);
  std::optional<StopRequest> signals;
  if (will_train(arguments)) signals.emplace();
  std::optional<MpiSession> session;
  int rank = 0;
  if (parallel) {
    session.emplace(argc, argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  }
  log::initialize(rank);
  // The launcher ends a job at the first failure, which must not be that of a silent rank.
  if (!parallel && launched_many_times(rank) && rank != 0) return static_cast<int>(ExitCode::ok);
  if (!parallel && named && launched_many_times(rank)) {
    log::error(std::string("\"") + arguments[1] +
               "\" is not a command that runs on several ranks: start it without a launcher");
    return static_cast<int>(ExitCode::usage);
  }
  Action action;
  const std::optional<int> early =
      parse(static_cast<int>(arguments.size()), arguments.data(), rank == 0, action);
  if (early) return *early;
  std::optional<World> world;
  if (parallel) world.emplace(World::from(MPI_COMM_WORLD));
  // A login node may have none, and plans are made there.
  const bool without_device = lacks_device();
  if (without_device && computes(arguments[1])) {
    if (rank == 0)
      log::error(std::string("this sdp computes on ") + ExecSpace::name() +
                 " devices, and this process sees none");
    return to_status(ExitCode::usage);
  }
  // Every rank sees all devices of its node: NCCL needs that.
  for (std::string& word :
       device_arguments(kokkos_words, world ? world->node_rank() : 0, visible_devices()))
    kokkos_words.push_back(std::move(word));
  std::vector<char*> kokkos_arguments;
  for (std::string& word : kokkos_words) kokkos_arguments.push_back(word.data());
  int kokkos_count = static_cast<int>(kokkos_arguments.size());
  kokkos_arguments.push_back(nullptr);
  try {
    if (!without_device) Kokkos::initialize(kokkos_count, kokkos_arguments.data());
  } catch (std::exception const& error) {
    if (rank == 0)
      log::error(std::string("Kokkos cannot start with these options: ") + error.what());
    return static_cast<int>(ExitCode::usage);
  }
  memory_ledger::install();
  const int status = run(action, world ? &*world : nullptr, !parallel || is_lone(arguments));
  if (!without_device) Kokkos::finalize();
  world.reset();
  session.reset();
  return parallel && status == to_status(ExitCode::stopped) ? leave_stopped(rank) : status;
}
