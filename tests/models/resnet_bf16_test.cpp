// SPDX-License-Identifier: Apache-2.0
// A ResNet-18 with weights and activations in bf16 beside the same one in float, on the same
// rounded weights and images.
#include <cmath>
#include <limits>

#include "tests/models/resnet_support.hpp"
#include "tests/support/references.hpp"

namespace sdp {
namespace {

using kernels::bf16;
using test::expect_same_tensors;
using test::get_values;
using test::narrow_resnet;
using test::random_weights;
using test::ResnetMask;
using test::ResnetWorker;
using test::restricted;
using test::units_of;
using test::Values;

Values rounded(Values values) {
  for (double& value : values) value = static_cast<float>(bf16(value));
  return values;
}

/// Weights with which batch norm moves even channels well above zero and odd ones below, so that
/// rounding does not decide which elements pass ReLU.
Values shifted_weights(ResnetConfig const& config) {
  const ParameterTable table(resnet_tensors(config));
  Values values = random_weights(config);
  for (std::size_t t = 0; t < table.tensors().size(); ++t) {
    TensorSpec const& tensor = table.tensors()[t];
    if (tensor.statistic || tensor.shape.size() > 1 || tensor.init != Init::zeros ||
        tensor.name == "linear.bias")
      continue;
    const auto begin = static_cast<std::size_t>(table.offset(static_cast<int>(t)));
    for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.size()); ++i)
      values[begin + i] += i % 2 == 0 ? 3.0 : -3.0;
  }
  return values;
}

template <class V>
ResnetWorker<V> worker_of(ResnetConfig const& config, ModelSubnetwork const& subnetwork,
                          index_t batch, Values const& weights) {
  ResnetWorker<V> worker(config, subnetwork, batch, rounded(weights));
  worker.set_images(rounded(get_values(worker.images)));
  return worker;
}

template <class V>
Values logits_of(ResnetWorker<V>& worker) {
  View2<V> logits("logits", worker.images.extent(0), worker.model.config().num_classes);
  worker.model.logits(worker.exec, worker.weights, logits);
  return get_values(logits);
}

/// f(its description, its elements of `a`, of `b`) for every tensor of a table.
template <class F>
void for_each_tensor(ParameterTable const& table, Values const& a, Values const& b, F const& f) {
  for (std::size_t t = 0; t < table.tensors().size(); ++t) {
    const auto part = [&](Values const& values) {
      const auto begin = values.begin() + table.offset(static_cast<int>(t));
      return Values(begin, begin + table.held_size(static_cast<int>(t)));
    };
    if (table.held_size(static_cast<int>(t)) > 0) f(table.tensors()[t], part(a), part(b));
  }
}

/// Gradients differ where rounding moves an element across zero before ReLU, and by the rounding of
/// what batch norm projects away: PyTorch's are as far off in bf16, by 0.07 in the median of the
/// tensors and 0.3 at most. Such errors have no direction, so a large tensor's gradient has nearly
/// no other part along the true one.
void expect_gradients_near(ParameterTable const& table, Values const& narrow, Values const& wide,
                           double most, double along) {
  for_each_tensor(table, narrow, wide,
                  [&](TensorSpec const& tensor, Values const& got, Values const& expected) {
                    const double error = test::relative_error(got, expected);
                    EXPECT_LE(error, tensor.statistic ? 2e-2 : most) << tensor.name;
                    if (tensor.statistic || got.size() < 256) return;
                    const double share = test::dot(got, expected) / test::dot(expected, expected);
                    EXPECT_NEAR(share, 1.0, along) << tensor.name;
                  });
}

TEST(ResnetBf16, LossLogitsGradientsAndStatisticsAreThoseOfFp32UpToRounding) {
  const ResnetConfig config{5, 2, 16};
  const ParameterTable whole(resnet_tensors(config));
  auto narrow = worker_of<bf16>(config, {whole, whole, {}}, 6, shifted_weights(config));
  auto wide = worker_of<float>(config, {whole, whole, {}}, 6, shifted_weights(config));
  narrow.step();
  wide.step();
  EXPECT_NEAR(narrow.loss(), wide.loss(), 5e-3 * wide.loss());
  EXPECT_LE(test::relative_error(logits_of(narrow), logits_of(wide)), 1e-2);
  expect_gradients_near(whole, narrow.gradients(), wide.gradients(), 0.25, 0.03);
  // Inference, which reads the stored statistics.
  narrow.model.forward(narrow.exec, narrow.weights, narrow.images);
  wide.model.forward(wide.exec, wide.weights, wide.images);
  EXPECT_LE(test::relative_error(logits_of(narrow), logits_of(wide)), 1e-2);
}

TEST(ResnetBf16, SubnetworksAreThoseOfFp32UpToRounding) {
  const ResnetConfig config{5, 2, 8};
  const ParameterTable whole(resnet_tensors(config));
  const Values all = shifted_weights(config);
  // Without some units, gradients of a few elements are small beside what rounding leaves of them.
  constexpr double k_any = std::numeric_limits<double>::infinity();
  const std::vector<double> scales{1.5, 0.5, 0.75, 1.0, 2.0, 3.0, 1.25, 0.8};
  const auto masks = test::resnet_masks();
  for (ResnetMask const& mask : masks) {
    const ParameterTable part =
        test::table_of(whole.tensors(), units_of(config, mask.level), mask.keep);
    auto narrow = worker_of<bf16>(config, {part, part, scales}, 6, restricted(all, part));
    auto wide = worker_of<float>(config, {part, part, scales}, 6, restricted(all, part));
    narrow.step();
    wide.step();
    SCOPED_TRACE(&mask - masks.data());
    EXPECT_NEAR(narrow.loss(), wide.loss(), 1e-2 * wide.loss());
    expect_gradients_near(part, narrow.gradients(), wide.gradients(), k_any, 0.06);
    // All weights, and gradients of a part: the same activations, so only the sums may differ.
    auto masked = worker_of<bf16>(config, {whole, part, {}}, 4, all);
    auto dense = worker_of<bf16>(config, {whole, whole, {}}, 4, all);
    masked.step();
    dense.step();
    EXPECT_EQ(masked.loss(), dense.loss());
    expect_same_tensors(part, masked.gradients(), restricted(dense.gradients(), part), 1e-5);
  }
}

TEST(ResnetBf16, MicroBatchesAddUpInFp32) {
  const ResnetConfig config = narrow_resnet();
  const ParameterTable whole(resnet_tensors(config));
  auto once = worker_of<bf16>(config, {whole, whole, {}}, 2, random_weights(config));
  auto often = worker_of<bf16>(config, {whole, whole, {}}, 2, random_weights(config));
  constexpr int k_batches = 40;
  once.step(0, 2, false);
  for (int i = 0; i < k_batches; ++i) often.step(0, 2, i > 0);
  for_each_tensor(whole, often.gradients(), once.gradients(),
                  [&](TensorSpec const& tensor, Values const& sum, Values expected) {
                    const double factor =
                        tensor.statistic ? (1.0 - std::pow(0.9, k_batches)) / 0.1 : k_batches;
                    for (double& value : expected) value *= factor;
                    EXPECT_LE(test::relative_error(sum, expected), 1e-5) << tensor.name;
                  });
}

}  // namespace
}  // namespace sdp
