// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "base/memory_ledger.hpp"
#include "config/config.hpp"
#include "train/bench_options.hpp"
#include "train/plan.hpp"

namespace sdp {

/// Milliseconds of a phase over the timed steps.
struct PhaseTime {
  double median = 0.0;
  double min = 0.0;
  double max = 0.0;
};

/// One worker measured without the others.
struct StepBenchResult {
  StepBenchOptions options;
  WorkerPlan plan;
  index_t parameters = 0;  ///< of the dense model
  double coverage = 1.0;
  int subnetworks = 1;
  std::int64_t accumulation = 1;  ///< micro-batches of a step
  std::int64_t targets = 0;       ///< tokens or images of a step of this worker
  PhaseTime step;                 ///< reading, upload and waiting included
  PhaseTime forward;
  PhaseTime backward;  ///< loss and head gradient included
  PhaseTime optimizer;
  double copy_bandwidth = 0.0;  ///< bytes/s read and written by a copy in the device's memory
  double loss = 0.0;            ///< mean over the worker's targets of the last step
  std::int64_t skipped = 0;     ///< steps whose gradient was not finite
  /// Peak of each category, and of their sum.
  std::array<std::int64_t, k_memory_categories> memory{};
  std::int64_t memory_total = 0;
  std::int64_t process_peak_bytes = 0;
  std::int64_t process_model_bytes = 0;  ///< of those, more than before the model was built
  std::int64_t device_bytes = 0;         ///< in use after the last step; 0 where there is no device
  std::int64_t device_model_bytes = 0;

  double targets_per_s() const { return static_cast<double>(targets) / (1e-3 * step.median); }
  double flops_per_s() const { return plan.flops / (1e-3 * step.median); }
  /// Model FLOPs (recomputation is none of them) over the peak.
  std::optional<double> mfu() const;
  /// What Machine would have as the rate of the deck's precision, so that the plan's compute time
  /// is the measured one: FLOPs, recomputed ones included, over the time that the memory traffic
  /// of the plan at copy_bandwidth leaves; over the whole step where it leaves less than a tenth.
  double sustained_flops() const;
};

/// Trains one worker of a job of `ranks` on random data of the deck's shapes, as train() would: its
/// subnetwork, optimizer state, micro-batches, recomputation and precision. Nothing is sent or
/// averaged, so there are no buffers of messages and no sums over workers. Opens no files but
/// sdp.mask_file. The whole step is timed without waiting between its phases, those in further
/// steps where the device works beside the host. ConfigError where worker or ranks do not fit the
/// deck, and for a model that does not fit into memory.
StepBenchResult bench_step(Config const& config, StepBenchOptions const& options);

/// One JSON object on one line.
std::string bench_step_json(Config const& config, StepBenchResult const& result);
/// For people.
std::string bench_step_table(Config const& config, StepBenchResult const& result);

}  // namespace sdp
