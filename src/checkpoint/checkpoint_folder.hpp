// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

// Housekeeping of a folder of checkpoints, by one process.

namespace sdp::checkpoint_folder {

/// Removes what killed runs left half-written, and parts that no checkpoint names any more. Those of
/// a checkpoint that was set aside as unreadable (with that ending) stay.
void remove_leftovers(std::string const& folder);

/// Makes `path` the latest, and removes all but the `keep` checkpoints of highest step (the new one
/// always stays; keep < 1 counts as 1). DataError where `latest` cannot be written.
void announce(std::string const& folder, std::string const& path, std::int64_t keep);

}  // namespace sdp::checkpoint_folder
