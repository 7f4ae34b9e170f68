// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

namespace sdp {

/// Throws CommunicationError "MPI_Name: <text of the library>" unless status is MPI_SUCCESS. The
/// communicators of this layer return their errors, so that they pass here instead of ending the
/// process inside the library.
void check_mpi(int status, char const* name);

}  // namespace sdp
