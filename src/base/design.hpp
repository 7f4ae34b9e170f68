// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string_view>

namespace sdp {

/// How the sets of subnetworks that share a unit are made.
enum class Design { automatic, windows, cyclic, orbits, plane, random };
inline constexpr std::array<std::string_view, 6> k_design_names{"auto",   "windows", "cyclic",
                                                                "orbits", "plane",   "random"};

/// How ranks are mapped to subnetworks.
enum class Placement { round_robin, node_aligned };
inline constexpr std::array<std::string_view, 2> k_placement_names{"round_robin", "node_aligned"};

}  // namespace sdp
