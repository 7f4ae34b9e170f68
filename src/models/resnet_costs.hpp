// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/parameter_table.hpp"
#include "config/config.hpp"
#include "models/subnetwork_model.hpp"

namespace sdp {

/// FLOPs of one image: two per multiplication and addition of the convolutions and the classifier;
/// batch norm, ReLU, additions and pooling count nothing. `weights` says what exists here and
/// `gradients` what gets a gradient. The stem has no activation gradient.
SampleFlops resnet_sample_flops(ResnetConfig const& config, ParameterTable const& weights,
                                ParameterTable const& gradients);

/// Bytes that a Resnet with backward allocates as activations for batches of max_batch images of
/// `element_bytes` wide elements (8, 4, or 2 of bf16).
std::int64_t resnet_activation_bytes(ResnetConfig const& config, ParameterTable const& weights,
                                     ParameterTable const& gradients, index_t max_batch,
                                     std::size_t element_bytes);

}  // namespace sdp
