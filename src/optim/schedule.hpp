// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "config/config.hpp"

namespace sdp {

/// Learning rate of update t = 1, 2, ..., steps as a share of the peak:
/// min(1, t / warmup) during warm-up; then, with p = (t - warmup) / (steps - warmup) and r the
/// final ratio, cosine r + (1-r)(1+cos(pi p))/2, linear 1 - (1-r)p, wsd 1 until
/// p = 1 - decay_fraction and then linear to r, constant 1. Past the last step the last value holds.
double schedule_factor(ScheduleConfig const& schedule, std::int64_t steps, std::int64_t t);

}  // namespace sdp
