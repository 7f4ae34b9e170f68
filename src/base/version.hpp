// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace sdp {

char const* version();   ///< project version, "0.1.0"
char const* git_hash();  ///< commit that was configured, "unknown" outside a checkout
bool has_nccl();         ///< whether the NCCL transport was built

}  // namespace sdp
