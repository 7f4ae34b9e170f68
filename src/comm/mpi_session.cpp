// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_session.hpp"

#include <mpi.h>

#include <cstdlib>

#include "comm/mpi_error.hpp"

namespace sdp {

MpiSession::MpiSession(int& argc, char**& argv) {
  int initialized = 0;
  check_mpi(MPI_Initialized(&initialized), "MPI_Initialized");
  if (initialized) return;
  int provided = 0;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  m_owner = true;
}

MpiSession::~MpiSession() {
  int finalized = 0;
  if (m_owner && MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized) MPI_Finalize();
}

void MpiSession::abort(ExitCode code) {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized && !finalized) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code));
  std::_Exit(static_cast<int>(code));
}

}  // namespace sdp
