// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/attention.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <initializer_list>
#include <iostream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace sdp::kernels {
namespace {

using Exec = Kokkos::DefaultExecutionSpace;
using Plan = Details::AttentionPlan;
template <class T>
using Rank4 = Kokkos::View<T****, Kokkos::LayoutRight>;
template <class T>
using Rank3 = Kokkos::View<T***, Kokkos::LayoutRight>;

struct Shape {
  index_t batch, positions, heads, key_value_heads, head_dim;

  index_t stored() const { return heads + 2 * key_value_heads; }
  index_t qkv_size() const { return batch * positions * stored() * head_dim; }
  index_t out_size() const { return batch * positions * heads * head_dim; }
  index_t row(index_t b, index_t t, index_t head, index_t width) const {
    return ((b * positions + t) * width + head) * head_dim;
  }
  std::string text() const {
    std::ostringstream out;
    out << 'B' << batch << " T" << positions << " H" << heads << " K" << key_value_heads << " h"
        << head_dim;
    return out.str();
  }
};

std::vector<double> random_values(index_t count, std::uint64_t state, double magnitude = 1.0) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = magnitude * (static_cast<double>(state >> 33) / static_cast<double>(1u << 30) - 1.0);
  }
  return values;
}

template <class View>
void assign(View const& view, std::vector<double> const& values) {
  auto host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < host.size(); ++i)
    host.data()[i] = static_cast<value_t<View>>(values[i]);
  Kokkos::deep_copy(view, host);
}

template <class View>
std::vector<double> values_of(View const& view) {
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  std::vector<double> values(host.size());
  for (std::size_t i = 0; i < host.size(); ++i) values[i] = static_cast<double>(host.data()[i]);
  return values;
}

std::vector<double> nan_values(index_t count) {
  return std::vector<double>(static_cast<std::size_t>(count),
                             std::numeric_limits<double>::quiet_NaN());
}

/// Attention written out with all scores, in double.
struct Reference {
  std::vector<double> out, lse, d_qkv;
};

Reference reference(Shape const& s, std::vector<double> const& qkv,
                    std::vector<double> const& d_out) {
  Reference r{std::vector<double>(s.out_size()),
              std::vector<double>(s.batch * s.heads * s.positions),
              std::vector<double>(s.qkv_size())};
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  std::vector<double> p(s.positions), dp(s.positions);
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t n = 0; n < s.heads; ++n)
      for (index_t t = 0; t < s.positions; ++t) {
        const index_t key_head = s.heads + n / (s.heads / s.key_value_heads);
        const index_t q = s.row(b, t, n, s.stored());
        const index_t o = s.row(b, t, n, s.heads);
        double top = -HUGE_VAL, sum = 0.0, mean = 0.0;
        for (index_t u = 0; u <= t; ++u) {
          const index_t k = s.row(b, u, key_head, s.stored());
          p[u] = 0.0;
          for (index_t d = 0; d < s.head_dim; ++d) p[u] += qkv[q + d] * qkv[k + d];
          p[u] *= scale;
          top = std::max(top, p[u]);
        }
        for (index_t u = 0; u <= t; ++u) sum += std::exp(p[u] - top);
        r.lse[(b * s.heads + n) * s.positions + t] = top + std::log(sum);
        for (index_t u = 0; u <= t; ++u) {
          const index_t v = s.row(b, u, key_head + s.key_value_heads, s.stored());
          p[u] = std::exp(p[u] - top) / sum;
          dp[u] = 0.0;
          for (index_t d = 0; d < s.head_dim; ++d) {
            r.out[o + d] += p[u] * qkv[v + d];
            r.d_qkv[v + d] += p[u] * d_out[o + d];
            dp[u] += d_out[o + d] * qkv[v + d];
          }
          mean += p[u] * dp[u];
        }
        for (index_t u = 0; u <= t; ++u) {
          const index_t k = s.row(b, u, key_head, s.stored());
          const double slope = p[u] * (dp[u] - mean) * scale;
          for (index_t d = 0; d < s.head_dim; ++d) {
            r.d_qkv[q + d] += slope * qkv[k + d];
            r.d_qkv[k + d] += slope * qkv[q + d];
          }
        }
      }
  return r;
}

template <class T>
using DefaultTuning = Details::DefaultAttentionTuning<Exec, T>;

template <class T>
using DeviceBlocks = Details::AttentionTuning<false, accum_t<T>>;

/// Stands for the kernels that attention_forward and attention_backward choose themselves.
template <bool Deterministic = true>
struct Chosen {};

template <class>
inline constexpr bool k_is_chosen = false;
template <bool Deterministic>
inline constexpr bool k_is_chosen<Chosen<Deterministic>> = true;

/// The kernels on one set of inputs, every output pre-filled with NaN.
template <class T, class Tuning = DefaultTuning<T>>
Reference run(Shape const& s, std::vector<double> const& qkv_values,
              std::vector<double> const& d_out_values, Plan plan) {
  using A = accum_t<T>;
  Rank4<T> qkv("qkv", s.batch, s.positions, s.stored(), s.head_dim);
  Rank4<T> d_qkv("d_qkv", s.batch, s.positions, s.stored(), s.head_dim);
  Rank4<T> out("out", s.batch, s.positions, s.heads, s.head_dim);
  Rank4<T> d_out("d_out", s.batch, s.positions, s.heads, s.head_dim);
  Rank3<A> lse("lse", s.batch, s.heads, s.positions);
  Rank3<A> delta("delta", s.batch, s.heads, s.positions);
  assign(qkv, qkv_values);
  assign(d_out, d_out_values);
  assign(d_qkv, nan_values(s.qkv_size()));
  assign(out, nan_values(s.out_size()));
  assign(lse, nan_values(static_cast<index_t>(lse.size())));
  assign(delta, nan_values(static_cast<index_t>(lse.size())));
  Exec exec;
  if constexpr (k_is_chosen<Tuning>) {
    attention_forward(exec, qkv, s.heads, out, lse);
    attention_backward(exec, qkv, out, lse, d_out, s.heads, delta, d_qkv,
                       std::is_same_v<Tuning, Chosen<true>>);
  } else {
    Details::attention_forward_tuned<Tuning>(exec, qkv, s.heads, out, lse);
    Details::attention_backward_tuned<Tuning>(exec, plan, qkv, out, lse, d_out, s.heads, delta,
                                              d_qkv);
  }
  exec.fence();
  return {values_of(out), values_of(lse), values_of(d_qkv)};
}

/// Norm of the difference over the norm; NaN anywhere gives NaN.
double relative_error(std::vector<double> const& a, std::vector<double> const& b) {
  double difference = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference) / (std::sqrt(norm) + std::numeric_limits<double>::min());
}

const Shape k_shapes[] = {
    {1, 1, 1, 1, 2},    {2, 1, 4, 2, 64},   {1, 7, 1, 1, 6},     {3, 7, 2, 1, 20},
    {1, 16, 2, 2, 16},  {1, 17, 2, 2, 16},  {2, 33, 4, 2, 20},   {1, 64, 2, 1, 64},
    {1, 65, 3, 3, 64},  {2, 65, 6, 3, 80},  {1, 130, 4, 1, 128}, {1, 130, 2, 2, 6},
    {1, 200, 2, 1, 96}, {1, 257, 1, 1, 64}, {1, 40, 2, 1, 256},  {1, 129, 8, 2, 2},
};

template <class T, class Tuning = DefaultTuning<T>>
void check_against_reference(Plan plan, double forward_tolerance, double backward_tolerance) {
  for (Shape const& s : k_shapes) {
    const auto qkv = random_values(s.qkv_size(), 1);
    const auto d_out = random_values(s.out_size(), 2);
    const Reference expected = reference(s, qkv, d_out);
    const Reference actual = run<T, Tuning>(s, qkv, d_out, plan);
    EXPECT_LE(relative_error(actual.out, expected.out), forward_tolerance) << s.text();
    // A lse near zero by chance is measured against the scores it is made of.
    for (std::size_t i = 0; i < expected.lse.size(); ++i)
      ASSERT_NEAR(actual.lse[i], expected.lse[i], forward_tolerance * 8.0) << s.text();
    EXPECT_LE(relative_error(actual.d_qkv, expected.d_qkv), backward_tolerance) << s.text();
  }
}

TEST(Attention, MatchesReferenceInDouble) {
  check_against_reference<double>(Plan::automatic, 1e-13, 1e-12);
  check_against_reference<double>(Plan::fused, 1e-13, 1e-12);
  check_against_reference<double>(Plan::split, 1e-13, 1e-12);
}

TEST(Attention, MatchesReferenceInFloat) {
  // Rounding of sums of up to 257 terms grows like the square root of their number.
  const double epsilon = std::numeric_limits<float>::epsilon();
  check_against_reference<float>(Plan::fused, 8 * epsilon, 16 * epsilon);
  check_against_reference<float>(Plan::split, 8 * epsilon, 16 * epsilon);
}

TEST(Attention, MatchesReferenceWithTheBlocksOfADevice) {
  const double epsilon = std::numeric_limits<float>::epsilon();
  check_against_reference<float, DeviceBlocks<float>>(Plan::automatic, 8 * epsilon, 16 * epsilon);
  check_against_reference<double, DeviceBlocks<double>>(Plan::automatic, 1e-13, 1e-12);
}

/// Values that bf16 holds exactly.
std::vector<double> bf16_values(index_t count, std::uint64_t state) {
  auto values = random_values(count, state);
  for (double& value : values) value = static_cast<float>(bf16(value));
  return values;
}

template <class Tuning>
void check_bf16_against_reference(std::vector<Shape> const& shapes) {
  for (Shape const& s : shapes) {
    const auto qkv = bf16_values(s.qkv_size(), 1);
    const auto d_out = bf16_values(s.out_size(), 2);
    const Reference expected = reference(s, qkv, d_out);
    const Reference actual = run<bf16, Tuning>(s, qkv, d_out, Plan::automatic);
    EXPECT_LE(relative_error(actual.out, expected.out), 1e-2) << s.text();
    EXPECT_LE(relative_error(actual.lse, expected.lse), 1e-2) << s.text();
    EXPECT_LE(relative_error(actual.d_qkv, expected.d_qkv), 1e-2) << s.text();
  }
}

TEST(Attention, MatchesReferenceInBf16Storage) {
  check_bf16_against_reference<DefaultTuning<bf16>>(
      {{1, 7, 1, 1, 6}, {2, 65, 4, 2, 64}, {1, 130, 2, 1, 80}});
}

/// Where a library may run bf16, shapes that it takes and shapes that it leaves to our kernels.
TEST(Attention, WhatIsChosenForBf16MatchesReference) {
  const std::vector<Shape> shapes{{2, 128, 4, 4, 64}, {2, 128, 4, 2, 64}, {1, 200, 3, 3, 128},
                                  {3, 65, 6, 3, 64},  {1, 257, 8, 1, 32}, {1, 1, 2, 1, 64},
                                  {2, 65, 4, 2, 20},  {1, 40, 2, 1, 256}};
  check_bf16_against_reference<Chosen<>>(shapes);
  check_bf16_against_reference<Chosen<false>>(shapes);
}

TEST(Attention, WhatIsChosenForBf16GivesSameBits) {
  const Shape s{4, 511, 4, 2, 64};
  const auto qkv = bf16_values(s.qkv_size(), 14);
  const auto d_out = bf16_values(s.out_size(), 15);
  const Reference first = run<bf16, Chosen<>>(s, qkv, d_out, Plan::automatic);
  for (int repeat = 0; repeat < 3; ++repeat) {
    const Reference again = run<bf16, Chosen<>>(s, qkv, d_out, Plan::automatic);
    EXPECT_EQ(first.out, again.out);
    EXPECT_EQ(first.lse, again.lse);
    EXPECT_EQ(first.d_qkv, again.d_qkv);
  }
}

#if defined(SDP_HAVE_CUDNN)

/// The parts of the plans that are held, forward before backward; nothing at a time where cuDNN
/// refuses.
std::vector<Details::AttentionPart> held_plans() {
  std::vector<Details::AttentionPart> parts;
  for (auto const& [number, device] : Details::cudnn_state().devices)
    for (auto const& [key, plan] : device.plans) {
      if (!plan.graph) std::cerr << "cuDNN refuses: " << plan.refusal << '\n';
      parts.push_back(plan.part);
    }
  return parts;
}

TEST(Attention, ShapesOfModelsRunOnCudnn) {
  if (Exec().cuda_device_prop().major < 8) GTEST_SKIP() << "cuDNN's attention needs Ampere";
  for (Shape const& s :
       {Shape{2, 512, 12, 12, 64}, Shape{2, 512, 16, 4, 128}, Shape{2, 100, 6, 2, 64}}) {
    Details::release_cudnn();
    run<bf16, Chosen<>>(s, bf16_values(s.qkv_size(), 1), bf16_values(s.out_size(), 2),
                        Plan::automatic);
    const Details::AttentionPart whole{2, s.key_value_heads};
    EXPECT_EQ(held_plans(), (std::vector{whole, whole})) << s.text();
  }
}

TEST(Attention, ABatchInPartsIsTheSameBatch) {
  if (Exec().cuda_device_prop().major < 8) GTEST_SKIP() << "cuDNN's attention needs Ampere";
  const Shape s{4, 132, 4, 2, 64};
  const auto qkv = bf16_values(s.qkv_size(), 1);
  const auto d_out = bf16_values(s.out_size(), 2);
  const Reference expected = reference(s, qkv, d_out);
  Details::release_cudnn();
  Details::cudnn_state().workspace_limit = 1;
  const Reference parts = run<bf16, Chosen<>>(s, qkv, d_out, Plan::automatic);
  EXPECT_EQ(held_plans().back(), (Details::AttentionPart{1, 1}))
      << "the backward pass needs a workspace";
  Details::release_cudnn();
  Details::cudnn_state().workspace_limit = Details::k_cudnn_workspace_limit;
  EXPECT_LE(relative_error(parts.out, expected.out), 1e-2);
  EXPECT_LE(relative_error(parts.lse, expected.lse), 1e-2);
  EXPECT_LE(relative_error(parts.d_qkv, expected.d_qkv), 1e-2);
}

#endif

/// Sum of out weighted by `weights`.
double weighted_output(Shape const& s, std::vector<double> const& qkv_values,
                       std::vector<double> const& weights) {
  Rank4<double> qkv("qkv", s.batch, s.positions, s.stored(), s.head_dim);
  Rank4<double> out("out", s.batch, s.positions, s.heads, s.head_dim);
  Rank3<double> lse("lse", s.batch, s.heads, s.positions);
  assign(qkv, qkv_values);
  Exec exec;
  attention_forward(exec, qkv, s.heads, out, lse);
  exec.fence();
  const auto values = values_of(out);
  double sum = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += values[i] * weights[i];
  return sum;
}

TEST(Attention, GradientOfEveryInputMatchesFiniteDifferences) {
  const double step = 1e-5;
  for (Shape const& s : {Shape{1, 1, 1, 1, 2}, Shape{2, 7, 2, 1, 6}, Shape{1, 20, 4, 2, 4}}) {
    auto qkv = random_values(s.qkv_size(), 5);
    const auto weights = random_values(s.out_size(), 6);
    for (Plan plan : {Plan::fused, Plan::split}) {
      const auto gradient = run<double>(s, qkv, weights, plan).d_qkv;
      for (std::size_t i = 0; i < qkv.size(); ++i) {
        const double kept = qkv[i];
        qkv[i] = kept + step;
        const double above = weighted_output(s, qkv, weights);
        qkv[i] = kept - step;
        const double below = weighted_output(s, qkv, weights);
        qkv[i] = kept;
        ASSERT_NEAR(gradient[i], (above - below) / (2 * step), 1e-9) << s.text() << " at " << i;
      }
    }
  }
}

TEST(Attention, DirectionalGradientMatchesFiniteDifferencesAcrossTiles) {
  const double step = 1e-5;
  for (Shape const& s : {Shape{1, 130, 4, 2, 20}, Shape{1, 65, 2, 1, 80}}) {
    const auto qkv = random_values(s.qkv_size(), 7);
    const auto weights = random_values(s.out_size(), 8);
    const auto gradient = run<double>(s, qkv, weights, Plan::automatic).d_qkv;
    for (std::uint64_t seed : {11u, 12u, 13u}) {
      const auto direction = random_values(s.qkv_size(), seed);
      auto above = qkv, below = qkv;
      double slope = 0.0;
      for (std::size_t i = 0; i < qkv.size(); ++i) {
        above[i] += step * direction[i];
        below[i] -= step * direction[i];
        slope += gradient[i] * direction[i];
      }
      const double measured =
          (weighted_output(s, above, weights) - weighted_output(s, below, weights)) / (2 * step);
      EXPECT_NEAR(slope, measured, 1e-7) << s.text();
    }
  }
}

TEST(Attention, LaterPositionsDoNotReachEarlierOnes) {
  const Shape s{1, 70, 2, 1, 16};
  auto qkv = random_values(s.qkv_size(), 3);
  const auto d_out = random_values(s.out_size(), 4);
  const auto before = run<float>(s, qkv, d_out, Plan::automatic).out;
  const index_t changed = 50;
  for (index_t i = s.row(0, changed, 0, s.stored()); i < s.qkv_size(); ++i) qkv[i] += 1.0;
  const auto after = run<float>(s, qkv, d_out, Plan::automatic).out;
  for (index_t i = 0; i < s.row(0, changed, 0, s.heads); ++i) ASSERT_EQ(before[i], after[i]);
  EXPECT_NE(before[s.row(0, changed, 0, s.heads)], after[s.row(0, changed, 0, s.heads)]);
}

TEST(Attention, LargeScoresNeitherOverflowNorVanish) {
  // Scores of a few thousand: exp() of them, and of their negatives, leaves the range of float.
  const Shape s{1, 90, 2, 1, 32};
  const auto qkv = random_values(s.qkv_size(), 9, 40.0);
  const auto d_out = random_values(s.out_size(), 10);
  const Reference expected = reference(s, qkv, d_out);
  for (Plan plan : {Plan::fused, Plan::split}) {
    const Reference actual = run<float>(s, qkv, d_out, plan);
    // A score of magnitude 3000 is known to 3000 epsilon, and so are its weight's digits.
    EXPECT_LE(relative_error(actual.out, expected.out), 3000 * 1.2e-7);
    EXPECT_LE(relative_error(actual.d_qkv, expected.d_qkv), 10 * 3000 * 1.2e-7);
  }
}

TEST(Attention, SameInputGivesSameBits) {
  const Shape s{2, 131, 4, 2, 20};
  const auto qkv = random_values(s.qkv_size(), 14);
  const auto d_out = random_values(s.out_size(), 15);
  for (Plan plan : {Plan::fused, Plan::split}) {
    const Reference first = run<float>(s, qkv, d_out, plan);
    const Reference second = run<float>(s, qkv, d_out, plan);
    EXPECT_EQ(first.out, second.out);
    EXPECT_EQ(first.lse, second.lse);
    EXPECT_EQ(first.d_qkv, second.d_qkv);
  }
}

TEST(Attention, ASequenceDoesNotDependOnItsBatch) {
  const Shape two{2, 33, 2, 1, 20}, one{1, 33, 2, 1, 20};
  const auto qkv = random_values(two.qkv_size(), 16);
  const auto d_out = random_values(two.out_size(), 17);
  const Reference both = run<float>(two, qkv, d_out, Plan::automatic);
  const Reference second =
      run<float>(one, {qkv.begin() + one.qkv_size(), qkv.end()},
                 {d_out.begin() + one.out_size(), d_out.end()}, Plan::automatic);
  EXPECT_TRUE(std::equal(second.out.begin(), second.out.end(), both.out.begin() + one.out_size()));
  EXPECT_TRUE(
      std::equal(second.d_qkv.begin(), second.d_qkv.end(), both.d_qkv.begin() + one.qkv_size()));
}

TEST(Attention, NotANumberSpreadsToEveryLaterPositionOnly) {
  const Shape s{1, 70, 1, 1, 16};
  auto qkv = random_values(s.qkv_size(), 18);
  const index_t poisoned = 20;
  qkv[s.row(0, poisoned, 1, s.stored())] = std::numeric_limits<double>::quiet_NaN();
  const auto out = run<float>(s, qkv, random_values(s.out_size(), 19), Plan::automatic).out;
  for (index_t t = 0; t < s.positions; ++t)
    EXPECT_EQ(std::isnan(out[s.row(0, t, 0, 1)]), t >= poisoned) << t;
}

TEST(Attention, EmptyBatchIsLegal) {
  const Shape s{0, 5, 2, 1, 4};
  EXPECT_TRUE(run<float>(s, {}, {}, Plan::automatic).out.empty());
}

TEST(Attention, NamesTheShapesThatDoNotFit) {
  Exec exec;
  Rank4<float> qkv("qkv", 1, 3, 8, 4), out("out", 1, 3, 4, 4), other("out", 1, 3, 4, 6);
  Rank3<float> lse("lse", 1, 4, 3), short_lse("lse", 1, 4, 2);
  const auto message = [&](auto const& call) -> std::string {
    try {
      call();
    } catch (ShapeError const& error) {
      return error.what();
    }
    return "no exception";
  };
  EXPECT_THAT(message([&] { attention_forward(exec, qkv, 5, out, lse); }),
              ::testing::HasSubstr("qkv (1,3,8,4) does not hold 5 query heads"));
  EXPECT_THAT(message([&] { attention_forward(exec, qkv, 8, out, lse); }),
              ::testing::HasSubstr("qkv (1,3,8,4) does not hold 8 query heads"));
  EXPECT_THAT(message([&] { attention_forward(exec, qkv, 4, other, lse); }),
              ::testing::HasSubstr("out (1,3,4,6) must have extent 4 on axis 3"));
  EXPECT_THAT(message([&] { attention_forward(exec, qkv, 4, out, short_lse); }),
              ::testing::HasSubstr("lse (1,4,2) must have extent 3 on axis 2"));
  EXPECT_THAT(message([&] { attention_backward(exec, qkv, out, lse, other, 4, lse, qkv); }),
              ::testing::HasSubstr("d_out (1,3,4,6) do not have the same shape"));
  EXPECT_THAT(message([&] { attention_backward(exec, qkv, out, lse, out, 4, lse, out); }),
              ::testing::HasSubstr("d_qkv (1,3,4,4) do not have the same shape"));
}

}  // namespace
}  // namespace sdp::kernels
