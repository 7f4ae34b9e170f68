// SPDX-License-Identifier: Apache-2.0
#include "models/resnet_costs.hpp"

#include <algorithm>

#include "models/resnet_plan.hpp"
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

std::int64_t resnet_activation_bytes(ResnetConfig const& config, ParameterTable const& weights,
                                     ParameterTable const& gradients, index_t max_batch,
                                     std::size_t element_bytes) {
  const ResnetPlan plan = resnet_plan(config, weights, gradients);
  const ResnetSizes sizes = resnet_sizes(config, plan, max_batch);
  // Kokkos rounds every allocation up to 8 bytes.
  const auto bytes = [](index_t count, std::size_t size) {
    return (count * static_cast<index_t>(size) + 7) / 8 * 8;
  };
  const auto values = [&](index_t count) { return bytes(count, element_bytes); };
  // Sums and statistics of two-byte types take four.
  const auto sums = [&](index_t count) {
    return bytes(count, std::max(element_bytes, sizeof(float)));
  };
  const auto norm = [&](index_t channels) { return 4 * sums(channels); };
  const index_t work =
      element_bytes == sizeof(double)  ? resnet_workspace<double>(config, plan, max_batch)
      : element_bytes == sizeof(float) ? resnet_workspace<float>(config, plan, max_batch)
                                       : resnet_workspace<kernels::bf16>(config, plan, max_batch);
  std::int64_t total = values(work) + 2 * values(sizes.stem)            // stem, stem_out
                       + norm(config.width) + 2 * values(sizes.inner)   // inner_out, d_inner
                       + 2 * values(sizes.features)                     // features, d_features
                       + values(max_batch * config.num_classes)         // logits
                       + values(2 * plan.max_channels)                  // affine
                       + 2 * sums(2 * plan.max_channels)                // d_affine, sums
                       + sums(sizes.partials) + 2 * values(sizes.stem)  // d_stream
                       + bytes(plan.runs, sizeof(kernels::ColumnRun));
  for (ResnetBlockPlan const& part : plan.blocks) {
    const ResnetBlockSizes block = resnet_block_sizes(part, max_batch);
    for (index_t size : {block.inner, block.branch, block.projected, block.out})
      total += values(size);
    if (part.has_branch) total += norm(part.inner) + norm(part.block.channels);
    if (part.block.projects()) total += norm(part.block.channels);
  }
  return total;
}

}  // namespace sdp
