// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config/config.hpp"

namespace sdp {

/// Throws ConfigError "..., which is not available in this version" for the first setting that a
/// deck may have but that this version cannot train with. load_deck calls it.
void require_supported(Config const& config);

}  // namespace sdp
