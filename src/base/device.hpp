// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sdp {

/// Devices that this process can see and the build is for (CUDA, HIP); 0 in other builds.
int visible_devices();
/// Whether the build computes on such devices and there is none.
bool lacks_device();
/// Bytes in use on the device of this process now, by whomever: contexts, libraries and other
/// processes count. 0 where the default execution space runs on the host or the backend does not
/// tell.
std::int64_t device_bytes_in_use();

/// Arguments for Kokkos::initialize beside `given` ones: the device of a process that is number
/// `node_rank` on its node, all of whose devices it sees. None where the build has no such devices
/// or where `given`, KOKKOS_DEVICE_ID or KOKKOS_MAP_DEVICE_ID_BY choose.
std::vector<std::string> device_arguments(std::vector<std::string> const& given, int node_rank,
                                          int devices);

}  // namespace sdp
