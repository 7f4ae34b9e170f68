// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

/// Signs of life of this process, for a watchdog in another thread. Phases are string literals.
namespace sdp::heartbeat {

/// Progress was made. Cheap enough for every small collective.
void beat();
/// A new phase began, which is progress.
void phase(char const* name);
char const* current_phase();
/// Seconds since the last sign of life.
double silence_seconds();

}  // namespace sdp::heartbeat
