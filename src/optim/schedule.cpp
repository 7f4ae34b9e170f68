// SPDX-License-Identifier: Apache-2.0
#include "optim/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sdp {

double schedule_factor(ScheduleConfig const& schedule, std::int64_t steps, std::int64_t t) {
  const std::int64_t warmup = schedule.warmup_steps;
  if (t < warmup) return static_cast<double>(t) / static_cast<double>(warmup);
  if (steps <= warmup) return 1.0;
  const double r = schedule.final_ratio;
  const double p =
      std::min(1.0, static_cast<double>(t - warmup) / static_cast<double>(steps - warmup));
  switch (schedule.kind) {
    case ScheduleKind::cosine:
      return r + (1.0 - r) * (1.0 + std::cos(std::numbers::pi * p)) / 2.0;
    case ScheduleKind::linear:
      return 1.0 - (1.0 - r) * p;
    case ScheduleKind::wsd: {
      const double into_decay = p - (1.0 - schedule.decay_fraction);
      if (into_decay <= 0.0) return 1.0;
      return 1.0 - (1.0 - r) * into_decay / schedule.decay_fraction;
    }
    case ScheduleKind::constant:
      return 1.0;
  }
  return 1.0;
}

}  // namespace sdp
