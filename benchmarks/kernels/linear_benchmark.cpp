// SPDX-License-Identifier: Apache-2.0
// Matrix products of a transformer in the layouts that training uses, in GFLOP/s of the best run.
#include "benchmarks/kernels/triad.hpp"
#include "kernels/nn/linear.hpp"

namespace sdp::bench {
namespace {

using namespace sdp::kernels;

Matrix<float> filled(index_t rows, index_t cols) {
  const Matrix<float> view("matrix", rows, cols);
  Kokkos::deep_copy(view, 0.5f);
  return view;
}

enum Pass { forward, backward_input, backward_weight };

template <Pass pass, WeightLayout layout>
void linear(benchmark::State& state) {
  const auto rows = static_cast<index_t>(state.range(0));
  const auto inputs = static_cast<index_t>(state.range(1));
  const auto outputs = static_cast<index_t>(state.range(2));
  const auto x = filled(rows, inputs), out = filled(rows, outputs);
  const auto weight =
      layout == WeightLayout::out_in ? filled(outputs, inputs) : filled(inputs, outputs);
  const auto kernel = [&] {
    if constexpr (pass == forward)
      linear_forward(Exec(), layout, x, weight, out);
    else if constexpr (pass == backward_input)
      linear_backward_input(Exec(), layout, out, weight, x);
    else
      linear_backward_weight(Exec(), layout, x, out, weight, 0.0);
  };
  kernel();
  double best = HUGE_VAL;
  for ([[maybe_unused]] auto _ : state) {
    const double time = seconds(kernel);
    best = std::min(best, time);
    state.SetIterationTime(time);
  }
  const double flops = 2.0 * static_cast<double>(rows * inputs * outputs);
  state.counters["GFLOP/s"] = flops / best / 1e9;
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->UseManualTime()->Unit(benchmark::kMillisecond)->MinTime(0.3);
  bench->ArgNames({"N", "I", "O"});
  bench->Args({1024, 1024, 1024})->Args({2048, 512, 1376})->Args({2048, 512, 4096});
}

BENCHMARK(linear<forward, WeightLayout::out_in>)->Apply(shapes);
BENCHMARK(linear<forward, WeightLayout::in_out>)->Apply(shapes);
BENCHMARK(linear<backward_input, WeightLayout::out_in>)->Apply(shapes);
BENCHMARK(linear<backward_input, WeightLayout::in_out>)->Apply(shapes);
BENCHMARK(linear<backward_weight, WeightLayout::out_in>)->Apply(shapes);
BENCHMARK(linear<backward_weight, WeightLayout::in_out>)->Apply(shapes);

}  // namespace
}  // namespace sdp::bench
