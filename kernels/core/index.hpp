// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace sdp::kernels {

/// Index and offset type of all kernels: flat buffers pass 2^31 elements.
using index_t = std::int64_t;

}  // namespace sdp::kernels
