// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/resnet_file.hpp"

#include <algorithm>
#include <set>
#include <string_view>

#include "base/error.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/huggingface.hpp"

namespace sdp {

using file_io::in_quotes;
using file_io::shape_text;

namespace {

constexpr char const* k_stem = "conv1.weight";
constexpr char const* k_classifier = "linear.weight";
// What a deck allows.
constexpr index_t k_most_channels = 65536;

SafetensorsTensor const& require(std::string const& path, SafetensorsReader const& reader,
                                 char const* name, std::size_t axes, char const* expected) {
  SafetensorsTensor const* tensor = reader.find(name);
  if (tensor == nullptr)
    throw ConfigError(
        path + " has no tensor " + in_quotes(name) +
        "; the names of the CIFAR ResNet-18 in PyTorch are expected, among them one " +
        "of shape " + expected);
  const auto in_range = [](index_t extent) { return extent >= 1 && extent <= k_most_channels; };
  if (tensor->shape.size() != axes ||
      !std::all_of(tensor->shape.begin(), tensor->shape.end(), in_range))
    throw ConfigError(path + ": tensor " + in_quotes(name) + " has the shape " +
                      shape_text(tensor->shape) + "; " + expected +
                      " with sizes from 1 to 65536 is expected");
  return *tensor;
}

}  // namespace

bool has_resnet_names(SafetensorsReader const& reader) {
  return std::any_of(reader.tensors().begin(), reader.tensors().end(),
                     [](SafetensorsTensor const& tensor) {
                       return tensor.name == k_stem || tensor.name == k_classifier ||
                              tensor.name.find("layer1.0.") != std::string::npos;
                     });
}

ResnetConfig read_resnet_shape(std::string const& path, SafetensorsReader const& reader) {
  SafetensorsTensor const& stem = require(path, reader, k_stem, 4, "[width, channels, 3, 3]");
  if (stem.shape[2] != 3 || stem.shape[3] != 3)
    throw ConfigError(path + ": tensor " + in_quotes(k_stem) + " has the shape " +
                      shape_text(stem.shape) +
                      "; only the CIFAR variant of ResNet-18 is supported, whose stem is a " +
                      "convolution of [width, channels, 3, 3]");
  SafetensorsTensor const& classifier =
      require(path, reader, k_classifier, 2, "[classes, 8 * width]");
  ResnetConfig config;
  config.width = stem.shape[0];
  config.in_channels = stem.shape[1];
  config.num_classes = classifier.shape[0];
  return config;
}

void check_resnet_tensors(std::string const& path, std::vector<TensorSpec> const& tensors,
                          SafetensorsReader const& reader) {
  std::set<std::string> expected;
  std::set<std::string> passed_over;
  for (TensorSpec const& tensor : tensors) {
    expected.insert(tensor.name);
    passed_over.insert(batch_counter_of(tensor.name));
    SafetensorsTensor const* found = reader.find(tensor.name);
    const std::vector<index_t> shape = outside_shape(tensor.shape, tensor.transposed);
    if (found == nullptr)
      throw ConfigError(path + " has no tensor " + in_quotes(tensor.name) +
                        "; its CIFAR ResNet-18 needs one of shape " + shape_text(shape));
    const std::string where = path + ": tensor " + in_quotes(tensor.name);
    if (found->shape != shape)
      throw ConfigError(where + " has the shape " + shape_text(found->shape) + "; " +
                        shape_text(shape) + " follows from the sizes of " + k_stem + " and " +
                        k_classifier + " in a CIFAR ResNet-18");
    if (found->type == TensorType::other)
      throw ConfigError(where + " has the element type " + found->type_name +
                        "; F32, F16, BF16 or F64 is expected");
  }
  for (SafetensorsTensor const& tensor : reader.tensors())
    if (!expected.count(tensor.name) && !passed_over.count(tensor.name))
      throw ConfigError(path + ": tensor " + in_quotes(tensor.name) + " of shape " +
                        shape_text(tensor.shape) + " does not belong to a CIFAR ResNet-18");
}

std::string batch_counter_of(std::string const& tensor) {
  constexpr std::string_view k_end = ".running_mean";
  if (tensor.size() < k_end.size() ||
      tensor.compare(tensor.size() - k_end.size(), k_end.size(), k_end) != 0)
    return "";
  return tensor.substr(0, tensor.size() - k_end.size()) + ".num_batches_tracked";
}

}  // namespace sdp
