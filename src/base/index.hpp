// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/index.hpp"

namespace sdp {

using kernels::index_t;

}  // namespace sdp
