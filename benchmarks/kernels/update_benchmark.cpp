// SPDX-License-Identifier: Apache-2.0
// Kernels on flat buffers that memory bounds, as memory_benchmark.cpp. With weights of bf16,
// gradients, moments and master weights are float.
#include <cstdint>
#include <vector>

#include "benchmarks/kernels/memory_cases.hpp"
#include "kernels/update/adamw.hpp"
#include "kernels/update/exact_sum.hpp"
#include "kernels/update/norm.hpp"
#include "kernels/update/ordered_sum.hpp"
#include "kernels/update/sgd.hpp"

namespace sdp::bench {
namespace {

using namespace sdp::kernels;

constexpr index_t k_size = k_elements<float>;
constexpr double k_array = static_cast<double>(k_size) * sizeof(float);

/// What every update takes: blocks of all elements, and a gradient that is not clipped.
struct Update {
  Vector<UpdateBlock> blocks;
  Vector<float> grad = vector<float>(1, k_size);
  Kokkos::View<double> factor{"factor"};
  Kokkos::View<int> skip{"skip"};

  Update() {
    std::vector<UpdateBlock> host;
    append_update_blocks(host, {0, 0, 0, k_size, 1.0, 0.1});
    blocks = from_host(host.data(), static_cast<index_t>(host.size()));
    Kokkos::deep_copy(factor, 1.0);
  }
};

template <class T>
void adamw(benchmark::State& state, index_t) {
  const Update u;
  const auto m = vector<float>(2, k_size), v = vector<float>(3, k_size);
  Kokkos::deep_copy(v, 1.0f);
  const auto weight = vector<T>(4, k_size);
  const AdamWStep step{1e-3, 0.9, 0.95, 1e-8, 0.5, 0.5};
  if constexpr (std::is_same_v<T, float>) {
    against_triad(state, 7 * k_array, [&] {
      adamw_update(Exec(), u.blocks, step, u.factor, u.skip, u.grad, m, v, weight);
    });
  } else {
    const auto master = vector<float>(5, k_size);
    against_triad(state, 7 * k_array + bytes_of<T>(1, k_size), [&] {
      adamw_update(Exec(), u.blocks, step, u.factor, u.skip, u.grad, m, v, master, weight);
    });
  }
}

template <class T>
void sgd_momentum(benchmark::State& state, index_t) {
  const Update u;
  const auto buffer = vector<float>(2, k_size);
  const auto weight = vector<T>(3, k_size);
  const SgdStep step{1e-3, 0.9, false, false};
  if constexpr (std::is_same_v<T, float>) {
    against_triad(state, 5 * k_array, [&] {
      sgd_update(Exec(), u.blocks, step, u.factor, u.skip, u.grad, buffer, weight);
    });
  } else {
    const auto master = vector<float>(4, k_size);
    against_triad(state, 5 * k_array + bytes_of<T>(1, k_size), [&] {
      sgd_update(Exec(), u.blocks, step, u.factor, u.skip, u.grad, buffer, master, weight);
    });
  }
}

/// From the gradient to the factor that clips it, as the optimizer goes on a device; on a host with
/// the sum over rows as a tree.
void gradient_norm(benchmark::State& state, index_t columns) {
  const index_t count = rows_of<float>(columns);
  const auto grad = vector<float>(1, k_size);
  std::vector<RowSpan> host;
  for (index_t i = 0; i < count; ++i) host.push_back({i * columns, columns, i});
  const auto rows = from_host(host.data(), count);
  const Vector<double> partials("partials", count);
  const Vector<std::int64_t> digits("digits", k_exact_size);
  const Kokkos::View<double> sum("sum"), norm("norm"), factor("factor");
  const Kokkos::View<int> skip("skip");
  against_triad(state, bytes_of<float>(count, columns), [&] {
    sum_squares(Exec(), rows, grad, partials);
    if constexpr (k_on_device) {
      Kokkos::deep_copy(Exec(), digits, std::int64_t{0});
      exact_sum(Exec(), partials, digits);
      exact_sum_value(Exec(), digits, sum);
    } else {
      tree_sum(Exec(), partials, sum);
    }
    clip_factor(Exec(), sum, 1.0, norm, factor, skip);
  });
}

/// The average of this worker's gradients and of those of three others, received as In.
template <class In>
void ordered_sum_of_four(benchmark::State& state, index_t) {
  constexpr int k_received = 3;
  const auto own = vector<float>(1, k_size);
  const auto received = vector<In>(2, k_received * k_size);
  SumList list;
  append_sum(list,
             {{0, k_sum_own, 0},
              {1, k_sum_received, 0},
              {2, k_sum_received, k_size},
              {3, k_sum_received, 2 * k_size}},
             0.25, 0, k_size);
  const auto terms = from_host(list.terms.data(), static_cast<index_t>(list.terms.size()));
  const auto pieces = from_host(list.pieces.data(), static_cast<index_t>(list.pieces.size()));
  const SumBuffers<In, float> buffers{own.data(), received.data(), nullptr};
  against_triad(state, 2 * k_array + bytes_of<In>(k_received, k_size),
                [&] { ordered_sum(Exec(), terms, pieces, buffers); });
}

void normal_numbers(benchmark::State& state, index_t) {
  const auto out = vector<float>(1, k_size);
  against_triad(state, k_array, [&] { fill_normal(Exec(), 1, 2, 0, 0.0, 0.02, out); });
}

bool add_all() {
  if (k_on_device) {
    add_case("adamw/float", adamw<float>, 0);
    add_case("adamw/bf16", adamw<bf16>, 0);
    add_case("sgd_momentum/float", sgd_momentum<float>, 0);
    add_case("sgd_momentum/bf16", sgd_momentum<bf16>, 0);
    add_case("ordered_sum_of_four/float", ordered_sum_of_four<float>, 0);
    add_case("ordered_sum_of_four/bf16", ordered_sum_of_four<bf16>, 0);
  } else {
    add_case("adamw", adamw<float>, 0);
    add_case("sgd_momentum", sgd_momentum<float>, 0);
    add_case("normal_numbers", normal_numbers, 0);  // arithmetic bounds it on a device
  }
  add_cases("gradient_norm", gradient_norm, nullptr, k_host_columns, {768, 2048});
  return true;
}
[[maybe_unused]] const bool k_added = add_all();

}  // namespace
}  // namespace sdp::bench
