// SPDX-License-Identifier: Apache-2.0
#include "models/resnet_costs.hpp"

#include "models/resnet_tensors.hpp"

namespace sdp {

SampleFlops resnet_sample_flops(ResnetConfig const& config, ParameterTable const& weights,
                                ParameterTable const& gradients) {
  const auto where = resnet_tensor_indices(config);
  const auto blocks = resnet_blocks(config);
  SampleFlops flops;
  // Every element of a convolution meets every position that it puts out.
  const auto add = [&](int tensor, index_t positions, bool activation_gradient = true) {
    const std::int64_t forward = 2 * positions * weights.held_size(tensor);
    flops.forward += forward;
    if (activation_gradient) flops.activation_gradient += forward;
    flops.weight_gradient += 2 * positions * gradients.held_size(tensor);
  };
  add(where.stem, k_resnet_image_size * k_resnet_image_size, false);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const index_t positions = blocks[b].size * blocks[b].size;
    add(where.blocks[b].conv1, positions);
    add(where.blocks[b].conv2, positions);
    if (where.blocks[b].projection >= 0) add(where.blocks[b].projection, positions);
  }
  add(where.classifier, 1);
  return flops;
}

}  // namespace sdp
