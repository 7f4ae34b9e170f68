// SPDX-License-Identifier: Apache-2.0
#include "optim/optimizer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/references.hpp"

namespace sdp {
namespace {

using test::Reference;
using test::relative_error;

TensorSpec tensor(std::string name, index_t rows, index_t cols, bool decay) {
  TensorSpec spec;
  spec.name = std::move(name);
  spec.shape = {rows, cols};
  spec.rows = rows;
  spec.cols = cols;
  spec.decay = decay;
  return spec;
}

struct Variant {
  char const* name;
  OptimizerConfig config;
};

OptimizerConfig adamw(double beta1, double beta2, double eps, double decay) {
  OptimizerConfig config;
  config.kind = OptimizerKind::adamw;
  config.beta1 = beta1;
  config.beta2 = beta2;
  config.eps = eps;
  config.weight_decay = decay;
  config.grad_clip = 0.0;
  return config;
}

OptimizerConfig sgd(double momentum, bool nesterov, double decay) {
  OptimizerConfig config;
  config.kind = OptimizerKind::sgd;
  config.momentum = momentum;
  config.nesterov = nesterov;
  config.weight_decay = decay;
  config.decay = Decay::all;
  config.grad_clip = 0.0;
  return config;
}

template <class V>
void follows_pytorch(Variant const& variant, double tolerance) {
  SCOPED_TRACE(variant.name);
  const Reference reference("optimizer");
  const auto start = reference.values("param"), grads = reference.values("grad");
  const auto rates = reference.values("lr");
  const auto expected = reference.values(std::string(variant.name) + ".param");
  const auto n = static_cast<index_t>(start.size());
  const ParameterTable table({tensor("p", 1, n, true)});
  Optimizer<V> optimizer(variant.config, table);
  ExecSpace exec;
  View1<V> weights("weights", n), grad("grad", n);
  auto host_weights = Kokkos::create_mirror_view(weights);
  for (index_t i = 0; i < n; ++i) host_weights(i) = static_cast<V>(start[i]);
  Kokkos::deep_copy(weights, host_weights);
  for (std::size_t step = 0; step < rates.size(); ++step) {
    auto host_grad = Kokkos::create_mirror_view(grad);
    for (index_t i = 0; i < n; ++i) host_grad(i) = static_cast<V>(grads[step * n + i]);
    Kokkos::deep_copy(grad, host_grad);
    optimizer.update(exec, rates[step], grad, weights);
    ASSERT_FALSE(optimizer.result(exec).skipped);
    auto now = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), weights);
    std::vector<double> got, want;
    for (index_t i = 0; i < n; ++i) {
      got.push_back(static_cast<double>(now(i)));
      want.push_back(expected[step * n + i]);
    }
    EXPECT_LE(relative_error(got, want), tolerance) << "update " << step + 1;
  }
}

TEST(Optimizer, EveryVariantFollowsPyTorch) {
  const Variant variants[] = {
      {"adamw", adamw(0.9, 0.95, 1e-8, 0.1)}, {"adamw_no_decay", adamw(0.8, 0.99, 1e-6, 0.0)},
      {"sgd", sgd(0.0, false, 0.0)},          {"sgd_l2", sgd(0.0, false, 0.05)},
      {"sgd_momentum", sgd(0.9, false, 0.0)}, {"sgd_momentum_l2", sgd(0.9, false, 0.05)},
      {"sgd_nesterov", sgd(0.9, true, 0.0)},  {"sgd_nesterov_l2", sgd(0.9, true, 0.05)}};
  for (Variant const& variant : variants) {
    follows_pytorch<double>(variant, 1e-12);
    follows_pytorch<float>(variant, 1e-6);
  }
}

struct Small {
  explicit Small(OptimizerConfig const& config)
      : table({tensor("a", 3, 4, true), tensor("b", 1, 5, false)}),
        optimizer(config, table),
        weights("weights", table.size()),
        grads("grads", table.size()) {
    Kokkos::deep_copy(weights, 1.0);
    Kokkos::deep_copy(grads, 0.0);
  }
  ExecSpace exec;
  ParameterTable table;
  Optimizer<double> optimizer;
  View1<double> weights, grads;
};

TEST(Optimizer, ClipsByOneGlobalNorm) {
  OptimizerConfig config = sgd(0.0, false, 0.0);
  config.grad_clip = 0.5;
  Small s(config);
  Kokkos::deep_copy(s.grads, 2.0);
  s.optimizer.update(s.exec, 1.0, s.grads, s.weights);
  const double norm = 2.0 * std::sqrt(17.0);
  EXPECT_NEAR(s.optimizer.result(s.exec).grad_norm, norm, 1e-12);
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), s.weights);
  for (index_t i = 0; i < 17; ++i) EXPECT_NEAR(host(i), 1.0 - 2.0 * 0.5 / (norm + 1e-6), 1e-14);
}

TEST(Optimizer, DecaysMatricesOnlyUnlessToldOtherwise) {
  for (Decay decay : {Decay::matrices, Decay::all}) {
    OptimizerConfig config = adamw(0.9, 0.95, 1e-8, 0.5);
    config.decay = decay;
    Small s(config);
    s.optimizer.update(s.exec, 0.1, s.grads, s.weights);
    (void)s.optimizer.result(s.exec);
    auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), s.weights);
    EXPECT_NEAR(host(0), 0.95, 1e-15);
    EXPECT_NEAR(host(12), decay == Decay::all ? 0.95 : 1.0, 1e-15);
  }
}

TEST(Optimizer, NonFiniteGradientChangesNothingAndDoesNotCount) {
  for (double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    Small s(adamw(0.9, 0.95, 1e-8, 0.5));
    Kokkos::deep_copy(s.grads, 0.25);
    auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), s.grads);
    host(7) = bad;
    Kokkos::deep_copy(s.grads, host);
    s.optimizer.update(s.exec, 0.1, s.grads, s.weights);
    EXPECT_TRUE(s.optimizer.result(s.exec).skipped);
    EXPECT_EQ(s.optimizer.updates(), 0);
    auto weights = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), s.weights);
    auto moment =
        Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), s.optimizer.moments()[0].second);
    for (index_t i = 0; i < 17; ++i) {
      EXPECT_EQ(weights(i), 1.0);
      EXPECT_EQ(moment(i), 0.0);
    }
  }
}

}  // namespace
}  // namespace sdp
