// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/parameter_table.hpp"
#include "config/config.hpp"

namespace sdp {

/// Height and width of the images that a ResNet takes; smaller ones are padded to it.
inline constexpr index_t k_resnet_image_size = 32;

/// One basic block: two 3x3 convolutions with batch norm beside a skip path, which has a 1x1
/// projection where the block changes shape.
struct ResnetBlock {
  int stage = 0;  ///< 0 to 3
  int index = 0;  ///< in its stage
  index_t in_channels = 0;
  index_t channels = 0;  ///< of the residual stream after it, and of its inner activation
  index_t stride = 1;
  index_t size = 0;  ///< height and width of what it puts out
  bool projects() const { return stride != 1 || in_channels != channels; }
};

/// The eight basic blocks of the CIFAR ResNet-18 from the input on: four stages of two, with 1, 2,
/// 4 and 8 times the width, strides 1, 2, 2, 2.
std::vector<ResnetBlock> resnet_blocks(ResnetConfig const& config);

/// The tensors of the CIFAR ResNet-18 (3x3 stem, no max-pool) in the order in which backward
/// finishes their gradients: classifier, then block by block from the last to the first, stem at
/// the end. Names are PyTorch's. The second convolution of a block is stored (in, out, 3, 3), so
/// that inner channels are rows of every tensor that they own. Running statistics of batch norm
/// stand beside its scale and shift.
std::vector<TensorSpec> resnet_tensors(ResnetConfig const& config);

/// Where the tensors of a batch norm stand in the list above.
struct BatchNormTensors {
  int scale, shift, running_mean, running_var;
};
/// Those of one basic block; `projection` is -1 where there is none.
struct ResnetBlockTensors {
  BatchNormTensors bn2;
  int conv2;
  BatchNormTensors bn1;
  int conv1;
  BatchNormTensors projection_bn;
  int projection;
};
struct ResnetTensors {
  int classifier, classifier_bias;
  std::vector<ResnetBlockTensors> blocks;  ///< from the input on
  BatchNormTensors stem_bn;
  int stem;
};
ResnetTensors resnet_tensor_indices(ResnetConfig const& config);

}  // namespace sdp
