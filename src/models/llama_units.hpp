// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/unit.hpp"
#include "config/config.hpp"

namespace sdp {

/// The droppable units of a LLaMA. All other rows are shared: embedding, head, final norm, the
/// layers of protect_first and protect_last, and the norms at neuron level.
///
/// Block level: classes "attention" and "mlp", one unit each per layer with its pre-norm, or one
/// class "layer" (block_unit). Neuron level: class "attention" has one unit per key-value head (its
/// key and value rows, the rows of its query heads and the matching rows of the output projection);
/// class "mlp" one per neuron_group SwiGLU neurons (rows of gate, up and down), by default the
/// largest divisor of F up to 64. Without a regime there are no units. Cost: forward FLOPs of one
/// sample of max_seq_len tokens.
///
/// Throws ConfigError when neuron_group does not divide F at neuron level.
UnitSet llama_units(LlamaConfig const& config, SdpConfig const& sdp);

/// One sentence where groups of neurons make the widths of MLPs odd for the tensor cores of GPUs,
/// which take rows of bf16 in 16 bytes, although the dense model's is not; else empty.
std::string llama_slow_widths(LlamaConfig const& config, SdpConfig const& sdp);

/// Output scales of a forward-masked worker in training: `inverse_keep` (N/k) for the sub-layers
/// that have droppable units, 1 for the others, for forward_scale "inverse_keep" and at neuron
/// level for "auto"; all 1 otherwise. (2L): attention and MLP of each layer.
std::vector<double> llama_branch_scales(LlamaConfig const& config, SdpConfig const& sdp,
                                        UnitSet const& units, double inverse_keep);

}  // namespace sdp
