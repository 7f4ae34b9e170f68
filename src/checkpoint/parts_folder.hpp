// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

// The folder beside a checkpoint that holds its part files. It is called after the checkpoint and
// its contents, step-00000010.parts-<id>, so that a checkpoint can be replaced by another one of
// the same step without a moment at which neither is whole.

namespace sdp::parts_folder {

/// Between the name of the checkpoint and the id.
inline constexpr std::string_view k_infix = ".parts-";

/// Of the checkpoint `path`, while its parts are written and afterwards.
std::string temporary(std::string const& path);
std::string named(std::string const& path, std::string const& id);

/// Renames a folder of parts that are closed and flushed, and makes that lasting. Where there is
/// one of that name already, which then has the same contents, its files are replaced. DataError.
void publish(std::string const& from, std::string const& to);

/// Removes the part files in a folder, and the folder unless it holds anything else; silently.
void remove(std::string const& folder) noexcept;

}  // namespace sdp::parts_folder
