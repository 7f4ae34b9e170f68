// SPDX-License-Identifier: Apache-2.0
#include "optim/optimizer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "base/device_pool.hpp"
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
  Optimizer<V> optimizer(variant.config, UpdateScope::whole(table));
  ExecSpace exec;
  View1<V> weights("weights", n), grad("grad", n);
  auto host_weights = Kokkos::create_mirror_view(weights);
  for (index_t i = 0; i < n; ++i) host_weights(i) = static_cast<V>(start[i]);
  Kokkos::deep_copy(weights, host_weights);
  for (std::size_t step = 0; step < rates.size(); ++step) {
    auto host_grad = Kokkos::create_mirror_view(grad);
    for (index_t i = 0; i < n; ++i) host_grad(i) = static_cast<V>(grads[step * n + i]);
    Kokkos::deep_copy(grad, host_grad);
    optimizer.measure(exec, grad);
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
        optimizer(config, UpdateScope::whole(table)),
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
  s.optimizer.measure(s.exec, s.grads);
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
    s.optimizer.measure(s.exec, s.grads);
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
    s.optimizer.measure(s.exec, s.grads);
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

std::vector<double> to_host(View1<double> const& view) {
  const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  return {host.data(), host.data() + host.extent(0)};
}

View1<double> ramp(index_t size, double start, double step) {
  View1<double> view("ramp", size);
  const auto host = Kokkos::create_mirror_view(view);
  for (index_t i = 0; i < size; ++i)
    host(i) = start + step * static_cast<double>(i) * static_cast<double>(i % 7);
  Kokkos::deep_copy(view, host);
  return view;
}

void add_digits(Optimizer<double> const& from, Optimizer<double> const& to) {
  const auto a = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), from.norm_digits());
  const auto b = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), to.norm_digits());
  for (std::size_t i = 0; i < a.extent(0); ++i) b(i) += a(i);
  Kokkos::deep_copy(to.norm_digits(), b);
}

TEST(Optimizer, ShardsTogetherHaveTheBitsOfTheWhole) {
  const ParameterTable table({tensor("a", 6, 4, true), tensor("b", 1, 5, false)});
  for (OptimizerConfig config : {adamw(0.9, 0.95, 1e-8, 0.5), sgd(0.9, true, 0.1)}) {
    config.grad_clip = 0.5;
    ExecSpace exec;
    Optimizer<double> whole(config, UpdateScope::whole(table));
    Optimizer<double> first(config, {table, table, {{4, 12}, {24, 29}}, true});
    Optimizer<double> second(config, {table, table, {{0, 4}, {12, 24}}, true});
    EXPECT_EQ(first.moments()[0].second.extent(0), 13u);
    EXPECT_EQ(second.moments()[0].second.extent(0), 16u);
    const auto expected = ramp(29, 1.0, 0.125), got = ramp(29, 1.0, 0.125);
    for (int step = 0; step < 3; ++step) {
      const auto grads = ramp(29, 0.3 * step - 0.2, 0.01);
      for (auto* optimizer : {&whole, &first, &second}) optimizer->measure(exec, grads);
      add_digits(first, second);
      Kokkos::deep_copy(first.norm_digits(), second.norm_digits());
      whole.update(exec, 0.1, grads, expected);
      first.update(exec, 0.1, grads, got);
      second.update(exec, 0.1, grads, got);
      const double norm = whole.result(exec).grad_norm;
      EXPECT_EQ(first.result(exec).grad_norm, norm);
      EXPECT_EQ(second.result(exec).grad_norm, norm);
      EXPECT_EQ(to_host(got), to_host(expected));
    }
  }
}

/// Running statistics after 30 updates of V, and how they are stored; by one worker or by two that
/// own a part each.
template <class V>
std::pair<std::vector<double>, std::vector<double>> statistics_of(bool sharded) {
  using Wide = kernels::accum_t<V>;
  TensorSpec statistic = tensor("running_var", 6, 1, false);
  statistic.statistic = true;
  const ParameterTable table({statistic});
  ExecSpace exec;
  const View1<V> weights("weights", 6);
  const View1<Wide> grads("grads", 6);
  std::vector<std::unique_ptr<Optimizer<V>>> workers;
  for (IndexRange const& owned :
       sharded ? std::vector<IndexRange>{{2, 6}, {0, 2}} : std::vector<IndexRange>{{0, 6}})
    workers.push_back(std::make_unique<Optimizer<V>>(sgd(0.9, true, 0.1),
                                                     UpdateScope{table, table, {owned}, sharded}));
  const auto batch = Kokkos::create_mirror_view(grads);
  for (int step = 0; step < 30; ++step) {
    for (int i = 0; i < 6; ++i) batch(i) = static_cast<Wide>(0.1 * (1.0 + 0.01 * i + 1e-4 * step));
    Kokkos::deep_copy(grads, batch);
    for (auto& worker : workers) {
      worker->measure(exec, grads);
      worker->update(exec, 0.1, grads, weights, 0.9);
      (void)worker->result(exec);
    }
  }
  std::vector<double> stored(6), exact(6);
  const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), weights);
  for (int i = 0; i < 6; ++i) exact[i] = stored[i] = static_cast<double>(host(i));
  if constexpr (Optimizer<V>::k_mixed) {
    for (auto& worker : workers) {
      const auto part = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), worker->master());
      const int begin = sharded && worker == workers.front() ? 2 : 0;
      for (std::size_t i = 0; i < part.extent(0); ++i) exact[begin + i] = part(i);
    }
  }
  return {exact, stored};
}

/// What a pool has to keep ready for it.
TEST(Optimizer, ListsTakeAtMostWhatIsSaid) {
  const ParameterTable table({tensor("narrow", 3000, 4, true), tensor("wide", 5, 100000, true)});
  UpdateScope by_rows = UpdateScope::whole(table);
  by_rows.sharded = true;
  by_rows.owned.clear();
  for (index_t row = 0; row < 3000; row += 2) by_rows.owned.push_back({4 * row, 4 * row + 4});
  by_rows.owned.push_back({12000, 512000});
  const bool was_in_use = device_pool::in_use();
  device_pool::use(true);
  for (UpdateScope const& scope : {UpdateScope::whole(table), by_rows}) {
    index_t owned = 0;
    for (IndexRange const& range : scope.owned) owned += range.size();
    const std::int64_t before = device_pool::usage().used;
    PoolRegion region;
    {
      const PoolScope in_region(region);
      const Optimizer<float> optimizer(adamw(0.9, 0.95, 1e-8, 0.1), scope);
    }
    const std::int64_t lists =
        device_pool::usage().used - before -
        2 * (scope.sharded ? owned : table.size()) * static_cast<index_t>(sizeof(float));
    EXPECT_GT(lists, 0);
    EXPECT_LE(lists, Optimizer<float>::most_list_bytes(table) + 8 * device_pool::k_alignment)
        << (scope.sharded ? "sharded" : "whole");
  }
  device_pool::use(was_in_use);
}

TEST(Optimizer, RunningStatisticsMoveInFullPrecisionWhateverTheStorageType) {
  const auto expected = statistics_of<float>(false).first;
  EXPECT_NEAR(expected[0], 1.002 * (1.0 - std::pow(0.9, 30)), 1e-3);
  for (bool sharded : {false, true}) {
    EXPECT_EQ(statistics_of<float>(sharded).first, expected);
    const auto [exact, stored] = statistics_of<kernels::bf16>(sharded);
    EXPECT_EQ(exact, expected);
    for (std::size_t i = 0; i < 6; ++i)
      EXPECT_EQ(stored[i], static_cast<float>(kernels::bf16(expected[i])));
  }
}

TEST(Optimizer, WeightsMayHoldMoreThanGradients) {
  const std::vector<TensorSpec> tensors{tensor("a", 6, 4, true), tensor("b", 1, 5, false)};
  const ParameterTable weights(tensors);
  const ParameterTable grads(tensors, {{{0, 1, 2, 0, 7}, {0, 4, 1, 0, 8}}, {{1, 0, 1, 0, -1}}});
  ASSERT_EQ(grads.size(), 17);
  ExecSpace exec;
  Optimizer<double> optimizer(sgd(0.0, false, 0.0), {grads, weights, {{0, 17}}, false});
  const auto g = ramp(17, 0.5, 0.25), w = ramp(29, 1.0, 0.125);
  const auto before = to_host(w), gradient = to_host(g);
  optimizer.measure(exec, g);
  optimizer.update(exec, 1.0, g, w);
  (void)optimizer.result(exec);
  const auto after = to_host(w);
  for (std::size_t i = 0; i < 29; ++i) {
    const bool held = (i >= 4 && i < 12) || (i >= 16 && i < 20) || i >= 24;
    const std::size_t at = i < 12 ? i - 4 : i < 20 ? i - 8 : i - 12;
    EXPECT_EQ(after[i], held ? before[i] - gradient[at] : before[i]) << i;
  }
  EXPECT_THROW(Optimizer<double>(sgd(0.0, false, 0.0), {weights, grads, {{0, 29}}, false}),
               std::invalid_argument);
}

}  // namespace
}  // namespace sdp
