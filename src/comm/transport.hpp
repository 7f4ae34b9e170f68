// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "comm/message_queue.hpp"
#include "comm/stream.hpp"

namespace sdp {

/// Messages over MPI, through host memory where MPI cannot address the memory of the device.
QueueFactory mpi_queue(bool through_host = !k_host_memory);

/// Messages of exchanges over NCCL, on the one communicator that this call connects and the factory
/// keeps. Collective; throws ConfigError on every rank in a build without NCCL.
QueueFactory nccl_queue(World const& world);
/// "2.28.9", or "none" in a build without NCCL.
std::string nccl_version();

/// Whether MPI says that it addresses the memory of the devices that the build is for.
bool mpi_addresses_devices();

}  // namespace sdp
