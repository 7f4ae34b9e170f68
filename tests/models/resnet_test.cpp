// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "optim/optimizer.hpp"
#include "tests/models/resnet_support.hpp"
#include "tests/support/references.hpp"

namespace sdp {
namespace {

using test::expect_same_tensors;
using test::get_values;
using test::narrow_resnet;
using test::random_weights;
using test::Reference;
using test::relative_error;
using test::resnet_masks;
using test::ResnetMask;
using test::restricted;
using test::units_of;
using test::Values;
using test::with_zeros;

template <class V>
using Worker = test::ResnetWorker<V>;

// The recorded runs; the formula is that of make_resnet_references.py.

std::vector<double> drawn(index_t count, std::uint64_t stream) {
  std::vector<double> values;
  for (index_t i = 0; i < count; ++i) {
    std::uint64_t x = (static_cast<std::uint64_t>(i) + stream * 1000003u) & 0xffffffffu;
    for (std::uint64_t multiplier : {0x85EBCA6Bu, 0xC2B2AE35u}) {
      x ^= x >> 15;
      x = x * multiplier & 0xffffffffu;
    }
    x ^= x >> 16;
    values.push_back(static_cast<double>(x >> 12) / 1048576.0 - 0.5);
  }
  return values;
}

/// Swaps the first two axes where storage is transposed; its own inverse but for the order of the
/// extents, which are those of the argument.
std::vector<double> turned(std::vector<double> const& values, index_t first, index_t second) {
  const index_t rest = static_cast<index_t>(values.size()) / (first * second);
  std::vector<double> out(values.size());
  for (index_t i = 0; i < first; ++i)
    for (index_t j = 0; j < second; ++j)
      for (index_t k = 0; k < rest; ++k)
        out[(j * first + i) * rest + k] = values[(i * second + j) * rest + k];
  return out;
}

std::vector<double> start_weights(ParameterTable const& table, double shift) {
  std::vector<std::string> names;
  for (TensorSpec const& tensor : table.tensors())
    if (!tensor.statistic) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  std::vector<double> weights(static_cast<std::size_t>(table.size()));
  for (std::size_t t = 0; t < table.tensors().size(); ++t) {
    TensorSpec const& tensor = table.tensors()[t];
    const auto place = std::find(names.begin(), names.end(), tensor.name) - names.begin();
    std::vector<double> values(static_cast<std::size_t>(tensor.size()),
                               tensor.init == Init::ones ? 1.0 : 0.0);
    if (!tensor.statistic) {
      values = drawn(tensor.size(), static_cast<std::uint64_t>(place));
      index_t fan_in = 1;
      for (std::size_t axis = 1; axis < tensor.shape.size(); ++axis) fan_in *= tensor.shape[axis];
      if (tensor.transposed) fan_in = tensor.shape[0] * tensor.shape[2] * tensor.shape[3];
      const double factor =
          tensor.shape.size() > 1 ? 4.0 / std::sqrt(static_cast<double>(fan_in)) : 1.0;
      const bool shifts = tensor.init == Init::zeros && tensor.name != "linear.bias";
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] =
            static_cast<float>(values[i] * factor + (tensor.init == Init::ones ? 1.0 : 0.0) +
                               (shifts ? (i % 2 == 0 ? shift : -shift) : 0.0));
    }
    if (tensor.transposed) values = turned(values, tensor.shape[1], tensor.shape[0]);
    std::copy(values.begin(), values.end(), weights.begin() + table.offset(static_cast<int>(t)));
  }
  return weights;
}

/// A recorded case; the numbers are those of its JSON description.
struct Case {
  char const* name;
  index_t width, classes, channels, batch;
  double smoothing;
  bool whole;            ///< tensors are recorded themselves, not their norm and sums
  double shift;          ///< of batch norm, up for even channels and down for odd ones
  std::uint64_t images;  ///< stream of the first step's images
};

/// ||a - b|| / ||b||, or its estimate from sums with random signs.
double error_against(Case const& c, Reference const& reference, std::string const& key,
                     TensorSpec const& tensor, std::vector<double> values) {
  if (tensor.transposed) values = turned(values, tensor.shape[0], tensor.shape[1]);
  const std::vector<double> expected = reference.values(key);
  if (c.whole) return relative_error(values, expected);
  double square = 0;
  for (std::size_t s = 1; s < expected.size(); ++s) {
    const auto signs = drawn(static_cast<index_t>(values.size()), 5000 + s - 1);
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) sum += signs[i] < 0 ? -values[i] : values[i];
    square += (sum - expected[s]) * (sum - expected[s]);
  }
  return std::sqrt(square / static_cast<double>(expected.size() - 1)) / expected[0];
}

template <class V>
void follows_pytorch(Case const& c, double tolerance) {
  SCOPED_TRACE(c.name);
  const Reference reference(c.name);
  const ResnetConfig config{c.classes, c.channels, c.width};
  const ParameterTable table(resnet_tensors(config));
  Worker<V> worker(config, {table, table, {}}, c.batch, start_weights(table, c.shift));
  OptimizerConfig sgd;
  sgd.kind = OptimizerKind::sgd;
  sgd.momentum = 0.9;
  sgd.nesterov = true;
  sgd.weight_decay = 5e-4;
  sgd.decay = Decay::all;
  sgd.grad_clip = 0.0;
  Optimizer<V> optimizer(sgd, UpdateScope::whole(table));
  const auto part = [&](Values const& flat, std::size_t tensor) {
    const auto begin = flat.begin() + table.offset(static_cast<int>(tensor));
    return std::vector<double>(begin, begin + table.tensors()[tensor].size());
  };
  int compared = 0;
  const auto check = [&](std::string const& key, double error) {
    ++compared;
    EXPECT_LE(error, tolerance) << key;
  };
  const auto losses = reference.values("loss");
  View2<V> logits("logits", c.batch, c.classes);
  for (std::size_t step = 0; step < losses.size(); ++step) {
    const std::string number = std::to_string(step) + ".";
    // PyTorch's images have the channel first.
    const index_t pixels = k_resnet_image_size * k_resnet_image_size;
    const Values planes = drawn(c.batch * c.channels * pixels, c.images + step);
    Values images(planes.size());
    for (index_t n = 0; n < c.batch; ++n)
      for (index_t channel = 0; channel < c.channels; ++channel)
        for (index_t i = 0; i < pixels; ++i)
          images[(n * pixels + i) * c.channels + channel] =
              4.0 * planes[(n * c.channels + channel) * pixels + i];
    worker.set_images(images);
    auto labels = Kokkos::create_mirror_view(worker.labels);
    const Values drawn_labels = drawn(c.batch, 2000 + step);
    for (index_t n = 0; n < c.batch; ++n)
      labels(n) =
          static_cast<std::int32_t>((drawn_labels[n] + 0.5) * static_cast<double>(c.classes));
    Kokkos::deep_copy(worker.labels, labels);

    worker.step(0, c.batch, false, nullptr, nullptr, c.smoothing);
    EXPECT_NEAR(worker.loss(), losses[step], tolerance * losses[step]);
    worker.model.logits(worker.exec, worker.weights, logits);
    EXPECT_LE(
        relative_error(get_values(logits), reference.values("logits." + std::to_string(step))),
        tolerance);
    const Values gradients = worker.gradients();
    optimizer.measure(worker.exec, worker.grads);
    optimizer.update(worker.exec, 0.005, worker.grads, worker.weights,
                     worker.model.statistics_kept(1));
    EXPECT_FALSE(optimizer.result(worker.exec).skipped);
    const Values updated = get_values(worker.weights);
    for (std::size_t t = 0; t < table.tensors().size(); ++t) {
      TensorSpec const& tensor = table.tensors()[t];
      const std::string key = (tensor.statistic ? "buffer." : "grad.") + number + tensor.name;
      check(key, error_against(c, reference, key, tensor,
                               part(tensor.statistic ? updated : gradients, t)));
    }
  }
  const Values final = get_values(worker.weights);
  for (std::size_t t = 0; t < table.tensors().size(); ++t) {
    TensorSpec const& tensor = table.tensors()[t];
    if (tensor.statistic) continue;
    const std::string key = "final." + tensor.name;
    check(key, error_against(c, reference, key, tensor, part(final, t)));
  }
  EXPECT_GT(compared, 300);
  // Inference with the running statistics, which the optimizer took over, also by a model that
  // keeps nothing for backward.
  Resnet<V> inference(config, {table, table, {}}, c.batch, false);
  for (Resnet<V>* model : {&worker.model, &inference}) {
    model->forward(worker.exec, worker.weights, worker.images);
    model->logits(worker.exec, worker.weights, logits);
    EXPECT_LE(relative_error(get_values(logits), reference.values("eval_logits")), tolerance);
  }
}

// No value of these runs is so near to zero before a ReLU that single precision could move it
// across.
constexpr Case k_cases[] = {{"resnet_narrow", 3, 7, 3, 3, 0.0, true, 0.0, 1249},
                            {"resnet_gray", 2, 5, 1, 1, 0.1, true, 0.0, 1081},
                            {"resnet_full", 64, 10, 3, 5, 0.0, false, 3.0, 1177}};

TEST(Resnet, FollowsPyTorchInDoublePrecision) {
  for (Case const& c : k_cases) follows_pytorch<double>(c, 1e-9);
}
TEST(Resnet, FollowsPyTorchInSinglePrecision) {
  for (Case const& c : k_cases) follows_pytorch<float>(c, 1e-4);
}

// Subnetworks of a narrow model.

/// Rows of the table whose elements a comparison with the dense model may look at: what is held,
/// but for running statistics.
Values without_statistics(ParameterTable const& table, Values values) {
  for (Span const& span : table.spans())
    if (table.tensors()[span.tensor].statistic)
      for (index_t i = 0; i < span.rows * table.tensors()[span.tensor].cols; ++i)
        values[span.offset + i] = 0.0;
  return values;
}

TEST(Resnet, ForwardMaskedEqualsTheDenseModelWithZeroedUnits) {
  const ResnetConfig config = narrow_resnet();
  const ParameterTable whole(resnet_tensors(config));
  const Values all = random_weights(config);
  for (ResnetMask const& mask : resnet_masks()) {
    const ParameterTable part =
        test::table_of(whole.tensors(), units_of(config, mask.level), mask.keep);
    Worker<double> small(config, {part, part, {}}, 3, restricted(all, part));
    Worker<double> dense(config, {whole, whole, {}}, 3, with_zeros(all, part));
    small.step();
    dense.step();
    EXPECT_NEAR(small.loss(), dense.loss(), 1e-13 * dense.loss());
    expect_same_tensors(part, without_statistics(part, small.gradients()),
                        without_statistics(part, restricted(dense.gradients(), part)), 1e-11);
  }
}

TEST(Resnet, BackwardMaskedGradientsAreTheDenseOnesOfHeldRows) {
  const ResnetConfig config = narrow_resnet();
  const ParameterTable whole(resnet_tensors(config));
  const Values all = random_weights(config);
  Worker<double> dense(config, {whole, whole, {}}, 3, all);
  dense.step();
  for (ResnetMask const& mask : resnet_masks()) {
    const ParameterTable part =
        test::table_of(whole.tensors(), units_of(config, mask.level), mask.keep);
    Worker<double> masked(config, {whole, part, {}}, 3, all);
    masked.step();
    EXPECT_EQ(masked.loss(), dense.loss());
    expect_same_tensors(part, masked.gradients(), restricted(dense.gradients(), part), 1e-12);
  }
}

TEST(Resnet, EverythingHeldIsTheDenseModelBitForBit) {
  const ResnetConfig config = narrow_resnet();
  const ParameterTable whole(resnet_tensors(config));
  for (Level level : {Level::block, Level::neuron}) {
    const ParameterTable units =
        test::table_of(whole.tensors(), units_of(config, level), [](Unit const&) { return true; });
    const std::vector<double> ones(8, 1.0);
    Worker<float> dense(config, {whole, whole, {}}, 2, random_weights(config));
    Worker<float> forward(config, {units, units, ones}, 2, random_weights(config));
    Worker<float> backward(config, {whole, units, ones}, 2, random_weights(config));
    EXPECT_EQ(forward.step().gradients(), dense.step().gradients());
    EXPECT_EQ(backward.step().gradients(), dense.gradients());
  }
}

TEST(Resnet, MicroBatchesAddUpAndStatisticsGoOn) {
  const ResnetConfig config = narrow_resnet();
  const ParameterTable whole(resnet_tensors(config));
  const Values all = random_weights(config);
  const ParameterTable part =
      test::table_of(whole.tensors(), units_of(config, Level::neuron), resnet_masks()[3].keep);
  for (ParameterTable const* held : std::initializer_list<ParameterTable const*>{&whole, &part}) {
    Worker<double> together(config, {whole, *held, {}}, 4, all);
    together.step(0, 2, false);
    const Values first = together.gradients();
    together.step(2, 2, true);
    const Values sum = together.gradients();
    Worker<double> alone(config, {whole, *held, {}}, 4, all);
    alone.step(2, 2, false);
    const Values second = alone.gradients();
    Values expected(sum.size());
    for (Span const& span : held->spans()) {
      TensorSpec const& tensor = held->tensors()[span.tensor];
      for (index_t i = span.offset; i < span.offset + span.rows * tensor.cols; ++i)
        // 0.1 b for one batch each: two in a row are 0.1 (0.9 b + b').
        expected[i] = (tensor.statistic ? 0.9 : 1.0) * first[i] + second[i];
    }
    expect_same_tensors(*held, sum, expected, 1e-12);
  }
}

TEST(Resnet, ScalesMultiplyWhatBlocksAdd) {
  const ResnetConfig config = narrow_resnet();
  const ParameterTable whole(resnet_tensors(config));
  const auto where = resnet_tensor_indices(config);
  const Values all = random_weights(config);
  const std::vector<double> scales{1.5, 0.5, 0.75, 1.0, 2.0, 3.0, 1.25, 0.8};
  Values scaled_weights = all;
  for (std::size_t b = 0; b < scales.size(); ++b)
    for (int tensor : {where.blocks[b].bn2.scale, where.blocks[b].bn2.shift})
      for (index_t i = 0; i < whole.held_size(tensor); ++i)
        scaled_weights[whole.offset(tensor) + i] *= scales[b];
  Worker<double> scaled(config, {whole, whole, scales}, 3, all);
  Worker<double> dense(config, {whole, whole, {}}, 3, scaled_weights);
  scaled.step();
  dense.step();
  EXPECT_NEAR(scaled.loss(), dense.loss(), 1e-13 * dense.loss());
  Values expected = dense.gradients();
  for (std::size_t b = 0; b < scales.size(); ++b)
    for (int tensor : {where.blocks[b].bn2.scale, where.blocks[b].bn2.shift})
      for (index_t i = 0; i < whole.held_size(tensor); ++i)
        expected[whole.offset(tensor) + i] *= scales[b];
  expect_same_tensors(whole, scaled.gradients(), expected, 1e-11);
  const auto inference_loss = [](Worker<double>& worker) {
    worker.model.forward(worker.exec, worker.weights, worker.images);
    worker.model.loss(worker.exec, worker.weights, worker.labels, worker.losses);
    worker.exec.fence();
    return worker.loss();
  };
  EXPECT_NEAR(inference_loss(scaled), inference_loss(dense), 1e-12 * inference_loss(dense));
}

/// Every report covers gradients that are what they will be, and the last covers all.
class FinalWhenReported : public BackwardObserver {
 public:
  FinalWhenReported(View1<double> const& grads) : m_grads(grads) {}
  void gradients_ready(index_t end) override {
    EXPECT_GE(end, m_end);
    m_end = end;
    const Values now = get_values(m_grads);
    m_seen.emplace_back(now.begin(), now.begin() + end);
  }
  void progress() override {}
  void check() const {
    const Values final = get_values(m_grads);
    ASSERT_GE(m_seen.size(), 10u);
    for (Values const& seen : m_seen)
      EXPECT_TRUE(std::equal(seen.begin(), seen.end(), final.begin()));
    EXPECT_EQ(static_cast<std::size_t>(m_end), final.size());
  }

 private:
  View1<double> m_grads;
  index_t m_end = 0;
  std::vector<Values> m_seen;
};

/// Weights that have not been asked for are NaN.
class Arriving : public ForwardObserver {
 public:
  Arriving(View1<double> const& weights, Values const& values)
      : m_weights(weights), m_values(values), m_begin(static_cast<index_t>(values.size())) {}
  void weights_needed(index_t begin) override {
    EXPECT_LE(begin, m_begin);
    m_begin = begin;
    auto host = Kokkos::create_mirror_view(m_weights);
    for (index_t i = 0; i < static_cast<index_t>(m_values.size()); ++i)
      host(i) = i < begin ? std::nan("") : m_values[i];
    Kokkos::deep_copy(m_weights, host);
  }
  void progress() override {}

 private:
  View1<double> m_weights;
  Values m_values;
  index_t m_begin;
};

TEST(Resnet, ReportsGradientsOnceFinalAndAsksForWeightsBeforeItReadsThem) {
  const ResnetConfig config = narrow_resnet();
  const ParameterTable whole(resnet_tensors(config));
  const Values all = random_weights(config);
  for (ResnetMask const& mask : resnet_masks()) {
    const ParameterTable part =
        test::table_of(whole.tensors(), units_of(config, mask.level), mask.keep);
    Worker<double> worker(config, {part, part, {}}, 2, restricted(all, part));
    Worker<double> same(config, {part, part, {}}, 2, restricted(all, part));
    FinalWhenReported reports(worker.grads);
    worker.step(0, 2, false, &reports);
    reports.check();
    Arriving arriving(same.weights, restricted(all, part));
    same.model.forward(same.exec, same.weights, same.images, &arriving);
    same.model.loss(same.exec, same.weights, same.labels, same.losses, &arriving);
    for (double loss : get_values(same.losses)) EXPECT_FALSE(std::isnan(loss));
  }
}

TEST(Resnet, AGradientWithoutItsWeightAndImagesThatDoNotFitAreRefused) {
  const ResnetConfig config = narrow_resnet();
  const ParameterTable whole(resnet_tensors(config));
  const ParameterTable part =
      test::table_of(whole.tensors(), units_of(config, Level::neuron), resnet_masks()[3].keep);
  EXPECT_THROW(Resnet<float>(config, {part, whole, {}}, 2, true), std::invalid_argument);
  Worker<float> worker(config, {whole, whole, {}}, 1, random_weights(config));
  const View4<float> two("two", 2, k_resnet_image_size, k_resnet_image_size, config.in_channels);
  EXPECT_THROW(worker.model.forward(worker.exec, worker.weights, two), std::invalid_argument);
}

}  // namespace
}  // namespace sdp
