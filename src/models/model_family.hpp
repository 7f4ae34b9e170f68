// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/unit.hpp"
#include "config/config.hpp"
#include "models/subnetwork_model.hpp"

namespace sdp {

// What is known of a model without building it, whatever its kind.

/// The logical tensors in the order in which backward finishes their gradients.
std::vector<TensorSpec> model_tensors(ModelConfig const& model);

/// The droppable units; ConfigError as llama_units and resnet_units.
UnitSet model_units(ModelConfig const& model, SdpConfig const& sdp);

/// Output scales of the residual branches of a forward-masked worker (ModelSubnetwork).
std::vector<double> model_branch_scales(ModelConfig const& model, SdpConfig const& sdp,
                                        UnitSet const& units, double inverse_keep);

/// FLOPs of one sample, an image or a sequence of seq_len tokens.
SampleFlops model_sample_flops(ModelConfig const& model, ParameterTable const& weights,
                               ParameterTable const& gradients, index_t seq_len);

/// Bytes that a model for training allocates as activations, for batches of up to max_batch samples
/// (of max_seq_len tokens).
std::int64_t model_activation_bytes(ModelConfig const& model, ParameterTable const& weights,
                                    ParameterTable const& gradients, index_t max_batch,
                                    index_t max_seq_len, std::size_t element_bytes);

/// Number of parameters of the dense model; running statistics are none.
index_t model_parameters(ModelConfig const& model);

}  // namespace sdp
