// SPDX-License-Identifier: Apache-2.0
#include "models/llama.hpp"

#include <gtest/gtest.h>

#include "optim/optimizer.hpp"
#include "optim/schedule.hpp"
#include "tests/support/references.hpp"

namespace sdp {
namespace {

using test::Reference;
using test::relative_error;

template <class V>
std::vector<double> to_vector(View1<V> const& view, index_t begin, index_t count) {
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  std::vector<double> out;
  for (index_t i = 0; i < count; ++i) out.push_back(static_cast<double>(host(begin + i)));
  return out;
}

View2<std::int32_t> token_view(std::vector<std::int32_t> const& values, index_t offset, index_t b,
                               index_t t) {
  View2<std::int32_t> view("tokens", b, t);
  auto host = Kokkos::create_mirror_view(view);
  for (index_t i = 0; i < b * t; ++i) host.data()[i] = values[offset + i];
  Kokkos::deep_copy(view, host);
  return view;
}

/// One dense model with buffers, filled with NaN so that nothing can be used before it is computed.
template <class V>
struct Dense {
  using Accum = kernels::accum_t<V>;

  Dense(Reference const& reference, index_t b, index_t t, Recompute recompute)
      : table(llama_tensors(reference.config())),
        weights("weights", table.size()),
        grads("grads", table.size()),
        losses("losses", b * t),
        model(reference.config(), table, b, t, recompute, true) {
    reference.load("weight", table, weights);
    Kokkos::deep_copy(grads, std::numeric_limits<Accum>::quiet_NaN());
  }
  double loss_sum() const {
    double sum = 0;
    for (double value : to_vector(losses, 0, static_cast<index_t>(losses.extent(0)))) sum += value;
    return sum;
  }

  ExecSpace exec;
  ParameterTable table;
  View1<V> weights;
  View1<Accum> grads, losses;
  Llama<V> model;
};

/// Largest relative errors of logits, of the loss, and of each gradient.
struct Tolerance {
  double logits, loss, gradients;
};

template <class V>
void matches_pytorch(std::string const& name, Recompute recompute, Tolerance const& tolerance) {
  SCOPED_TRACE(name);
  const Reference reference(name);
  const auto shape = reference.shape("tokens");
  const index_t b = shape[0], t = shape[1], n = b * t, v = reference.config().vocab_size;
  Dense<V> dense(reference, b, t, recompute);
  const auto tokens = token_view(reference.integers("tokens"), 0, b, t);
  const auto targets = token_view(reference.integers("targets"), 0, b, t);

  dense.model.forward(dense.exec, dense.weights, tokens);
  View2<V> logits("logits", n, v);
  dense.model.logits(dense.exec, dense.weights, 0, logits);
  dense.exec.fence();
  EXPECT_LE(relative_error(to_vector(View1<V>(logits.data(), n * v), 0, n * v),
                           reference.values("logits")),
            tolerance.logits);

  dense.model.loss(dense.exec, dense.weights, targets, dense.losses);
  dense.exec.fence();
  const double expected_loss = reference.values("loss")[0];
  EXPECT_NEAR(dense.loss_sum() / static_cast<double>(n), expected_loss,
              tolerance.loss * expected_loss);

  dense.model.loss_backward(dense.exec, dense.weights, targets, 1.0 / static_cast<double>(n), false,
                            dense.grads, dense.losses);
  dense.model.backward(dense.exec, dense.weights, tokens, false, dense.grads, nullptr);
  dense.exec.fence();
  EXPECT_NEAR(dense.loss_sum() / static_cast<double>(n), expected_loss,
              tolerance.loss * expected_loss);
  for (std::size_t i = 0; i < dense.table.tensors().size(); ++i) {
    TensorSpec const& tensor = dense.table.tensors()[i];
    const int index = static_cast<int>(i);
    const double error =
        relative_error(to_vector(dense.grads, dense.table.offset(index), tensor.size()),
                       reference.stored("grad", tensor));
    EXPECT_LE(error, tolerance.gradients) << tensor.name;
  }
}

template <class V>
void matches_pytorch(std::string const& name, Recompute recompute, double tolerance) {
  matches_pytorch<V>(name, recompute, {tolerance, tolerance, tolerance});
}

class LlamaReference : public ::testing::TestWithParam<char const*> {};

TEST_P(LlamaReference, LogitsLossAndEveryGradientInFp32) {
  matches_pytorch<float>(GetParam(), Recompute::none, 1e-5);
}
TEST_P(LlamaReference, LogitsLossAndEveryGradientInFp64) {
  matches_pytorch<double>(GetParam(), Recompute::none, 1e-10);
}
TEST_P(LlamaReference, LogitsLossAndEveryGradientWithRecomputation) {
  matches_pytorch<double>(GetParam(), Recompute::block, 1e-10);
}
TEST_P(LlamaReference, LogitsLossAndEveryGradientInBf16) {
  // PyTorch itself is as far from the fp64 reference when it computes in bf16: 2.5 % in logits and
  // 7 % in the worst gradient, of which rounding the weights alone makes 3.6 %.
  matches_pytorch<kernels::bf16>(GetParam(), Recompute::none, {3e-2, 5e-3, 8e-2});
}
INSTANTIATE_TEST_SUITE_P(Shapes, LlamaReference,
                         ::testing::Values("llama_mha_untied", "llama_gqa_tied", "llama_head_dim",
                                           "llama_tiny"),
                         [](auto const& shape) { return std::string(shape.param); });

template <class V>
void gradients_of_halves_add_up(std::string const& name) {
  const Reference reference(name);
  const auto shape = reference.shape("tokens");
  const index_t b = shape[0], t = shape[1];
  ASSERT_GE(b, 2);
  Dense<V> whole(reference, b, t, Recompute::none), parts(reference, b, t, Recompute::none);
  const auto token_values = reference.integers("tokens"),
             target_values = reference.integers("targets");
  const double scale = 1.0 / static_cast<double>(b * t);
  const auto run = [&](Dense<V>& d, index_t first, index_t rows, bool accumulate) {
    const auto tokens = token_view(token_values, first * t, rows, t);
    const auto targets = token_view(target_values, first * t, rows, t);
    d.model.forward(d.exec, d.weights, tokens);
    d.model.loss_backward(d.exec, d.weights, targets, scale, accumulate, d.grads, d.losses);
    d.model.backward(d.exec, d.weights, tokens, accumulate, d.grads, nullptr);
  };
  run(whole, 0, b, false);
  run(parts, 0, 1, false);
  run(parts, 1, b - 1, true);
  whole.exec.fence();
  for (std::size_t i = 0; i < whole.table.tensors().size(); ++i) {
    const index_t offset = whole.table.offset(static_cast<int>(i));
    const index_t size = whole.table.tensors()[i].size();
    EXPECT_LE(
        relative_error(to_vector(parts.grads, offset, size), to_vector(whole.grads, offset, size)),
        1e-12)
        << whole.table.tensors()[i].name;
  }
}

TEST(Llama, AccumulatedMicroBatchesEqualOneBatch) {
  gradients_of_halves_add_up<double>("llama_mha_untied");
  gradients_of_halves_add_up<double>("llama_gqa_tied");
}

TEST(Llama, RecomputationChangesNoBit) {
  const Reference reference("llama_mha_untied");
  const auto shape = reference.shape("tokens");
  const index_t b = shape[0], t = shape[1];
  Dense<float> kept(reference, b, t, Recompute::none), again(reference, b, t, Recompute::block);
  const auto tokens = token_view(reference.integers("tokens"), 0, b, t);
  const auto targets = token_view(reference.integers("targets"), 0, b, t);
  for (Dense<float>* d : {&kept, &again}) {
    d->model.forward(d->exec, d->weights, tokens);
    d->model.loss_backward(d->exec, d->weights, targets, 0.01, false, d->grads, d->losses);
    d->model.backward(d->exec, d->weights, tokens, false, d->grads, nullptr);
    d->exec.fence();
  }
  EXPECT_EQ(to_vector(kept.grads, 0, kept.table.size()),
            to_vector(again.grads, 0, kept.table.size()));
}

struct ReadyRecorder : BackwardObserver {
  void gradients_ready(index_t end) override { ends.push_back(end); }
  void progress() override { ++polls; }
  std::vector<index_t> ends;
  int polls = 0;
};

TEST(Llama, ReportsGradientsInTableOrderAndOnlyOnceFinal) {
  const Reference reference("llama_head_dim");
  const auto shape = reference.shape("tokens");
  Dense<double> dense(reference, shape[0], shape[1], Recompute::none);
  const auto tokens = token_view(reference.integers("tokens"), 0, shape[0], shape[1]);
  const auto targets = token_view(reference.integers("targets"), 0, shape[0], shape[1]);
  struct Snapshots : ReadyRecorder {
    View1<double> grads;
    std::vector<std::vector<double>> seen;
    void gradients_ready(index_t end) override {
      ReadyRecorder::gradients_ready(end);
      seen.push_back(to_vector(grads, 0, end));
    }
  } observer;
  observer.grads = dense.grads;
  dense.model.forward(dense.exec, dense.weights, tokens);
  dense.model.loss_backward(dense.exec, dense.weights, targets, 0.1, false, dense.grads,
                            dense.losses);
  dense.model.backward(dense.exec, dense.weights, tokens, false, dense.grads, &observer);
  ASSERT_FALSE(observer.ends.empty());
  EXPECT_TRUE(std::is_sorted(observer.ends.begin(), observer.ends.end()));
  EXPECT_EQ(observer.ends.back(), dense.table.size());
  EXPECT_GT(observer.polls, 0);
  for (auto const& part : observer.seen)
    EXPECT_EQ(part, to_vector(dense.grads, 0, static_cast<index_t>(part.size())));
}

template <class V>
void follows_recorded_run(double tolerance) {
  const Reference reference("train_adamw");
  const auto shape = reference.shape("tokens");  // (updates, B, T)
  const index_t b = shape[1], t = shape[2];
  Dense<V> dense(reference, b, t, Recompute::none);
  Optimizer<V> optimizer(reference.optimizer(), UpdateScope::whole(dense.table));
  const auto tokens = reference.integers("tokens"), targets = reference.integers("targets");
  const auto losses = reference.values("loss"), norms = reference.values("grad_norm");
  const auto rates = reference.values("lr");
  ASSERT_EQ(reference.steps(), 50);
  for (index_t step = 0; step < reference.steps(); ++step) {
    const auto in = token_view(tokens, step * b * t, b, t);
    const auto out = token_view(targets, step * b * t, b, t);
    const double lr = reference.optimizer().lr *
                      schedule_factor(reference.schedule(), reference.steps(), step + 1);
    ASSERT_NEAR(lr, rates[step], 1e-12);
    dense.model.forward(dense.exec, dense.weights, in);
    dense.model.loss_backward(dense.exec, dense.weights, out, 1.0 / static_cast<double>(b * t),
                              false, dense.grads, dense.losses);
    dense.model.backward(dense.exec, dense.weights, in, false, dense.grads, nullptr);
    optimizer.measure(dense.exec, dense.grads);
    optimizer.update(dense.exec, lr, dense.grads, dense.weights);
    const UpdateResult result = optimizer.result(dense.exec);
    const double loss = dense.loss_sum() / static_cast<double>(b * t);
    ASSERT_NEAR(loss, losses[step], tolerance * losses[step]) << "update " << step + 1;
    ASSERT_NEAR(result.grad_norm, norms[step], 10 * tolerance * norms[step]);
    ASSERT_FALSE(result.skipped);
  }
}

TEST(Llama, FollowsPyTorchOverFiftyUpdatesInFp64) {
  follows_recorded_run<double>(1e-6);
}
TEST(Llama, FollowsPyTorchOverFiftyUpdatesInFp32) {
  follows_recorded_run<float>(1e-3);
}

/// A worker without some sub-layers, heads and neurons equals a dense model in which their output
/// projections are zero.
TEST(Llama, AbsentUnitsEqualZeroedOnes) {
  const Reference reference("llama_mha_untied");
  LlamaConfig const& c = reference.config();
  const auto shape = reference.shape("tokens");
  const index_t b = shape[0], t = shape[1], h = c.head_dim;
  const auto tokens = token_view(reference.integers("tokens"), 0, b, t);
  const auto targets = token_view(reference.integers("targets"), 0, b, t);
  Dense<double> dense(reference, b, t, Recompute::none);
  const auto where = llama_tensor_indices(c);
  const auto tensors = llama_tensors(c);

  // Layer 0 keeps heads 0 and 2 and half of the neurons; layer 1 has no attention.
  std::vector<std::vector<Span>> held(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    held[i] = {{static_cast<int>(i), 0, tensors[i].rows, 0, k_shared}};
  auto const& first = where.layers[0];
  auto const& second = where.layers[1];
  const index_t half = c.intermediate_size / 2;
  for (int tensor : {first.query, first.key, first.value, first.output})
    held[tensor] = {{tensor, 0, h, 0, 0}, {tensor, 2 * h, h, 0, 1}};
  for (int tensor : {first.gate, first.up, first.down}) held[tensor] = {{tensor, 0, half, 0, 2}};
  for (int tensor : {second.query, second.key, second.value, second.output, second.attention_norm})
    held[tensor] = {};
  const ParameterTable small(tensors, held);

  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), dense.weights);
  const auto zero_rows = [&](int tensor, index_t begin, index_t rows) {
    const index_t cols = tensors[tensor].cols;
    for (index_t i = begin * cols; i < (begin + rows) * cols; ++i)
      host(dense.table.offset(tensor) + i) = 0;
  };
  zero_rows(first.output, h, h);
  zero_rows(first.output, 3 * h, (c.num_heads - 3) * h);
  zero_rows(first.down, half, c.intermediate_size - half);
  zero_rows(second.output, 0, c.num_heads * h);
  Kokkos::deep_copy(dense.weights, host);

  View1<double> weights("small_weights", small.size()), grads("small_grads", small.size());
  View1<double> losses("small_losses", b * t);
  auto small_host = Kokkos::create_mirror_view(weights);
  for (Span const& span : small.spans())
    for (index_t i = 0; i < span.rows * tensors[span.tensor].cols; ++i)
      small_host(span.offset + i) =
          host(dense.table.offset(span.tensor) + span.row_begin * tensors[span.tensor].cols + i);
  Kokkos::deep_copy(weights, small_host);

  for (Recompute recompute : {Recompute::none, Recompute::block}) {
    Llama<double> model(c, small, b, t, recompute, true);
    Kokkos::deep_copy(grads, std::nan(""));
    model.forward(dense.exec, weights, tokens);
    model.loss_backward(dense.exec, weights, targets, 0.01, false, grads, losses);
    model.backward(dense.exec, weights, tokens, false, grads, nullptr);
    dense.model.forward(dense.exec, dense.weights, tokens);
    dense.model.loss_backward(dense.exec, dense.weights, targets, 0.01, false, dense.grads,
                              dense.losses);
    dense.model.backward(dense.exec, dense.weights, tokens, false, dense.grads, nullptr);
    dense.exec.fence();
    EXPECT_LE(relative_error(to_vector(losses, 0, b * t), to_vector(dense.losses, 0, b * t)),
              1e-13);
    for (Span const& span : small.spans()) {
      const index_t cols = tensors[span.tensor].cols;
      EXPECT_LE(relative_error(
                    to_vector(grads, span.offset, span.rows * cols),
                    to_vector(dense.grads, dense.table.offset(span.tensor) + span.row_begin * cols,
                              span.rows * cols)),
                1e-12)
          << tensors[span.tensor].name << " with recompute " << static_cast<int>(recompute);
    }
  }
}

TEST(Llama, ForwardOnlyModelKeepsNothingAndAgrees) {
  const Reference reference("llama_gqa_tied");
  const auto shape = reference.shape("tokens");
  const index_t b = shape[0], t = shape[1];
  Dense<float> dense(reference, b, t, Recompute::none);
  Llama<float> small(reference.config(), dense.table, b, t, Recompute::none, false);
  const auto tokens = token_view(reference.integers("tokens"), 0, b, t);
  const auto targets = token_view(reference.integers("targets"), 0, b, t);
  dense.model.forward(dense.exec, dense.weights, tokens);
  dense.model.loss(dense.exec, dense.weights, targets, dense.losses);
  View1<float> losses("losses", b * t);
  small.forward(dense.exec, dense.weights, tokens);
  small.loss(dense.exec, dense.weights, targets, losses);
  dense.exec.fence();
  EXPECT_EQ(to_vector(losses, 0, b * t), to_vector(dense.losses, 0, b * t));
  EXPECT_THROW(small.backward(dense.exec, dense.weights, tokens, false, dense.grads, nullptr),
               std::logic_error);
}

TEST(Llama, LabelSmoothingMixesTheUniformLoss) {
  const Reference reference("llama_tiny");
  const auto tokens = token_view(reference.integers("tokens"), 0, 1, 1);
  const auto targets = token_view(reference.integers("targets"), 0, 1, 1);
  const index_t v = reference.config().vocab_size;
  Dense<double> dense(reference, 1, 1, Recompute::none);
  dense.model.forward(dense.exec, dense.weights, tokens);
  double uniform = 0;
  for (index_t token = 0; token < v; ++token) {
    const auto each = token_view({static_cast<std::int32_t>(token)}, 0, 1, 1);
    dense.model.loss(dense.exec, dense.weights, each, dense.losses);
    dense.exec.fence();
    uniform += dense.loss_sum() / static_cast<double>(v);
  }
  dense.model.loss_backward(dense.exec, dense.weights, targets, 1.0, false, dense.grads,
                            dense.losses, 0.25);
  dense.exec.fence();
  const double expected = 0.75 * reference.values("loss")[0] + 0.25 * uniform;
  EXPECT_NEAR(dense.loss_sum(), expected, 1e-10);
}

TEST(Llama, RefusesBatchesLargerThanItsBuffers) {
  const Reference reference("llama_tiny");
  Dense<float> dense(reference, 1, 1, Recompute::none);
  View2<std::int32_t> tokens("tokens", 1, 2);
  EXPECT_THROW(dense.model.forward(dense.exec, dense.weights, tokens), std::invalid_argument);
}

}  // namespace
}  // namespace sdp
