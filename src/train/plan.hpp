// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/min_mean_max.hpp"
#include "base/types.hpp"
#include "base/unit.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "subnet/cost_model.hpp"
#include "subnet/mask.hpp"
#include "train/arrangement.hpp"

namespace sdp {

/// Bytes of a rank, over all ranks.
struct MemoryPlan {
  MinMeanMax weights;
  MinMeanMax gradients;
  MinMeanMax optimizer;
  MinMeanMax activations;
  MinMeanMax communication;  ///< staging of the exchange; left out of the baselines
  MinMeanMax total;
};

/// What a way to train costs a rank.
struct StrategyPlan {
  MemoryPlan memory;
  MinMeanMax sent_bytes;  ///< in a step, of gradients and weights
  StepTime predicted;     ///< of the slowest rank
};

/// What a deck means on a number of ranks, without data, training or other processes.
struct Plan {
  int ranks = 1;
  int ranks_per_node = 1;
  /// Ranks whose messages were counted: all of at most 64, else 32 or fewer, as many of each
  /// subnetwork. Bytes sent, messages and times are theirs; memory is that of all ranks.
  int counted_ranks = 1;
  index_t parameters = 0;
  double coverage = 1.0;
  int holders_per_unit = 1;
  int subnetworks = 1;
  std::string design;
  index_t holder_sets = 0;  ///< distinct ones in use
  double rho = 1.0;
  double rho_bound = 1.0;
  MinMeanMax true_fraction;
  MinMeanMax flop_share;
  /// Max over mean of the subnetworks.
  double flops_imbalance = 1.0;
  double parameters_imbalance = 1.0;
  double activations_imbalance = 1.0;
  StrategyPlan own;
  MinMeanMax received_bytes;
  double messages = 0.0;  ///< sent by a rank in a step, mean
  /// ddp, zero1, zero2, zero3: the dense model on the same ranks and batch.
  std::vector<std::pair<std::string, StrategyPlan>> baselines;
  Machine machine;
  std::vector<std::string> warnings;
  UnitSet units;
  Mask mask;
};

/// Bytes per parameter of weights, gradients and optimizer state (master weights included): fp32
/// 4, 4 and 4 per moment; fp64 8 each; bf16 2, 4, and 4 more than fp32. Gradients cross the wire as
/// they are or in 2 bytes (system.gradient_wire).
StateBytes state_bytes(Config const& config);

/// What one worker of a job costs, from the same figures as make_plan().
struct WorkerPlan {
  int subnetwork = 0;
  double true_fraction = 1.0;
  double flop_share = 1.0;
  double flops = 0.0;  ///< model FLOPs of a step; recomputation is none of them
  /// Bytes.
  double weights = 0.0;
  double gradients = 0.0;
  double optimizer = 0.0;
  double activations = 0.0;
  double communication = 0.0;
  double sent_bytes = 0.0;  ///< in a step
  StepWork work;
  StepTime predicted;
};

/// `arrangement` is that of the deck; 0 <= worker < arrangement.workers().
WorkerPlan plan_worker(Config const& config, Arrangement const& arrangement, int worker,
                       Machine const& machine);

/// What a machine can do in that precision, FLOP/s.
double flops_rate(Machine const& machine, Precision precision);

/// The ranks on a node: system.ranks_per_node where the deck has it, else that of the machine.
int planned_ranks_per_node(Config const& config, Machine const& machine);

/// Node size: system.ranks_per_node where given, else that of the machine. Baselines: DDP sends
/// 2(1-1/R)P gradients, ZeRO-1 and ZeRO-2 (1-1/R)P gradients and as many weights, ZeRO-3 twice the
/// weights; their state is w+g+o, w+g+o/R, w+(g+o)/R and (w+g+o)/R, their activations the dense
/// ones. Throws ConfigError as arrange() does.
Plan make_plan(Config const& config, int ranks, Machine const& machine, std::int64_t step = 0);

/// The plan of a run on the ranks that it has, at an update (from 0) that its mask was made for.
/// Times are those of cpu_cores() in a build without a GPU, and of the default machine in others.
Plan plan_of_run(World const& world, Config const& config, std::int64_t step = 0);

/// One JSON object on one line: the contents of plan.json.
std::string plan_json(Plan const& plan);

/// For people.
std::string plan_table(Config const& config, Plan const& plan);

/// Writes plan.json and mask.json into a folder, which is made where there is none. Throws
/// DataError naming the file that cannot be written.
void write_plan(Plan const& plan, std::string const& folder);

}  // namespace sdp
