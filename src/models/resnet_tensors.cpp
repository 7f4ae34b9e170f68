// SPDX-License-Identifier: Apache-2.0
#include "models/resnet_tensors.hpp"

#include <cmath>

namespace sdp {

namespace {

/// Appends tensors and says where they stand. Vectors of sliced channels have one row per channel.
class TensorList {
 public:
  int convolution(std::string const& name, index_t out, index_t in, index_t kernel,
                  bool transposed = false) {
    TensorSpec spec;
    spec.name = name + ".weight";
    spec.rows = transposed ? in : out;
    spec.cols = (transposed ? out : in) * kernel * kernel;
    spec.shape = {spec.rows, transposed ? out : in, kernel, kernel};
    spec.transposed = transposed;
    // He et al. (2015), with the fan-out of torchvision's ResNets.
    spec.init_std = std::sqrt(2.0 / static_cast<double>(out * kernel * kernel));
    return add(spec);
  }
  BatchNormTensors batch_norm(std::string const& name, index_t channels, bool sliced = false) {
    BatchNormTensors where{};
    where.scale = channel_vector(name + ".weight", channels, sliced, Init::ones, false);
    where.shift = channel_vector(name + ".bias", channels, sliced, Init::zeros, false);
    where.running_mean =
        channel_vector(name + ".running_mean", channels, sliced, Init::zeros, true);
    where.running_var = channel_vector(name + ".running_var", channels, sliced, Init::ones, true);
    return where;
  }
  int classifier(index_t classes, index_t features) {
    TensorSpec spec;
    spec.name = "linear.weight";
    spec.shape = {classes, features};
    spec.rows = classes;
    spec.cols = features;
    // The variance of PyTorch's uniform distribution.
    spec.init_std = 1.0 / std::sqrt(3.0 * static_cast<double>(features));
    return add(spec);
  }
  int channel_vector(std::string const& name, index_t size, bool sliced, Init init,
                     bool statistic) {
    TensorSpec spec;
    spec.name = name;
    spec.shape = {size};
    spec.rows = sliced ? size : 1;
    spec.cols = sliced ? 1 : size;
    spec.decay = false;
    spec.init = init;
    spec.statistic = statistic;
    return add(spec);
  }

  std::vector<TensorSpec> list;

 private:
  int add(TensorSpec const& spec) {
    list.push_back(spec);
    return static_cast<int>(list.size()) - 1;
  }
};

ResnetTensors fill(ResnetConfig const& config, TensorList& tensors) {
  const std::vector<ResnetBlock> blocks = resnet_blocks(config);
  const index_t features = blocks.back().channels;
  ResnetTensors where;
  where.classifier = tensors.classifier(config.num_classes, features);
  where.classifier_bias =
      tensors.channel_vector("linear.bias", config.num_classes, false, Init::zeros, false);
  where.blocks.resize(blocks.size());
  for (std::size_t b = blocks.size(); b-- > 0;) {
    ResnetBlock const& block = blocks[b];
    ResnetBlockTensors& t = where.blocks[b];
    const std::string prefix =
        "layer" + std::to_string(block.stage + 1) + "." + std::to_string(block.index) + ".";
    t.bn2 = tensors.batch_norm(prefix + "bn2", block.channels);
    t.conv2 = tensors.convolution(prefix + "conv2", block.channels, block.channels, 3, true);
    t.bn1 = tensors.batch_norm(prefix + "bn1", block.channels, true);
    t.conv1 = tensors.convolution(prefix + "conv1", block.channels, block.in_channels, 3);
    t.projection = -1;
    t.projection_bn = {-1, -1, -1, -1};
    if (!block.projects()) continue;
    t.projection_bn = tensors.batch_norm(prefix + "shortcut.1", block.channels);
    t.projection = tensors.convolution(prefix + "shortcut.0", block.channels, block.in_channels, 1);
  }
  where.stem_bn = tensors.batch_norm("bn1", config.width);
  where.stem = tensors.convolution("conv1", config.width, config.in_channels, 3);
  return where;
}

}  // namespace

std::vector<ResnetBlock> resnet_blocks(ResnetConfig const& config) {
  constexpr int k_stages = 4;
  constexpr int k_blocks_per_stage = 2;
  std::vector<ResnetBlock> blocks;
  index_t channels = config.width, size = k_resnet_image_size;
  for (int stage = 0; stage < k_stages; ++stage) {
    for (int index = 0; index < k_blocks_per_stage; ++index) {
      ResnetBlock block;
      block.stage = stage;
      block.index = index;
      block.in_channels = channels;
      block.channels = config.width << stage;
      block.stride = stage > 0 && index == 0 ? 2 : 1;
      size /= block.stride;
      block.size = size;
      channels = block.channels;
      blocks.push_back(block);
    }
  }
  return blocks;
}

std::vector<TensorSpec> resnet_tensors(ResnetConfig const& config) {
  TensorList tensors;
  fill(config, tensors);
  return tensors.list;
}

ResnetTensors resnet_tensor_indices(ResnetConfig const& config) {
  TensorList tensors;
  return fill(config, tensors);
}

}  // namespace sdp
