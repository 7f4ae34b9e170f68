// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"
#include "kernels/core/math.hpp"

// Softmax cross-entropy from logits, N rows (tokens), V columns (vocabulary or classes). A row is
// read once: its largest value and its sum of exponentials are kept per stretch of columns, or per
// thread of a device, and rescaled when the maximum grows (Milakov and Gimelshein, arXiv
// 1805.02867).
//
// loss = (1 - smoothing) * (lse - x[target]) + smoothing * (lse - mean(x)),  lse = log(sum(exp(x)))
// which is PyTorch's cross_entropy with label_smoothing. A target below 0 is ignored: loss 0,
// gradient 0. A target >= V gives loss NaN (and gradient NaN), so that the step is found
// non-finite.

namespace sdp::kernels {

namespace Details {
template <class A>
struct SoftmaxRow {
  A largest;
  A sum;     ///< of exp(x - largest)
  A values;  ///< of x, taken only when smoothing
};

/// What is taken from exponents: the largest value. While every value is -inf their difference
/// would be NaN.
template <class A>
KOKKOS_INLINE_FUNCTION A softmax_shift(A largest) {
  return largest > static_cast<A>(-HUGE_VAL) ? largest : A(0);
}

/// On hosts: stretches of columns, which are read from memory once and then stay in the nearest
/// cache.
template <class A, class Member, class T>
KOKKOS_INLINE_FUNCTION SoftmaxRow<A> softmax_row_by_stretches(Member const& team, T const* x,
                                                              index_t cols, bool with_values) {
  constexpr index_t k_stretch = 1024;
  SoftmaxRow<A> row{static_cast<A>(-HUGE_VAL), A(0), A(0)};
  for (index_t begin = 0; begin < cols; begin += k_stretch) {
    const index_t rest = cols - begin;
    const index_t count = rest < k_stretch ? rest : k_stretch;
    T const* part = x + begin;
    const A largest =
        row_max<A>(team, count, row.largest, [=](index_t j) { return static_cast<A>(part[j]); });
    const A shift = softmax_shift(largest);
    const A sum =
        row_sum<A>(team, count, [=](index_t j) { return vexp(static_cast<A>(part[j]) - shift); });
    row.sum = row.sum * vexp(row.largest - shift) + sum;
    row.largest = largest;
    if (with_values)
      row.values += row_sum<A>(team, count, [=](index_t j) { return static_cast<A>(part[j]); });
  }
  return row;
}

/// On devices: each thread meets its columns once, and the team adds up what the threads have.
template <class Exec, class A, class Member, class T>
KOKKOS_INLINE_FUNCTION SoftmaxRow<A> softmax_row_by_threads(Member const& team, T const* x,
                                                            index_t cols, bool with_values) {
  SoftmaxRow<A> own{static_cast<A>(-HUGE_VAL), A(0), A(0)};
  group_for<k_group<Exec, T>>(team, cols, [&](index_t first, auto count) {
    const auto group = load_group<A>(x + first, count);
    A largest = own.largest;
    for (int j = 0; j < count; ++j)
      if (group[j] > largest) largest = group[j];
    const A shift = softmax_shift(largest);
    own.sum *= vexp(own.largest - shift);
    for (int j = 0; j < count; ++j) own.sum += vexp(group[j] - shift);
    own.largest = largest;
    if (with_values)
      for (int j = 0; j < count; ++j) own.values += group[j];
  });
  SoftmaxRow<A> row = own;
  team.team_reduce(LargestFrom<A>(row.largest, own.largest));
  row.sum = own.sum * vexp(own.largest - softmax_shift(row.largest));
  team.team_reduce(Kokkos::Sum<A>(row.sum));
  if (with_values) team.team_reduce(Kokkos::Sum<A>(row.values));
  return row;
}

template <class Exec, class A, class Member, class T>
KOKKOS_INLINE_FUNCTION SoftmaxRow<A> softmax_row(Member const& team, T const* x, index_t cols,
                                                 bool with_values) {
  if constexpr (k_is_host<Exec>)
    return softmax_row_by_stretches<A>(team, x, cols, with_values);
  else
    return softmax_row_by_threads<Exec, A>(team, x, cols, with_values);
}

template <class A>
KOKKOS_INLINE_FUNCTION A softmax_loss(SoftmaxRow<A> const& row, A target_value, index_t cols,
                                      A smoothing) {
  const A lse = row.largest + std::log(row.sum);
  const A loss = (A(1) - smoothing) * (lse - target_value);
  return smoothing > A(0) ? loss + smoothing * (lse - row.values / static_cast<A>(cols)) : loss;
}

template <class Logits, class Targets, class Losses>
void check_cross_entropy(char const* name, Logits const& logits, Targets const& targets,
                         Losses const& losses) {
  static_assert(std::is_same_v<value_t<Targets>, std::int32_t>,
                "cross_entropy: targets must be int32");
  static_assert(std::is_floating_point_v<value_t<Losses>>,
                "cross_entropy: losses must be float or double");
  const auto rows = static_cast<index_t>(logits.extent(0));
  require_extent(name, "targets", targets, 0, rows);
  require_extent(name, "losses", losses, 0, rows);
  require(rows == 0 || logits.extent(1) > 0, name, "logits must have at least one column");
}
}  // namespace Details

/// losses[n] = cross-entropy of row n, as at the top of this file; the caller averages.
///
/// logits (N,V), targets (N) int32, losses (N) in accum_t of the logits, overwritten. Throws
/// ShapeError when the extents do not fit.
template <ExecutionSpace Exec, RowMajor<2> Logits, RowMajor<1> Targets, RowMajor<1> Losses>
void cross_entropy_forward(Exec const& exec, Logits const& logits, Targets const& targets,
                           Losses const& losses, double label_smoothing = 0.0) {
  constexpr char const* k_name = "sdp::kernels::cross_entropy_forward";
  using T = value_t<Logits>;
  using A = accum_t<T>;
  Details::check_cross_entropy(k_name, logits, targets, losses);
  const auto rows = static_cast<index_t>(logits.extent(0));
  const auto cols = static_cast<index_t>(logits.extent(1));
  if (rows == 0) return;
  const A smoothing = static_cast<A>(label_smoothing);
  const A nan = std::numeric_limits<A>::quiet_NaN();
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows, group_count<k_group<Exec, T>>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int n = team.league_rank();
        auto const* x = &logits(n, 0);
        const index_t target = targets(n);
        A loss = A(0);
        if (target >= cols) {
          loss = nan;
        } else if (target >= 0) {
          const auto row = Details::softmax_row<Exec, A>(team, x, cols, smoothing > A(0));
          loss = Details::softmax_loss(row, static_cast<A>(x[target]), cols, smoothing);
        }
        if (team.team_rank() == 0) losses(n) = loss;
      });
}

/// Loss and gradient in place: losses as cross_entropy_forward, and logits becomes
///   grad_scale * (softmax(logits) - (1 - smoothing) * onehot(target) - smoothing / V)
///
/// logits (N,V) read and overwritten, targets (N) int32, losses (N) in accum_t of the logits,
/// overwritten. With the mean over M targets as the loss, grad_scale is 1/M. Throws ShapeError when
/// the extents do not fit.
template <ExecutionSpace Exec, RowMajor<2> Logits, RowMajor<1> Targets, RowMajor<1> Losses>
void cross_entropy_forward_backward(Exec const& exec, Logits const& logits, Targets const& targets,
                                    double grad_scale, Losses const& losses,
                                    double label_smoothing = 0.0) {
  constexpr char const* k_name = "sdp::kernels::cross_entropy_forward_backward";
  using T = value_t<Logits>;
  using A = accum_t<T>;
  Details::check_cross_entropy(k_name, logits, targets, losses);
  const auto rows = static_cast<index_t>(logits.extent(0));
  const auto cols = static_cast<index_t>(logits.extent(1));
  if (rows == 0) return;
  const A smoothing = static_cast<A>(label_smoothing);
  const A nan = std::numeric_limits<A>::quiet_NaN();
  const A scale = static_cast<A>(grad_scale);
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows, group_count<k_group<Exec, T>>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int n = team.league_rank();
        auto* x = &logits(n, 0);
        const index_t target = targets(n);
        if (target < 0 || target >= cols) {
          const A value = target < 0 ? A(0) : nan;
          row_for(team, cols, [=](index_t j) { x[j] = static_cast<T>(value); });
          if (team.team_rank() == 0) losses(n) = value;
          return;
        }
        const auto row = Details::softmax_row<Exec, A>(team, x, cols, smoothing > A(0));
        const A target_value = static_cast<A>(x[target]);
        const A largest = row.largest;
        const A factor = scale / row.sum;
        const A spread = scale * smoothing / static_cast<A>(cols);
        team.team_barrier();  // the target's logit is read before it is replaced
        group_for<k_group<Exec, T>>(team, cols, [=](index_t first, auto count) {
          auto values = load_group<A>(x + first, count);
          for (int j = 0; j < count; ++j) values[j] = vexp(values[j] - largest) * factor - spread;
          store_group(values, x + first);
        });
        team.team_barrier();
        if (team.team_rank() == 0) {
          // Formed from the value in accum_t, not from its stored rounding.
          x[target] = static_cast<T>(vexp(target_value - largest) * factor - spread -
                                     scale * (A(1) - smoothing));
          losses(n) = Details::softmax_loss(row, target_value, cols, smoothing);
        }
      });
}

}  // namespace sdp::kernels
