// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/error.hpp"

namespace sdp {

/// Initialises MPI for a process and finalises it at the end of its life. Made once, before
/// Kokkos is initialised, and outlives every World. Where MPI already runs, it leaves both to
/// whoever started it. One thread makes the MPI calls (MPI_THREAD_FUNNELED).
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(MpiSession const&) = delete;
  MpiSession& operator=(MpiSession const&) = delete;

  /// Ends every process of the job with this exit code, at once and from any state. For errors that
  /// only some ranks know of.
  [[noreturn]] static void abort(ExitCode code);

 private:
  bool m_owner = false;
};

}  // namespace sdp
