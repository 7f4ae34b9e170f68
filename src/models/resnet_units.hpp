// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/unit.hpp"
#include "config/config.hpp"

namespace sdp {

/// The droppable units of a ResNet-18. All other rows are shared: stem, classifier, projection
/// shortcuts with their batch norm, the blocks of protect_first and protect_last and, at neuron
/// level, the second batch norm of every block. Running statistics go with their batch norm.
///
/// Block level: the residual branch of each basic block. Neuron level: groups of neuron_group inner
/// channels (rows of the first convolution, its batch norm and the rows of the second convolution),
/// by default the largest divisor of the block's channels up to an eighth of them. One class per
/// stage. Without a regime there are no units. Cost: forward FLOPs of one image.
///
/// Throws ConfigError when neuron_group does not divide the width at neuron level.
UnitSet resnet_units(ResnetConfig const& config, SdpConfig const& sdp);

/// Output scales of a forward-masked worker in training, one per block: `inverse_keep` (N/k) for
/// the blocks that have droppable units and forward_scale "inverse_keep", 1 for the others; "auto"
/// scales nothing, since batch norm follows the inner channels.
std::vector<double> resnet_branch_scales(ResnetConfig const& config, SdpConfig const& sdp,
                                         UnitSet const& units, double inverse_keep);

}  // namespace sdp
