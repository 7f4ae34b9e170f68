// SPDX-License-Identifier: Apache-2.0
// Rates of attention and rotary embedding. Operations are counted for the causal half alone: 4h for
// each visible (query, key) pair forward, 2.5 times that backward. Arguments: B, T, H, K, h.
#include <benchmark/benchmark.h>

#include "kernels/nn/attention.hpp"
#include "kernels/nn/rotary.hpp"

namespace {

using namespace sdp::kernels;
using Exec = Kokkos::DefaultExecutionSpace;
template <class T>
using Rank4 = Kokkos::View<T****, Kokkos::LayoutRight>;
template <class T>
using Rank3 = Kokkos::View<T***, Kokkos::LayoutRight>;

template <class T>
struct Problem {
  index_t batch, positions, heads, key_value_heads, head_dim;
  Rank4<T> qkv, d_qkv, out, d_out;
  Rank3<accum_t<T>> lse, delta;

  explicit Problem(benchmark::State const& state)
      : batch(state.range(0)),
        positions(state.range(1)),
        heads(state.range(2)),
        key_value_heads(state.range(3)),
        head_dim(state.range(4)),
        qkv("qkv", batch, positions, heads + 2 * key_value_heads, head_dim),
        d_qkv("d_qkv", batch, positions, heads + 2 * key_value_heads, head_dim),
        out("out", batch, positions, heads, head_dim),
        d_out("d_out", batch, positions, heads, head_dim),
        lse("lse", batch, heads, positions),
        delta("delta", batch, heads, positions) {
    fill(qkv, 1);
    fill(d_out, 2);
  }

  static void fill(Rank4<T> const& view, std::uint32_t state) {
    auto host = Kokkos::create_mirror_view(view);
    for (std::size_t i = 0; i < host.size(); ++i) {
      state = state * 1664525u + 1013904223u;
      host.data()[i] = static_cast<T>(static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
    }
    Kokkos::deep_copy(view, host);
  }

  double forward_operations() const {
    const double pairs = 0.5 * static_cast<double>(positions) * static_cast<double>(positions + 1);
    return 4.0 * static_cast<double>(head_dim * batch * heads) * pairs;
  }
};

void report(benchmark::State& state, double operations) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(operations * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

template <class T>
void attention_forward_rate(benchmark::State& state) {
  const Problem<T> p(state);
  Exec exec;
  for (auto _ : state) {
    attention_forward(exec, p.qkv, p.heads, p.out, p.lse);
    exec.fence();
  }
  report(state, p.forward_operations());
}

template <class T>
void attention_backward_rate(benchmark::State& state) {
  const Problem<T> p(state);
  Exec exec;
  attention_forward(exec, p.qkv, p.heads, p.out, p.lse);
  for (auto _ : state) {
    attention_backward(exec, p.qkv, p.out, p.lse, p.d_out, p.heads, p.delta, p.d_qkv);
    exec.fence();
  }
  report(state, 2.5 * p.forward_operations());
}

template <class T>
void rotary_rate(benchmark::State& state) {
  const Problem<T> p(state);
  Kokkos::View<accum_t<T>**, Kokkos::LayoutRight> cos("cos", p.positions, p.head_dim / 2);
  Kokkos::View<accum_t<T>**, Kokkos::LayoutRight> sin("sin", p.positions, p.head_dim / 2);
  Exec exec;
  rotary_tables(exec, 10000.0, cos, sin);
  for (auto _ : state) {
    rotary_forward(exec, cos, sin, p.qkv, p.heads + p.key_value_heads);
    exec.fence();
  }
  const auto rotated = p.batch * p.positions * (p.heads + p.key_value_heads) * p.head_dim;
  state.SetBytesProcessed(state.iterations() * rotated * 2 * static_cast<index_t>(sizeof(T)));
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({8, 256, 8, 8, 64})
      ->Args({2, 1024, 8, 8, 64})
      ->Args({1, 2048, 8, 8, 64})
      ->Args({8, 256, 8, 2, 64})
      ->Args({8, 256, 4, 4, 128})
      ->Args({8, 256, 6, 6, 80})
      ->Unit(benchmark::kMillisecond);
}

BENCHMARK_TEMPLATE(attention_forward_rate, float)->Apply(shapes);
BENCHMARK_TEMPLATE(attention_backward_rate, float)->Apply(shapes);
BENCHMARK_TEMPLATE(attention_forward_rate, double)
    ->Args({8, 256, 8, 8, 64})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(attention_backward_rate, double)
    ->Args({8, 256, 8, 8, 64})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(attention_forward_rate, bf16)
    ->Args({8, 256, 8, 8, 64})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(attention_backward_rate, bf16)
    ->Args({8, 256, 8, 8, 64})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(rotary_rate, float)
    ->Args({8, 256, 8, 8, 64})
    ->Args({64, 256, 8, 8, 64})
    ->Unit(benchmark::kMillisecond);

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  Kokkos::initialize(argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  Kokkos::finalize();
}
