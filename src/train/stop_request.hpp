// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace sdp {

/// Notes SIGUSR1, SIGUSR2, SIGTERM and SIGINT while one lives, so that a run can stop at the end of
/// a step. The handler only sets a flag. A second SIGTERM or SIGINT two seconds or more after the
/// first ends the process at once.
///
/// The command makes one before anything else, so that a signal during start-up is noted as well;
/// those made later share its flag. They live and die in one thread.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(StopRequest const&) = delete;
  StopRequest& operator=(StopRequest const&) = delete;

  /// Whether this process was asked to stop; ranks agree on it elsewhere.
  bool requested() const;
  /// Seconds since the first one was made: near enough the age of the process.
  double age() const;
};

}  // namespace sdp
