// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "train/metrics.hpp"

namespace sdp {

/// "1.2k", "3.40M": a count for people.
std::string short_count(double value);
/// "512 B", "1.5 MiB".
std::string short_bytes(double bytes);
/// "45s", "3m12s", "2h05m".
std::string short_duration(double seconds);

/// What a run shows on standard output while it trains; only rank 0 has one that prints.
///
/// One line per logged step with the time that is left. On a terminal the line of steps that are
/// not logged is redrawn in place; through a pipe or a file nothing is.
class Progress {
 public:
  Progress(bool active, std::int64_t first_step, std::int64_t steps);

  void line(TrainRecord const& record);
  void live(std::int64_t step);
  void evaluation(EvalRecord const& record, double seconds);
  void note(std::string const& text);

 private:
  void clear_live();
  double remaining_seconds(std::int64_t step) const;

  bool m_active;
  bool m_terminal;
  bool m_live_shown = false;
  std::int64_t m_first_step;
  std::int64_t m_steps;
  double m_started;
  double m_last_live = 0;
};

/// The table that closes a run.
std::string closing_table(RunSummary const& summary);

}  // namespace sdp
