// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/config.hpp"

namespace sdp {

/// What a deck's defaults and limits depend on besides the deck.
struct Launch {
  int ranks = 1;
  bool gpu = false;
  /// False where the rank count does not tie down the batch or the subnetworks (evaluation, the
  /// deck stored in a checkpoint): micro_batch and [sdp] are then not checked against it.
  bool training = true;
};

/// The deck of a file with every default resolved, checked key by key and across keys, and refused
/// where it asks for what this version does not do.
///
/// Overrides are "section.key=value" and win over the file; a value that is not TOML is a string.
/// The same deck, overrides and launch give the same result or the same error on every rank;
/// nothing is written. Throws ConfigError: one sentence with file and line, key, what was found and
/// what is allowed.
Config load_deck(std::string const& path, std::vector<std::string> const& overrides,
                 Launch const& launch);

/// The bytes of a deck. Throws ConfigError when the file is missing, unreadable, a folder or larger
/// than 16 MiB.
std::string read_deck(std::string const& path);

/// As load_deck for text that was read from `source` (named in errors), without the refusal of what
/// this version does not do.
Config parse_deck(std::string_view text, std::string const& source,
                  std::vector<std::string> const& overrides, Launch const& launch);

/// The resolved deck as TOML: all keys that belong to its model kind, in the order of
/// inputs/reference.toml. parse_deck(to_toml(c)) == c under the launch that c was loaded with.
std::string to_toml(Config const& config);

}  // namespace sdp
