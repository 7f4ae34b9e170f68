// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <hdf5.h>
#include <mpi.h>

#include "base/types.hpp"
#include "base/version.hpp"
#include "cli/commands.hpp"
#include "comm/transport.hpp"
#include "kernels/core/compat.hpp"

namespace sdp::cli {

std::string version_text() {
  char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(mpi, &length);
  std::string mpi_line(mpi, static_cast<std::size_t>(length));
  mpi_line = mpi_line.substr(0, mpi_line.find_first_of(",\n"));
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format(
      "sdp {} ({})\n"
      "  Kokkos  {} ({})\n"
      "  MPI     {}\n"
      "  NCCL    {}\n"
      "  HDF5    {}.{}.{}\n",
      version(), git_hash(), kernels::kokkos_version(), ExecSpace::name(), mpi_line, nccl_version(),
      major, minor, release);
}

}  // namespace sdp::cli
