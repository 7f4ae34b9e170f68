// SPDX-License-Identifier: Apache-2.0
#include "models/resnet_plan.hpp"

#include <algorithm>

#include "base/types.hpp"
#include "kernels/nn/batch_norm.hpp"
#include "kernels/nn/convolution.hpp"
#include "models/held_runs.hpp"

namespace sdp {

namespace {

HeldChannels held_channels(ParameterTable const& weights, ParameterTable const& gradients,
                           HeldRuns const& held, int tensor, index_t& next_run) {
  HeldChannels channels;
  channels.all = gradients.held_rows(tensor) == weights.held_rows(tensor);
  channels.runs = held.of({tensor});
  channels.first_run = next_run;
  next_run += static_cast<index_t>(channels.runs.size());
  return channels;
}

}  // namespace

ResnetPlan resnet_plan(ResnetConfig const& config, ParameterTable const& weights,
                       ParameterTable const& gradients) {
  ResnetPlan plan;
  plan.max_channels = config.width;
  const ResnetTensors where = resnet_tensor_indices(config);
  const HeldRuns held(weights, gradients);
  for (ResnetBlock const& block : resnet_blocks(config)) {
    ResnetBlockTensors const& t = where.blocks[plan.blocks.size()];
    ResnetBlockPlan part;
    part.block = block;
    part.has_branch = weights.held_rows(t.bn2.scale) > 0;
    part.inner = weights.held_rows(t.conv1);
    part.inner_held = held_channels(weights, gradients, held, t.conv1, plan.runs);
    part.branch_held = held_channels(weights, gradients, held, t.bn2.scale, plan.runs);
    plan.max_channels = std::max(plan.max_channels, block.channels);
    plan.blocks.push_back(std::move(part));
  }
  return plan;
}

ResnetBlockSizes resnet_block_sizes(ResnetBlockPlan const& plan, index_t max_batch) {
  const index_t pixels = max_batch * plan.block.size * plan.block.size;
  const index_t stream = pixels * plan.block.channels;
  ResnetBlockSizes sizes;
  if (plan.has_branch) {
    sizes.inner = pixels * plan.inner;
    sizes.branch = stream;
  }
  if (plan.block.projects()) sizes.projected = stream;
  if (plan.has_branch || plan.block.projects()) sizes.out = stream;
  return sizes;
}

ResnetSizes resnet_sizes(ResnetConfig const& config, ResnetPlan const& plan, index_t max_batch) {
  ResnetSizes sizes;
  const auto norm = [&](index_t size, index_t channels) {
    sizes.partials = std::max(sizes.partials,
                              kernels::batch_norm_chunks(max_batch * size * size) * 2 * channels);
  };
  sizes.stem = max_batch * k_resnet_image_size * k_resnet_image_size * config.width;
  norm(k_resnet_image_size, config.width);
  for (ResnetBlockPlan const& part : plan.blocks) {
    const ResnetBlockSizes block = resnet_block_sizes(part, max_batch);
    sizes.inner = std::max(sizes.inner, block.inner);
    sizes.block = std::max(sizes.block, block.inner + block.branch + block.projected);
    norm(part.block.size, std::max(part.inner, part.block.channels));
  }
  sizes.features = max_batch * plan.blocks.back().block.channels;
  return sizes;
}

template <class V>
index_t resnet_workspace(ResnetConfig const& config, ResnetPlan const& plan, index_t max_batch) {
  index_t largest = 0;
  const auto add = [&](index_t size, index_t in, index_t out, int kernel, index_t stride) {
    const kernels::ConvolutionShape shape{
        max_batch, size, size, in, out, kernel, static_cast<int>(stride)};
    largest = std::max(largest, kernels::convolution_workspace_size<ExecSpace, V>(shape));
  };
  add(k_resnet_image_size, config.in_channels, config.width, 3, 1);
  for (ResnetBlockPlan const& part : plan.blocks) {
    ResnetBlock const& block = part.block;
    const index_t in_size = block.size * block.stride;
    if (part.inner > 0) {
      add(in_size, block.in_channels, part.inner, 3, block.stride);
      add(block.size, part.inner, block.channels, 3, 1);
    }
    if (block.projects()) add(in_size, block.in_channels, block.channels, 1, block.stride);
  }
  return largest;
}

template index_t resnet_workspace<float>(ResnetConfig const&, ResnetPlan const&, index_t);
template index_t resnet_workspace<double>(ResnetConfig const&, ResnetPlan const&, index_t);
template index_t resnet_workspace<kernels::bf16>(ResnetConfig const&, ResnetPlan const&, index_t);

}  // namespace sdp
