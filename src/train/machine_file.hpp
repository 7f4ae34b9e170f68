// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "subnet/cost_model.hpp"

namespace sdp {

/// The machine of a TOML file with one value for each member of Machine (inputs/machines/). Throws
/// ConfigError for a file that cannot be read, an unknown or missing key, a wrong type and a value
/// out of range.
Machine read_machine(std::string const& path);

/// As read_machine for text that was read from `source` (named in errors).
Machine parse_machine(std::string_view text, std::string const& source);

/// The machine as TOML that parse_machine() reads, numbers rounded to four digits.
std::string machine_text(Machine const& machine);

}  // namespace sdp
