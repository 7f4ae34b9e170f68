// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/memory_ledger.hpp"
#include "comm/world.hpp"

namespace sdp {

/// One logged update; times in milliseconds are the maximum over ranks.
struct TrainRecord {
  std::int64_t step = 0;
  double loss = 0;       ///< mean over the targets of this update's global batch, nats
  double grad_norm = 0;  ///< before clipping
  double lr = 0;
  std::int64_t samples = 0;  ///< cumulative
  std::int64_t tokens = 0;   ///< cumulative
  double step_ms = 0;        ///< mean since the last record
  double forward_ms = 0;
  double backward_ms = 0;  ///< loss and head gradient included
  double exchange_ms = 0;  ///< blocked on messages
  double optimizer_ms = 0;
  std::optional<double> tokens_per_s;  ///< all ranks, since the last record; or images
  std::optional<double> images_per_s;
  std::optional<double> mfu;
  double sent_bytes = 0;  ///< of the update, mean over ranks
  double recv_bytes = 0;
  std::int64_t mem_peak_bytes = 0;  ///< ledger, max over ranks
  std::int64_t skipped = 0;         ///< cumulative
};

struct EvalRecord {
  std::int64_t step = 0;
  double val_loss = 0;
  std::optional<double> val_accuracy;                   ///< of classifiers
  std::optional<double> val_accuracy_no_recalibration;  ///< where batch norm was recalibrated
  std::optional<double> ensemble_loss;  ///< forward regime: mean over ranks of f at their masks
};

struct CheckpointRecord {
  std::int64_t step = 0;
  std::string path;
  double seconds = 0;
  std::int64_t bytes = 0;
  double blocked_seconds = 0;  ///< of those, that training waited
};

/// metrics.jsonl: one JSON object a line, appended and flushed. Values that are not finite become
/// null. DataError when the disk refuses.
class MetricsLog {
 public:
  explicit MetricsLog(std::filesystem::path path) : m_path(std::move(path)) {}
  /// Drops the lines past `step`, and a last line that was cut off; 0 drops everything.
  void rewind(std::int64_t step) const;
  /// Whether there is an evaluation of this step already.
  bool has_evaluation(std::int64_t step) const;
  void append(TrainRecord const& record) const;
  void append(EvalRecord const& record) const;
  void append(CheckpointRecord const& record) const;

 private:
  void append_line(std::string const& line) const;
  std::filesystem::path m_path;
};

/// What a run ends with. Times and the traffic are of this start of the run, everything else of the
/// whole run; bytes per rank.
struct RunSummary {
  std::string name;
  std::int64_t steps = 0;
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::optional<double> val_loss;
  std::optional<double> best_val_loss;
  std::optional<double> val_accuracy;
  std::optional<double> ensemble_loss;
  double wall_seconds = 0;
  std::optional<double> step_ms;       ///< median; absent when this start made no step
  std::optional<double> tokens_per_s;  ///< all ranks, from the median; or images
  std::optional<double> images_per_s;
  MinMeanMax flops_per_rank;
  std::string regime = "none";
  double coverage = 1.0;                    ///< C
  MinMeanMax true_fraction{1.0, 1.0, 1.0};  ///< c: parameters trained by a rank / all parameters
  MinMeanMax flop_share{1.0, 1.0, 1.0};     ///< phi: FLOPs of a rank / those of the dense model
  double rho = 1.0;                         ///< spectral gap of the mask
  std::int64_t subnetworks = 1;
  std::int64_t holder_sets = 1;
  std::array<MinMeanMax, k_memory_categories> memory_measured;  ///< peak per category
  /// Mean over ranks; absent where there is no formula for a category.
  std::array<std::optional<double>, k_memory_categories> memory_predicted;
  MinMeanMax memory_total;         ///< peak of the sum
  MinMeanMax process_peak_bytes;   ///< high-water mark of the resident set
  MinMeanMax process_model_bytes;  ///< the same less the resident set before the model was built
  double sent_bytes_predicted = 0;
  std::optional<double> sent_bytes_measured;
  std::int64_t parameters = 0;
  std::int64_t skipped = 0;
  std::vector<std::string> checkpoints;  ///< that exist at the end, newest first
};

std::string to_json(RunSummary const& summary);

}  // namespace sdp
