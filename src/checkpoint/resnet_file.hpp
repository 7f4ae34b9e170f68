// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/parameter_table.hpp"
#include "checkpoint/safetensors.hpp"
#include "config/config.hpp"

namespace sdp {

// The safetensors of a CIFAR ResNet-18 under the names of its PyTorch state_dict: 3x3 stem without
// max-pool, two blocks in each of four stages, `linear`. They describe themselves; no config.json
// is needed.

/// Whether any tensor is named as those of a ResNet and not of a LLaMA, whatever its variant.
bool has_resnet_names(SafetensorsReader const& reader);

/// Classes, channels and width from the shapes of conv1.weight and linear.weight. ConfigError for
/// another variant (a stem that is not 3x3, a classifier that is not `linear`), or a size out of
/// the range of a deck.
ResnetConfig read_resnet_shape(std::string const& path, SafetensorsReader const& reader);

/// Checks that the file holds exactly the tensors of the model (name, shape, readable element
/// type); the num_batches_tracked of its batch norms are passed over. Throws ConfigError naming
/// file, tensor, what was found and what was expected.
void check_resnet_tensors(std::string const& path, std::vector<TensorSpec> const& tensors,
                          SafetensorsReader const& reader);

/// "bn1.num_batches_tracked" for "bn1.running_mean", empty for any other name.
std::string batch_counter_of(std::string const& tensor);

}  // namespace sdp
