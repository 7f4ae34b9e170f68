// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "subnet/cost_model.hpp"

namespace sdp {

/// Of bench_step().
struct StepBenchOptions {
  int ranks = 1;  ///< N of the job
  int worker = 0;
  int steps = 10;                    ///< timed, at least 1
  int warmup = 3;                    ///< before those
  std::optional<double> peak_flops;  ///< of the device, FLOP/s
  Machine machine;                   ///< that predictions are made for
};

/// Of bench_comm().
struct CommBenchOptions {
  int repeat = 10;  ///< timed rounds, at least 1
  int warmup = 2;   ///< before those
  /// Values that are not measured: rates of computing, overlap, links that the ranks do not have.
  Machine machine;
};

}  // namespace sdp
