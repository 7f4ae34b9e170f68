// SPDX-License-Identifier: Apache-2.0
// The `sdp` command: arguments, MPI and Kokkos, and the one place where errors become exit codes.
#include <mpi.h>

#include <Kokkos_Core.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
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

/// Whether a command runs on all ranks of a launcher. `command` is null where the words are wrong:
/// the first of them tells then, because MPI starts in any case and one rank speaks for all.
bool is_parallel(Command const* command, std::string const& first_word) {
  if (!command) return first_word == "train" || first_word == "eval" || first_word == "bench";
  return std::holds_alternative<TrainArguments>(*command) ||
         std::holds_alternative<EvalArguments>(*command) ||
         std::holds_alternative<StepBenchArguments>(*command) ||
         std::holds_alternative<CommBenchArguments>(*command);
}

/// Whether this process is going to train. Signals ask such a process to stop after a step, from
/// its first moment on; other commands end at once.
bool will_train(Command const* command) {
  auto const* train = command ? std::get_if<TrainArguments>(command) : nullptr;
  return train && !train->dry_run;
}

/// Says what answers a command line by itself; the status to exit with.
int give(Answer const& answer, bool speaks) {
  if (speaks) std::fputs(answer.text.c_str(), answer.code == ExitCode::ok ? stdout : stderr);
  if (speaks && !answer.error.empty()) log::error(answer.error);
  return to_status(answer.code);
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

/// A command in its world, which is null for those that are one process by nature.
struct RunIn {
  World const* world;
  ExitCode operator()(TrainArguments const& arguments) const { return run(arguments, *world); }
  ExitCode operator()(EvalArguments const& arguments) const { return run(arguments, *world); }
  ExitCode operator()(StepBenchArguments const& arguments) const { return run(arguments, *world); }
  ExitCode operator()(CommBenchArguments const& arguments) const { return run(arguments, *world); }
  template <class Arguments>
  ExitCode operator()(Arguments const& arguments) const {
    return run(arguments);
  }
};

/// Runs a command and turns its errors into a status.
int run_command(Command const& command, World const* world) {
  // Step benchmarks measure one process by intention, in a job of whatever size.
  const bool lone = !world || std::holds_alternative<StepBenchArguments>(command);
  try {
    if (!lone) world->collectively([&] { check_launcher(*world); });
    return to_status(std::visit(RunIn{world}, command));
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
  const std::variant<Answer, Command> request =
      parse(static_cast<int>(arguments.size()), arguments.data(), version_text);
  Command const* command = std::get_if<Command>(&request);
  const bool parallel = is_parallel(command, named ? arguments[1] : "");
  std::optional<StopRequest> signals;
  if (will_train(command)) signals.emplace();
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
  if (!command) return give(std::get<Answer>(request), rank == 0);
  std::optional<World> world;
  if (parallel) world.emplace(World::from(MPI_COMM_WORLD));
  // A login node may have none, and plans are made there.
  const bool without_device = lacks_device();
  const bool computes = parallel || std::holds_alternative<SampleArguments>(*command);
  if (without_device && computes) {
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
  const int status = run_command(*command, world ? &*world : nullptr);
  if (!without_device) Kokkos::finalize();
  world.reset();
  session.reset();
  return parallel && status == to_status(ExitCode::stopped) ? leave_stopped(rank) : status;
}
