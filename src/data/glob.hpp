// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace sdp {

/// The regular files that match the shell patterns (`*`, `?`, `[a-z]`, `~`), those of one pattern
/// in byte order of their names, patterns in the order given. A file that two patterns match is
/// listed once, where it comes first. The result is the order of shards, so it depends on nothing
/// else.
///
/// ConfigError naming `key` (the deck's, "data.train") and the pattern where a pattern matches
/// nothing or a folder, where there is no pattern, or where a folder cannot be read.
std::vector<std::string> expand_globs(std::string const& key,
                                      std::vector<std::string> const& patterns);

}  // namespace sdp
