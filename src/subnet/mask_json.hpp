// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/unit.hpp"
#include "subnet/mask.hpp"

namespace sdp {

/// Hash of names, classes and rows of all units: equal for equal models cut into equal units.
std::uint64_t unit_fingerprint(UnitSet const& units);

/// mask.json: format version, N, k, coverage, design, seed, spectral gap and its bound, fingerprint
/// of the units, and each unit with its class, parameters and holders, one unit a line.
std::string mask_to_json(UnitSet const& units, Mask const& mask);

/// The mask of such a text; `source` is the file that errors name. Throws ConfigError when it is no
/// mask, of a newer format, for other units or another number of subnetworks, or when a unit does
/// not have the stated number of distinct holders below N: one sentence with what was found and
/// what was expected.
Mask mask_from_json(std::string const& text, std::string const& source, UnitSet const& units,
                    int subnetworks);

/// As mask_from_json for a file; ConfigError as well where it is missing, unreadable or larger than
/// 256 MiB.
Mask read_mask(std::string const& path, UnitSet const& units, int subnetworks);

}  // namespace sdp
