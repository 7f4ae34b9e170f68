// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace sdp {

/// Bytes in use on the device of this process now, by whomever: contexts, libraries and other
/// processes count. 0 where the default execution space runs on the host or the backend does not
/// tell.
std::int64_t device_bytes_in_use();

}  // namespace sdp
