// SPDX-License-Identifier: Apache-2.0
// Exchanged gradients of a narrow ResNet-18 in all variants against finite differences of the
// losses.
#include <cmath>
#include <cstdint>
#include <memory>

#include "comm/exchange.hpp"
#include "config/load.hpp"
#include "models/model.hpp"
#include "tests/train/run_fixture.hpp"
#include "tests/train/variants.hpp"
#include "train/arrangement.hpp"

namespace sdp {
namespace {

using test::Overrides;
using test::Variant;
using test::operator+;

constexpr index_t k_batch = 2, k_side = 32, k_channels = 3, k_classes = 10;

Config narrow_resnet(int ranks, Overrides const& overrides) {
  Launch launch;
  launch.ranks = ranks;
  return parse_deck(R"(
[run]
out_dir = "unused"
precision = "fp64"
[model]
kind = "resnet18"
width = 4
[data]
kind = "cifar10"
train = ["unused"]
[train]
steps = 1
global_batch = 16
)",
                    "test deck", overrides, launch);
}

/// The loss of each rank at what it holds, in training, on two images of its own.
class Objective {
 public:
  Objective(World const& world, Config const& config, Arrangement const& arrangement)
      : m_subnetwork(arrangement.subnetwork(world.worker())),
        m_model(make_model<double>(config.model, m_subnetwork, k_batch, 1, true)),
        m_images("images", k_batch, k_side, k_side, k_channels),
        m_labels("labels", k_batch, 1),
        m_losses("losses", k_batch),
        m_statistics("statistics", m_subnetwork.gradients.size()) {
    auto state = static_cast<std::uint32_t>(17 * world.rank() + 5);
    for (std::size_t i = 0; i < m_images.size(); ++i) {
      state = state * 1664525u + 1013904223u;
      m_images.data()[i] = static_cast<double>(state >> 8) / (1 << 23) - 1.0;
    }
    for (int i = 0; i < k_batch; ++i) m_labels(i, 0) = (3 * world.rank() + 7 * i) % k_classes;
  }

  double value(View1<double> const& weights) {
    m_model->forward(m_exec, weights, batch(), false, m_statistics, nullptr);
    m_model->loss(m_exec, weights, batch(), m_losses, nullptr);
    double sum = 0;
    for (int i = 0; i < k_batch; ++i) sum += m_losses(i);
    return sum / k_batch;
  }

  void gradient(View1<double> const& weights, View1<double> const& grads) {
    m_model->forward(m_exec, weights, batch(), false, grads, nullptr);
    m_model->loss_backward(m_exec, weights, batch(), 1.0 / k_batch, false, grads, m_losses, 0.0);
    m_model->backward(m_exec, weights, batch(), false, grads, nullptr);
  }

  ModelSubnetwork const& subnetwork() const { return m_subnetwork; }

 private:
  ModelBatch<double> batch() const { return {{}, m_images, m_labels}; }

  ModelSubnetwork m_subnetwork;
  ExecSpace m_exec;
  std::unique_ptr<Model<double>> m_model;
  Kokkos::View<double****, Kokkos::LayoutRight, MemSpace> m_images;
  View2<std::int32_t> m_labels;
  View1<double> m_losses;
  View1<double> m_statistics;  // in the place of gradients
};

/// Where an element of a logical tensor lies in the buffer of a table; -1 where it is not held.
index_t place(ParameterTable const& table, int tensor, index_t element) {
  const index_t cols = table.tensors()[static_cast<std::size_t>(tensor)].cols;
  for (Span const& span : table.spans()) {
    const index_t begin = span.row_begin * cols;
    if (span.tensor == tensor && element >= begin && element < begin + span.rows * cols)
      return span.offset + element - begin;
  }
  return -1;
}

class ResnetGradients : public test::RunFixture, public ::testing::WithParamInterface<Variant> {};

TEST_P(ResnetGradients, AreDerivativesOfTheLossesOfTheHolders) {
  Variant const& variant = GetParam();
  const int ranks = m_world.size();
  const Config config = narrow_resnet(ranks, variant.overrides() + test::half_of_the_units(ranks));
  const Arrangement arrangement = arrange(config, ranks, ranks);
  Objective objective(m_world, config, arrangement);
  ParameterTable const& held = objective.subnetwork().weights;
  ParameterTable const& trained = objective.subnetwork().gradients;
  const auto weights = initial<double>(ExecSpace(), held, 5);
  View1<double> grads("grads", trained.size());
  objective.gradient(weights, grads);
  Exchange<double> exchange(m_world, arrangement.schedule(m_world.worker()));
  exchange.begin(grads);
  exchange.finish();

  // Of every tensor some elements, on whichever ranks hold them. Under backward masking all ranks
  // have the weights, and the losses of the holders count.
  constexpr index_t k_stride = 1499;
  constexpr double k_rounding = 1e-14;  // of a loss
  int masked = 0;
  for (int t = 0; t < static_cast<int>(held.tensors().size()); ++t) {
    TensorSpec const& tensor = held.tensors()[static_cast<std::size_t>(t)];
    if (tensor.statistic) continue;
    for (index_t element = 7 * t % tensor.size(); element < tensor.size(); element += k_stride) {
      const index_t weight = place(held, t, element);
      const index_t gradient = place(trained, t, element);
      const double holders = m_world.sum(gradient >= 0 ? 1.0 : 0.0);
      const double exchanged = m_world.max(gradient >= 0 ? grads(gradient) : -1e300);
      double difference = 0, tolerance = 0;
      // The loss bends where a value is zero before ReLU; a smaller step does not get there.
      for (double step : {1e-6, 1e-7, 1e-8}) {
        double losses[2];
        const double before = weight >= 0 ? weights(weight) : 0.0;
        for (int side : {0, 1}) {
          if (weight >= 0) weights(weight) = before + (side == 0 ? -step : step);
          losses[side] = objective.value(weights);
          if (weight >= 0) weights(weight) = before;
        }
        const double derivative = (losses[1] - losses[0]) / (2 * step);
        const double of_holders = variant.is_forward() || gradient >= 0 ? derivative : 0.0;
        difference = exchanged - m_world.sum(of_holders) / holders;
        tolerance = 1e-8 + k_rounding / step;
        if (std::abs(difference) <= tolerance) break;
      }
      EXPECT_NEAR(difference, 0.0, tolerance)
          << tensor.name << " element " << element << ", gradient " << exchanged << ", " << holders
          << " holders";
      if (holders < ranks) ++masked;
    }
  }
  EXPECT_EQ(masked > 20, ranks > 1) << masked;
}

INSTANTIATE_TEST_SUITE_P(Variants, ResnetGradients, ::testing::ValuesIn(test::variants(1)),
                         [](auto const& parameter) { return parameter.param.name(); });

}  // namespace
}  // namespace sdp
