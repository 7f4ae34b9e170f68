// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/parameter_table.hpp"
#include "config/config.hpp"
#include "kernels/nn/pack_columns.hpp"
#include "models/resnet_tensors.hpp"

namespace sdp {

/// Which channels of a batch norm or a sliced convolution get a gradient on a worker.
struct HeldChannels {
  bool all = true;
  std::vector<kernels::ColumnRun> runs;  ///< where not all; empty: none
  index_t first_run = 0;                 ///< among those of the whole model
};

/// One basic block as a worker holds it.
struct ResnetBlockPlan {
  ResnetBlock block;
  bool has_branch = true;    ///< else the skip path carries the signal past it
  index_t inner = 0;         ///< inner channels that exist here; may be 0 with a branch
  HeldChannels inner_held;   ///< of conv1, bn1 and conv2
  HeldChannels branch_held;  ///< of bn2
};

/// What the tables of a worker ask of a Resnet: everything in them that sizes its buffers.
struct ResnetPlan {
  std::vector<ResnetBlockPlan> blocks;
  index_t runs = 0;  ///< in all lists
  index_t max_channels = 0;
};

/// Throws std::invalid_argument when a gradient row is not among the weights.
ResnetPlan resnet_plan(ResnetConfig const& config, ParameterTable const& weights,
                       ParameterTable const& gradients);

/// Elements of the buffers of one block for a batch.
struct ResnetBlockSizes {
  index_t inner = 0, branch = 0, projected = 0, out = 0;
  index_t total() const { return inner + branch + projected + out; }
};
ResnetBlockSizes resnet_block_sizes(ResnetBlockPlan const& plan, index_t max_batch);

/// Elements of the buffers that blocks share, for a batch.
struct ResnetSizes {
  index_t stem = 0;   ///< the residual stream where it is largest
  index_t inner = 0;  ///< the largest inner activation
  index_t block = 0;  ///< inner, branch and projection of the largest block
  index_t features = 0;
  index_t partials = 0;  ///< of batch norm
};
ResnetSizes resnet_sizes(ResnetConfig const& config, ResnetPlan const& plan, index_t max_batch);

/// Elements of the workspace of the convolutions of a plan, forward and backward, for batches of
/// max_batch images of V.
template <class V>
index_t resnet_workspace(ResnetConfig const& config, ResnetPlan const& plan, index_t max_batch);

extern template index_t resnet_workspace<float>(ResnetConfig const&, ResnetPlan const&, index_t);
extern template index_t resnet_workspace<double>(ResnetConfig const&, ResnetPlan const&, index_t);
extern template index_t resnet_workspace<kernels::bf16>(ResnetConfig const&, ResnetPlan const&,
                                                        index_t);

}  // namespace sdp
