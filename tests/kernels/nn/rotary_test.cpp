// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/rotary.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace sdp::kernels {
namespace {

using Exec = Kokkos::DefaultExecutionSpace;
template <class T>
using Rank4 = Kokkos::View<T****, Kokkos::LayoutRight>;
template <class T>
using Table = Kokkos::View<T**, Kokkos::LayoutRight>;

constexpr double k_theta = 10000.0;

double entry(index_t i) {
  return static_cast<double>((i * 37 + 11) % 101) / 50.0 - 1.0;
}

template <class T>
Rank4<T> filled(index_t b, index_t t, index_t n, index_t h) {
  Rank4<T> x("x", b, t, n, h);
  auto host = Kokkos::create_mirror_view(x);
  for (std::size_t i = 0; i < host.size(); ++i)
    host.data()[i] = static_cast<T>(entry(static_cast<index_t>(i)));
  Kokkos::deep_copy(x, host);
  return x;
}

template <class T>
auto on_host(Rank4<T> const& x) {
  return Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), x);
}

struct Angles {
  Table<float> cos_f, sin_f;
  Table<double> cos_d, sin_d;

  Angles(index_t t, index_t h)
      : cos_f("cos", t, h / 2),
        sin_f("sin", t, h / 2),
        cos_d("cos", t, h / 2),
        sin_d("sin", t, h / 2) {
    Exec exec;
    rotary_tables(exec, k_theta, cos_f, sin_f);
    rotary_tables(exec, k_theta, cos_d, sin_d);
    exec.fence();
  }
};

TEST(Rotary, TablesHoldTheAnglesOfEveryPosition) {
  const index_t positions = 300, h = 20;
  const Angles angles(positions, h);
  auto cos = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), angles.cos_d);
  auto sin = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), angles.sin_d);
  auto sin_f = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), angles.sin_f);
  for (index_t t = 0; t < positions; ++t)
    for (index_t j = 0; j < h / 2; ++j) {
      const double angle =
          static_cast<double>(t) * std::exp(-2.0 * static_cast<double>(j) / h * std::log(k_theta));
      ASSERT_NEAR(cos(t, j), std::cos(angle), 1e-12);
      ASSERT_NEAR(sin(t, j), std::sin(angle), 1e-12);
      ASSERT_EQ(sin_f(t, j), static_cast<float>(sin(t, j)));
    }
}

TEST(Rotary, RotatesHalvesOfTheLeadingHeadsAndLeavesTheRest) {
  struct Case {
    index_t b, t, n, h, rotated;
  };
  for (Case c : {Case{1, 1, 1, 2, 1}, Case{2, 7, 5, 6, 4}, Case{1, 33, 3, 20, 2},
                 Case{1, 5, 4, 64, 0}, Case{2, 3, 3, 80, 3}}) {
    const Angles angles(c.t + 2, c.h);
    auto x = filled<double>(c.b, c.t, c.n, c.h);
    Exec exec;
    rotary_forward(exec, angles.cos_d, angles.sin_d, x, c.rotated);
    exec.fence();
    auto rotated = on_host(x);
    auto before = on_host(filled<double>(c.b, c.t, c.n, c.h));
    for (index_t b = 0; b < c.b; ++b)
      for (index_t t = 0; t < c.t; ++t)
        for (index_t n = 0; n < c.n; ++n)
          for (index_t j = 0; j < c.h / 2; ++j) {
            const double angle =
                n < c.rotated ? static_cast<double>(t) * std::pow(k_theta, -2.0 * j / c.h) : 0.0;
            const double u = before(b, t, n, j), v = before(b, t, n, j + c.h / 2);
            ASSERT_NEAR(rotated(b, t, n, j), u * std::cos(angle) - v * std::sin(angle), 1e-13);
            ASSERT_NEAR(rotated(b, t, n, j + c.h / 2), v * std::cos(angle) + u * std::sin(angle),
                        1e-13);
          }
  }
}

TEST(Rotary, BackwardUndoesForward) {
  const Angles angles(65, 20);
  auto x = filled<float>(2, 65, 6, 20);
  Exec exec;
  rotary_forward(exec, angles.cos_f, angles.sin_f, x, 5);
  rotary_backward(exec, angles.cos_f, angles.sin_f, x, 5);
  exec.fence();
  auto after = on_host(x);
  for (std::size_t i = 0; i < after.size(); ++i)
    ASSERT_NEAR(after.data()[i], entry(static_cast<index_t>(i)), 8 * 1.2e-7);
}

TEST(Rotary, BackwardIsTheTransposeOfForward) {
  const Angles angles(9, 6);
  auto x = filled<double>(2, 9, 4, 6);
  Rank4<double> y("y", 2, 9, 4, 6);
  Kokkos::deep_copy(y, filled<double>(2, 9, 4, 6));
  auto host_y = on_host(y);
  for (std::size_t i = 0; i < host_y.size(); ++i)
    host_y.data()[i] *= entry(static_cast<index_t>(i) + 5);
  Kokkos::deep_copy(y, host_y);
  const auto inner = [](Rank4<double> const& a, Rank4<double> const& b) {
    auto host_a = on_host(a), host_b = on_host(b);
    double sum = 0.0;
    for (std::size_t i = 0; i < host_a.size(); ++i) sum += host_a.data()[i] * host_b.data()[i];
    return sum;
  };
  Rank4<double> forward("forward", 2, 9, 4, 6), backward("backward", 2, 9, 4, 6);
  Kokkos::deep_copy(forward, x);
  Kokkos::deep_copy(backward, y);
  Exec exec;
  rotary_forward(exec, angles.cos_d, angles.sin_d, forward, 3);
  rotary_backward(exec, angles.cos_d, angles.sin_d, backward, 3);
  exec.fence();
  EXPECT_NEAR(inner(forward, y), inner(x, backward), 1e-12);
  EXPECT_GT(std::abs(inner(forward, y) - inner(x, y)), 1e-3);
  EXPECT_NEAR(inner(forward, forward), inner(x, x), 1e-12);
}

TEST(Rotary, ScoresDependOnTheDistanceOnly) {
  const index_t h = 16, positions = 40;
  const Angles angles(positions, h);
  Rank4<double> x("x", 1, positions, 2, h);
  auto host = Kokkos::create_mirror_view(x);
  for (index_t t = 0; t < positions; ++t)
    for (index_t d = 0; d < h; ++d) {
      host(0, t, 0, d) = entry(d);
      host(0, t, 1, d) = entry(3 * d + 1);
    }
  Kokkos::deep_copy(x, host);
  Exec exec;
  rotary_forward(exec, angles.cos_d, angles.sin_d, x, 2);
  exec.fence();
  auto rotated = on_host(x);
  const auto score = [&](index_t t, index_t s) {
    double sum = 0.0;
    for (index_t d = 0; d < h; ++d) sum += rotated(0, t, 0, d) * rotated(0, s, 1, d);
    return sum;
  };
  for (index_t distance : {0, 1, 7})
    for (index_t t = distance; t < positions; ++t)
      ASSERT_NEAR(score(t, t - distance), score(distance, 0), 1e-11);
}

TEST(Rotary, RoundsOnceInBf16Storage) {
  const Angles angles(9, 8);
  auto x = filled<bf16>(1, 9, 2, 8);
  auto before = on_host(filled<bf16>(1, 9, 2, 8));
  Exec exec;
  rotary_forward(exec, angles.cos_f, angles.sin_f, x, 1);
  exec.fence();
  auto after = on_host(x);
  auto cos = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), angles.cos_d);
  auto sin = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), angles.sin_d);
  for (index_t t = 0; t < 9; ++t)
    for (index_t j = 0; j < 4; ++j) {
      const double u = static_cast<float>(before(0, t, 0, j));
      const double v = static_cast<float>(before(0, t, 0, j + 4));
      const double expected = u * cos(t, j) - v * sin(t, j);
      ASSERT_NEAR(static_cast<float>(after(0, t, 0, j)), expected, std::abs(expected) / 256 + 1e-6);
      ASSERT_EQ(after(0, t, 1, j).bits, before(0, t, 1, j).bits);
    }
}

TEST(Rotary, EmptyTensorIsLegal) {
  const Angles angles(4, 8);
  Rank4<float> x("x", 0, 4, 2, 8);
  EXPECT_NO_THROW(rotary_forward(Exec(), angles.cos_f, angles.sin_f, x, 2));
}

TEST(Rotary, NamesTheShapesThatDoNotFit) {
  const Angles angles(4, 8);
  const auto message = [&](Rank4<float> const& x, index_t rotated) -> std::string {
    try {
      rotary_forward(Exec(), angles.cos_f, angles.sin_f, x, rotated);
    } catch (ShapeError const& error) {
      return error.what();
    }
    return "no exception";
  };
  EXPECT_THAT(message(Rank4<float>("x", 1, 4, 2, 7), 2), ::testing::HasSubstr("must be even"));
  EXPECT_THAT(message(Rank4<float>("x", 1, 5, 2, 8), 2),
              ::testing::HasSubstr("cos (4,4) has fewer rows than (1,5,2,8) positions"));
  EXPECT_THAT(message(Rank4<float>("x", 1, 4, 2, 6), 2),
              ::testing::HasSubstr("cos (4,4) must have extent 3 on axis 1"));
  EXPECT_THAT(message(Rank4<float>("x", 1, 4, 2, 8), 3), ::testing::HasSubstr("3 heads to rotate"));
}

}  // namespace
}  // namespace sdp::kernels
