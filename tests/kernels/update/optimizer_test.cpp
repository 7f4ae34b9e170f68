// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/adamw.hpp"
#include "kernels/update/sgd.hpp"
#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

/// Two tensors with an unheld gap between them; the second is longer than one block and has its own
/// learning-rate factor and no decay.
struct Layout {
  static constexpr index_t k_first = 37, k_gap = 5, k_second = k_update_block_size + 3;
  static constexpr index_t k_size = k_first + k_gap + k_second;

  static std::vector<UpdateBlock> blocks(double decay) {
    std::vector<UpdateBlock> result;
    constexpr index_t k_begin = k_first + k_gap;
    append_update_blocks(result, {0, 0, 0, k_first, 1.0, decay});
    append_update_blocks(result, {k_begin, k_begin, k_begin, k_second, 0.5, 0.0});
    return result;
  }
  static bool held(index_t i) { return i < k_first || i >= k_first + k_gap; }
  static double factor(index_t i) { return i < k_first ? 1.0 : 0.5; }
  static double decay(index_t i, double first) { return i < k_first ? first : 0.0; }
};

AdamWStep adamw_step(int t) {
  return {1e-2, 0.9, 0.95, 1e-8, 1.0 - std::pow(0.9, t), 1.0 - std::pow(0.95, t)};
}

template <class T>
class Optimizer : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Optimizer, Types);

TYPED_TEST(Optimizer, AdamWFollowsTheFormulaForSeveralSteps) {
  using T = TypeParam;
  const index_t size = Layout::k_size;
  const auto blocks = vector_of_items(Layout::blocks(0.1));
  const auto weight = vector_of<T>(noise(size, 1));
  const auto m = vector_of<T>(Values(size, 0.0)), v = vector_of<T>(Values(size, 0.0));
  const auto skip = scalar_of<int>(0);
  auto p = get_values(weight);
  Values ms(size, 0.0), vs(size, 0.0);
  for (int t = 1; t <= 5; ++t) {
    const auto grad = vector_of<T>(noise(size, 10 + static_cast<std::uint64_t>(t)));
    const auto gs = get_values(grad);
    const double scale = t == 2 ? 0.125 : 1.0;
    const auto step = adamw_step(t);
    adamw_update(Exec(), blocks, step, scalar_of<double>(scale), skip, grad, m, v, weight);
    for (index_t i = 0; i < size; ++i) {
      if (!Layout::held(i)) continue;
      const double g = gs[i] * scale, lr = step.lr * Layout::factor(i);
      p[i] *= 1.0 - lr * Layout::decay(i, 0.1);
      ms[i] = step.beta1 * ms[i] + (1.0 - step.beta1) * g;
      vs[i] = step.beta2 * vs[i] + (1.0 - step.beta2) * g * g;
      p[i] -= lr / step.bias_correction1 * ms[i] /
              (std::sqrt(vs[i]) / std::sqrt(step.bias_correction2) + step.eps);
    }
    expect_close(get_values(m), ms, 8 * epsilon<T>(), 0.1, "exp_avg");
    expect_close(get_values(v), vs, 8 * epsilon<T>(), 0.01, "exp_avg_sq");
    expect_close(get_values(weight), p, 8 * epsilon<T>(), 1.0, "weight");
  }
}

template <class T>
void check_sgd(double momentum, bool nesterov) {
  const index_t size = Layout::k_size;
  const auto blocks = vector_of_items(Layout::blocks(0.05));
  const auto weight = vector_of<T>(noise(size, 1));
  // Nothing may be read from a buffer that has not started.
  const auto buffer = nan_vector<T>(momentum == 0.0 ? 0 : size);
  const auto skip = scalar_of<int>(0);
  auto p = get_values(weight);
  Values b(size, 0.0);
  for (int t = 1; t <= 4; ++t) {
    const auto grad = vector_of<T>(noise(size, 10 + static_cast<std::uint64_t>(t)));
    const auto gs = get_values(grad);
    const double scale = t == 2 ? 0.125 : 1.0;
    sgd_update(Exec(), blocks, SgdStep{0.1, momentum, nesterov, t == 1}, scalar_of<double>(scale),
               skip, grad, buffer, weight);
    for (index_t i = 0; i < size; ++i) {
      if (!Layout::held(i)) continue;
      double g = gs[i] * scale + Layout::decay(i, 0.05) * p[i];
      b[i] = t == 1 ? g : momentum * b[i] + g;
      g = nesterov ? g + momentum * b[i] : b[i];
      p[i] -= 0.1 * Layout::factor(i) * g;
    }
    expect_close(get_values(weight), p, 8 * epsilon<T>(), 1.0, "weight");
    if (momentum == 0.0) continue;
    auto buffers = get_values(buffer);
    for (index_t i = 0; i < size; ++i)
      if (!Layout::held(i)) buffers[i] = 0.0;
    expect_close(buffers, b, 8 * epsilon<T>(), 1.0, "momentum_buffer");
  }
}

TYPED_TEST(Optimizer, SgdFollowsTheFormulaForSeveralSteps) {
  check_sgd<TypeParam>(0.9, false);
  check_sgd<TypeParam>(0.9, true);
  check_sgd<TypeParam>(0.0, false);
}

TYPED_TEST(Optimizer, NothingChangesOutsideTheBlocksOrWhenSkipped) {
  using T = TypeParam;
  const index_t size = Layout::k_size;
  const auto blocks = vector_of_items(Layout::blocks(0.1));
  const auto scale = scalar_of<double>(1.0);
  const auto grad = vector_of<T>(noise(size, 1));
  const auto weight = vector_of<T>(noise(size, 2)), m = vector_of<T>(noise(size, 3));
  const auto v = vector_of<T>(noise(size, 4, 0.0, 1.0));
  const auto before_w = get_values(weight), before_m = get_values(m), before_v = get_values(v);
  const auto skip = scalar_of<int>(1);
  adamw_update(Exec(), blocks, adamw_step(1), scale, skip, grad, m, v, weight);
  sgd_update(Exec(), blocks, SgdStep{0.1, 0.9, false, false}, scale, skip, grad, m, weight);
  sgd_update(Exec(), blocks, SgdStep{0.1, 0.9, true, true}, scale, skip, grad, m, weight);
  sgd_update(Exec(), blocks, SgdStep{0.1, 0.0, false, false}, scale, skip, grad, m, weight);
  EXPECT_EQ(get_values(weight), before_w);
  EXPECT_EQ(get_values(m), before_m);
  EXPECT_EQ(get_values(v), before_v);
  adamw_update(Exec(), blocks, adamw_step(1), scale, scalar_of<int>(0), grad, m, v, weight);
  const auto after_w = get_values(weight), after_m = get_values(m), after_v = get_values(v);
  for (index_t i = 0; i < size; ++i) {
    ASSERT_EQ(after_w[i] == before_w[i], !Layout::held(i)) << i;
    ASSERT_EQ(after_m[i] == before_m[i], !Layout::held(i)) << i;
    ASSERT_EQ(after_v[i] == before_v[i], !Layout::held(i)) << i;
  }
}

TYPED_TEST(Optimizer, TheSameStepHasTheSameBits) {
  using T = TypeParam;
  const index_t size = Layout::k_size;
  const auto blocks = vector_of_items(Layout::blocks(0.1));
  const auto run = [&] {
    const auto weight = vector_of<T>(noise(size, 1)), m = vector_of<T>(noise(size, 2));
    adamw_update(Exec(), blocks, adamw_step(3), scalar_of<double>(0.7), scalar_of<int>(0),
                 vector_of<T>(noise(size, 4)), m, vector_of<T>(noise(size, 3, 0.0, 1.0)), weight);
    sgd_update(Exec(), blocks, SgdStep{0.1, 0.9, true, false}, scalar_of<double>(0.7),
               scalar_of<int>(0), vector_of<T>(noise(size, 5)), m, weight);
    return weight;
  };
  EXPECT_TRUE(same_bits(run(), run()));
}

TEST(OptimizerStorage, GradientsAndWeightsInBf16) {
  const auto blocks = vector_of_items<UpdateBlock>({{0, 0, 0, 9, 1.0, 0.0}});
  const auto start = noise(9, 1), grads = noise(9, 2);
  const auto weight = vector_of<bf16>(start);
  const auto m = vector_of<float>(Values(9, 0.0)), v = vector_of<float>(Values(9, 0.0));
  adamw_update(Exec(), blocks, adamw_step(1), scalar_of<double>(1.0), scalar_of<int>(0),
               vector_of<bf16>(grads), m, v, weight);
  Values expected;
  for (int i = 0; i < 9; ++i) expected.push_back(start[i] - 1e-2 * (grads[i] > 0 ? 1.0 : -1.0));
  expect_close(get_values(weight), expected, 1e-2, 1.0, "weight");
}

TEST(OptimizerStorage, MasterWeightsTakeTheStepAndAreRoundedOnce) {
  // 20 elements: from 3 on of the gradients, 5 of the moments and master weights, 9 of the weights.
  const auto scale = scalar_of<double>(0.5);
  const auto skip = scalar_of<int>(0);
  const auto at = [&](Values const& values, std::size_t begin) {
    Values moved(40, 7.0);
    std::copy(values.begin(), values.end(), moved.begin() + static_cast<std::ptrdiff_t>(begin));
    return vector_of<float>(moved);
  };
  const auto grads = noise(20, 1), weights = noise(20, 2), moments = noise(20, 3, 0.0, 1.0);
  const auto mixed = vector_of_items<UpdateBlock>({{3, 5, 9, 20, 1.0, 0.1}});
  const auto plain = vector_of_items<UpdateBlock>({{3, 5, 5, 20, 1.0, 0.1}});
  const auto check = [&](auto const& step) {
    const auto expected_m = at(moments, 5), expected_v = at(moments, 5), expected = at(weights, 5);
    const auto m = at(moments, 5), v = at(moments, 5), master = at(weights, 5);
    const auto stored = vector_of<bf16>(Values(40, 7.0));
    step(plain, at(grads, 3), expected_m, expected_v, expected, nullptr);
    step(mixed, at(grads, 3), m, v, master, &stored);
    EXPECT_TRUE(same_bits(m, expected_m));
    EXPECT_TRUE(same_bits(v, expected_v));
    EXPECT_TRUE(same_bits(master, expected));
    Values rounded(40, 7.0);
    for (std::size_t i = 0; i < 20; ++i)
      rounded[9 + i] = static_cast<float>(bf16(get_values(expected)[5 + i]));
    EXPECT_EQ(get_values(stored), rounded);
  };
  check([&](auto const& blocks, auto const& g, auto const& m, auto const& v, auto const& master,
            Vector<bf16> const* stored) {
    if (stored)
      adamw_update(Exec(), blocks, adamw_step(2), scale, skip, g, m, v, master, *stored);
    else
      adamw_update(Exec(), blocks, adamw_step(2), scale, skip, g, m, v, master);
  });
  for (const SgdStep s : {SgdStep{0.1, 0.9, true, false}, SgdStep{0.1, 0.9, false, true},
                          SgdStep{0.1, 0.0, false, false}})
    check([&](auto const& blocks, auto const& g, auto const& m, auto const&, auto const& master,
              Vector<bf16> const* stored) {
      if (stored)
        sgd_update(Exec(), blocks, s, scale, skip, g, m, master, *stored);
      else
        sgd_update(Exec(), blocks, s, scale, skip, g, m, master);
    });
}

TEST(Optimizer, BuffersMayBeLaidOutDifferently) {
  // The same 20 elements at 0 everywhere, and at 3 of the gradients, 5 of the moments, 9 of the
  // weights.
  const auto scale = scalar_of<double>(0.5);
  const auto skip = scalar_of<int>(0);
  const auto at = [&](Values const& values, std::size_t begin) {
    Values moved(40, 7.0);
    std::copy(values.begin(), values.end(), moved.begin() + static_cast<std::ptrdiff_t>(begin));
    return vector_of<double>(moved);
  };
  const auto grads = noise(20, 1), weights = noise(20, 2), moments = noise(20, 3, 0.0, 1.0);
  const auto run = [&](UpdateBlock const& block, bool adamw) {
    const auto g = at(grads, static_cast<std::size_t>(block.gradient));
    const auto w = at(weights, static_cast<std::size_t>(block.weight));
    const auto m = at(moments, static_cast<std::size_t>(block.moment));
    const auto v = at(moments, static_cast<std::size_t>(block.moment));
    const auto blocks = vector_of_items<UpdateBlock>({block});
    if (adamw)
      adamw_update(Exec(), blocks, adamw_step(3), scale, skip, g, m, v, w);
    else
      sgd_update(Exec(), blocks, SgdStep{0.1, 0.9, true, false}, scale, skip, g, m, w);
    Values held;
    for (auto const& [view, begin] : {std::pair{m, block.moment}, std::pair{w, block.weight}}) {
      const auto all = get_values(view);
      for (index_t i = 0; i < 40; ++i) {
        if (i >= begin && i < begin + 20)
          held.push_back(all[static_cast<std::size_t>(i)]);
        else
          EXPECT_EQ(all[static_cast<std::size_t>(i)], 7.0) << "outside of the block";
      }
    }
    return held;
  };
  for (const bool adamw : {true, false})
    EXPECT_EQ(run({0, 0, 0, 20, 1.0, 0.1}, adamw), run({3, 5, 9, 20, 1.0, 0.1}, adamw));
}

TEST(UpdateBlocks, CoverAStretchExactly) {
  std::vector<UpdateBlock> blocks;
  append_update_blocks(blocks, {7, 8, 9, 0, 1.0, 0.0});
  EXPECT_TRUE(blocks.empty());
  append_update_blocks(blocks, {7, 8, 9, 2 * k_update_block_size + 1, 2.0, 0.5});
  ASSERT_EQ(blocks.size(), 3u);
  index_t next = 7;
  for (auto const& block : blocks) {
    EXPECT_EQ(block.gradient, next);
    EXPECT_EQ(block.moment, next + 1);
    EXPECT_EQ(block.weight, next + 2);
    EXPECT_EQ(block.lr_factor, 2.0);
    EXPECT_EQ(block.weight_decay, 0.5);
    next += block.count;
  }
  EXPECT_EQ(next, 7 + 2 * k_update_block_size + 1);
  EXPECT_EQ(blocks.back().count, 1);
}

TEST(OptimizerShapes, MisfitsAreNamed) {
  const Vector<UpdateBlock> none("none", 0);
  const Vector<float> two("two", 2), three("three", 3), empty("empty", 0);
  const auto scale = scalar_of<double>(1.0);
  const auto skip = scalar_of<int>(0);
  EXPECT_EQ(
      message_of<ShapeError>(
          [&] { adamw_update(Exec(), none, adamw_step(1), scale, skip, two, two, three, two); }),
      "sdp::kernels::adamw_update: exp_avg (2) and exp_avg_sq (3) do not have the same shape");
  adamw_update(Exec(), none, adamw_step(1), scale, skip, two, two, two, two);
  sgd_update(Exec(), none, SgdStep{0.1, 0.0, false, false}, scale, skip, two, empty, two);
}

}  // namespace
}  // namespace sdp::kernels
