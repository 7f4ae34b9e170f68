// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

namespace sdp {

/// When a run has to stop for system.max_walltime: as soon as what is left of it would not hold
/// what comes next and a checkpoint, as long as the longest of each so far. Nothing is known before
/// the first of each.
class StopRule {
 public:
  /// `max_walltime` in seconds; 0: no limit.
  explicit StopRule(std::int64_t max_walltime) : m_limit(static_cast<double>(max_walltime)) {}

  void update_took(double seconds) { m_update = std::max(m_update, seconds); }
  void save_took(double seconds) { m_save = std::max(m_save, seconds); }

  /// Whether to stop instead of another update, `age` seconds after the start.
  bool ends_run(double age) const { return m_limit > 0 && age + m_update + m_save >= m_limit; }
  /// Whether to break off an evaluation that is under way.
  bool ends_evaluation(double age) const { return m_limit > 0 && age + m_save >= m_limit; }

 private:
  double m_limit;
  double m_update = 0;  ///< longest so far
  double m_save = 0;
};

}  // namespace sdp
