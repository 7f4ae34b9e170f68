// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_error.hpp"

#include <string>

#include "base/error.hpp"

namespace sdp {

void check_mpi(int status, char const* name) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(status, text, &length) != MPI_SUCCESS) length = 0;
  throw CommunicationError(std::string(name) + " failed: " +
                           (length > 0 ? std::string(text, static_cast<std::size_t>(length))
                                       : "unknown error " + std::to_string(status)));
}

}  // namespace sdp
