// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/checkpoint/support.hpp"

namespace sdp::checkpoint_test {

inline ModelConfig small_resnet(index_t width = 3) {
  ModelConfig model;
  model.kind = ModelKind::resnet18;
  model.resnet.num_classes = 5;
  model.resnet.in_channels = 2;
  model.resnet.width = width;
  return model;
}

/// The tensors of the CIFAR ResNet-18, the second convolutions transposed.
inline std::vector<TensorSpec> resnet_tensors_of(ModelConfig const& model) {
  std::vector<TensorSpec> tensors;
  const auto add = [&](std::string const& name, std::vector<index_t> shape,
                       bool transposed = false) {
    TensorSpec spec;
    spec.name = name;
    spec.rows = shape[0];
    spec.cols = 1;
    for (std::size_t axis = 1; axis < shape.size(); ++axis) spec.cols *= shape[axis];
    spec.shape = std::move(shape);
    spec.transposed = transposed;
    spec.statistic = name.find("running_") != std::string::npos;
    tensors.push_back(std::move(spec));
  };
  const auto add_norm = [&](std::string const& name, index_t channels) {
    for (char const* part : {".weight", ".bias", ".running_mean", ".running_var"})
      add(name + part, {channels});
  };
  index_t in = model.resnet.width;
  for (int stage = 0; stage < 4; ++stage) {
    const index_t out = model.resnet.width << stage;
    for (int block = 0; block < 2; ++block) {
      const std::string prefix =
          "layer" + std::to_string(stage + 1) + "." + std::to_string(block) + ".";
      add(prefix + "conv1.weight", {out, in, 3, 3});
      add_norm(prefix + "bn1", out);
      add(prefix + "conv2.weight", {out, out, 3, 3}, true);
      add_norm(prefix + "bn2", out);
      if (in != out) {
        add(prefix + "shortcut.0.weight", {out, in, 1, 1});
        add_norm(prefix + "shortcut.1", out);
      }
      in = out;
    }
  }
  add("linear.weight", {model.resnet.num_classes, in});
  add("linear.bias", {model.resnet.num_classes});
  add("conv1.weight", {model.resnet.width, model.resnet.in_channels, 3, 3});
  add_norm("bn1", model.resnet.width);
  return tensors;
}

inline CheckpointHeader resnet_header(index_t width = 3) {
  CheckpointHeader header;
  header.model = small_resnet(width);
  header.state.step = 42;
  header.state.samples = 1344;
  return header;
}

template <class T>
void write_resnet(std::string const& path, CheckpointHeader const& header) {
  const ParameterTable table(resnet_tensors_of(header.model));
  write_checkpoint<T>(
      nullptr, path, header,
      {checkpoint_buffer<T>(k_group_model, table, {{0, table.size()}}, filled<T>(table, 0))});
}

}  // namespace sdp::checkpoint_test
