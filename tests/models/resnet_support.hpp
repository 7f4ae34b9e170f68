// SPDX-License-Identifier: Apache-2.0
#pragma once

// Narrow ResNets with random weights, tables of chosen units, and one training step on them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "models/resnet.hpp"
#include "models/resnet_units.hpp"
#include "tests/models/tables.hpp"
#include "tests/support/kernel_views.hpp"

namespace sdp::test {

/// A model with its buffers and one batch; gradients start as NaN, so that an element left out
/// shows.
template <class V>
struct ResnetWorker {
  using Accum = typename Resnet<V>::Accum;

  ResnetWorker(ResnetConfig const& config, ModelSubnetwork const& subnetwork, index_t batch,
               Values const& weight_values)
      : model(config, subnetwork, batch, true),
        weights(vector_of<V>(weight_values)),
        grads(nan_vector<Accum>(subnetwork.gradients.size())),
        losses(nan_vector<Accum>(batch)),
        images("images", batch, k_resnet_image_size, k_resnet_image_size, config.in_channels),
        labels("labels", batch) {
    const Values pixels = noise(static_cast<index_t>(images.size()), 5, -2.0, 2.0);
    set_images(pixels);
    auto host = Kokkos::create_mirror_view(labels);
    const Values values = noise(batch, 6, 0.0, static_cast<double>(config.num_classes));
    for (index_t i = 0; i < batch; ++i) host(i) = static_cast<std::int32_t>(values[i]);
    Kokkos::deep_copy(labels, host);
  }

  void set_images(Values const& pixels) {
    set_values(View1<V>(images.data(), images.size()), pixels);
  }
  void step(index_t first, index_t count, bool accumulate, BackwardObserver* observer = nullptr,
            ForwardObserver* forward_observer = nullptr, double smoothing = 0.0) {
    const auto some = std::make_pair(first, first + count);
    const typename Resnet<V>::Images part =
        Kokkos::subview(images, some, Kokkos::ALL, Kokkos::ALL, Kokkos::ALL);
    const typename Resnet<V>::Labels part_labels = Kokkos::subview(labels, some);
    model.forward_training(exec, weights, part, accumulate, grads, forward_observer);
    model.loss_backward(exec, weights, part_labels, 1.0 / static_cast<double>(images.extent(0)),
                        accumulate, grads, Kokkos::subview(losses, some), smoothing);
    model.backward(exec, weights, part, accumulate, grads, observer);
    exec.fence();
  }
  ResnetWorker& step() {
    step(0, static_cast<index_t>(images.extent(0)), false);
    return *this;
  }
  double loss() const {
    double sum = 0;
    for (double value : get_values(losses)) sum += value;
    return sum / static_cast<double>(images.extent(0));
  }
  Values gradients() const { return get_values(grads); }

  ExecSpace exec;
  Resnet<V> model;
  View1<V> weights;
  View1<Accum> grads, losses;
  View4<V> images;
  View1<std::int32_t> labels;
};

inline ResnetConfig narrow_resnet() {
  return {5, 2, 4};
}

inline UnitSet units_of(ResnetConfig const& config, Level level) {
  SdpConfig sdp;
  sdp.regime = Regime::forward;
  sdp.level = level;
  sdp.neuron_group = 2;
  return resnet_units(config, sdp);
}

inline Values random_weights(ResnetConfig const& config) {
  const ParameterTable table(resnet_tensors(config));
  Values values = noise(table.size(), 11, -0.4, 0.4);
  for (Span const& span : table.spans())
    if (table.tensors()[span.tensor].init == Init::ones)
      for (index_t i = 0; i < table.held_size(span.tensor); ++i) values[span.offset + i] += 1.0;
  return values;
}

struct ResnetMask {
  Level level;
  std::function<bool(Unit const&)> keep;
};
inline std::vector<ResnetMask> resnet_masks() {
  const auto blocks = [](std::vector<int> held) {
    return [held](Unit const& unit) {
      return std::find(held.begin(), held.end(), unit.block) != held.end();
    };
  };
  return {{Level::block, blocks({0, 2, 5, 7})},
          {Level::block, blocks({1, 3, 4, 6})},
          {Level::block, blocks({})},
          {Level::neuron, [](Unit const& u) { return u.rows[0].begin / 2 % 2 == u.block % 2; }},
          {Level::neuron, [](Unit const& u) { return u.rows[0].begin == 2; }},
          // No inner channel at all in some blocks.
          {Level::neuron, [](Unit const& u) { return u.block % 3 == 0; }}};
}

}  // namespace sdp::test
