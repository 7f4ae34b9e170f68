// SPDX-License-Identifier: Apache-2.0
// Kernels that memory bounds, against the STREAM triad of the same run. Bytes are algorithmic:
// every input and output once, no write-allocate traffic.
#include "benchmarks/kernels/triad.hpp"
#include "kernels/nn/cross_entropy.hpp"
#include "kernels/nn/elementwise.hpp"
#include "kernels/nn/embedding.hpp"
#include "kernels/nn/pack_columns.hpp"
#include "kernels/nn/rms_norm.hpp"
#include "kernels/nn/swiglu.hpp"
#include "kernels/random/fill.hpp"
#include "kernels/update/adamw.hpp"
#include "kernels/update/norm.hpp"
#include "kernels/update/sgd.hpp"

namespace sdp::bench {
namespace {

using namespace sdp::kernels;
using T = float;

constexpr index_t k_rows = 16384;
constexpr index_t k_cols = 1024;
constexpr index_t k_size = k_rows * k_cols;
constexpr double k_array = static_cast<double>(k_size * sizeof(T));
constexpr index_t k_vocabulary = 32000;

template <class V>
V random(V const& view, std::uint64_t salt, double std = 1.0) {
  const Vector<T> flat("flat", view.size());
  fill_normal(Exec(), 1, salt, 0, 0.0, std, flat);
  Kokkos::deep_copy(view, Matrix<T>(flat.data(), view.extent(0), view.extent(1)));
  return view;
}
Matrix<T> matrix(std::uint64_t salt, index_t rows = k_rows, index_t cols = k_cols) {
  return random(Matrix<T>("matrix", rows, cols), salt);
}
Vector<T> vector(std::uint64_t salt, index_t size = k_size) {
  const Vector<T> view("vector", size);
  fill_normal(Exec(), 1, salt, 0, 0.0, 1.0, view);
  return view;
}

Vector<std::int32_t> tokens(index_t count, index_t vocabulary) {
  const Vector<std::int32_t> view("tokens", count);
  auto host = Kokkos::create_mirror_view(view);
  for (index_t i = 0; i < count; ++i)
    host(i) = static_cast<std::int32_t>(stream_bits(3, 4, static_cast<std::uint64_t>(i))[0] %
                                        static_cast<std::uint32_t>(vocabulary));
  Kokkos::deep_copy(view, host);
  return view;
}

void triad(benchmark::State& state) {
  against_triad(state, Triad::k_bytes, [] { run_triad(); });
}

void residual_add(benchmark::State& state) {
  const auto a = matrix(1), b = matrix(2), out = matrix(3);
  against_triad(state, 3 * k_array, [&] { add(Exec(), a, b, out); });
}

void accumulate_in_place(benchmark::State& state) {
  const auto x = matrix(1), y = matrix(2);
  against_triad(state, 3 * k_array, [&] { accumulate(Exec(), 0.5, x, y); });
}

void rms_norm_forward_row(benchmark::State& state) {
  const auto x = matrix(1), out = matrix(2);
  const auto weight = vector(3, k_cols), rstd = vector(4, k_rows);
  against_triad(state, 2 * k_array, [&] { rms_norm_forward(Exec(), x, weight, 1e-5, out, rstd); });
}

void add_rms_norm_forward_row(benchmark::State& state) {
  const auto x = matrix(1), branch = matrix(2), sum = matrix(3), out = matrix(4);
  const auto weight = vector(3, k_cols), rstd = vector(4, k_rows);
  against_triad(state, 4 * k_array,
                [&] { add_rms_norm_forward(Exec(), x, branch, weight, 1e-5, sum, out, rstd); });
}

void rms_norm_apply_row(benchmark::State& state) {
  const auto x = matrix(1), out = matrix(2);
  const auto weight = vector(3, k_cols), rstd = vector(4, k_rows);
  against_triad(state, 2 * k_array, [&] { rms_norm_apply(Exec(), x, rstd, weight, out); });
}

void rms_norm_backward_both(benchmark::State& state) {
  const auto x = matrix(1), d_out = matrix(2), d_x = matrix(3);
  const auto partials = matrix(4, rms_norm_backward_chunks(k_rows), k_cols);
  const auto weight = vector(3, k_cols), rstd = vector(4, k_rows), d_weight = vector(5, k_cols);
  against_triad(state, 4 * k_array, [&] {
    rms_norm_backward(Exec(), d_out, x, rstd, weight, partials, d_x, d_weight);
  });
}

void rms_norm_backward_masked(benchmark::State& state) {
  const auto x = matrix(1), d_out = matrix(2), d_x = matrix(3);
  const auto weight = vector(3, k_cols), rstd = vector(4, k_rows);
  against_triad(state, 4 * k_array,
                [&] { rms_norm_backward_input(Exec(), d_out, x, rstd, weight, d_x); });
}

void swiglu_forward_row(benchmark::State& state) {
  const auto gate_up = matrix(1, k_rows, 2 * k_cols), out = matrix(2);
  against_triad(state, 3 * k_array, [&] { swiglu_forward(Exec(), gate_up, out); });
}

void swiglu_backward_row(benchmark::State& state) {
  const auto gate_up = matrix(1, k_rows, 2 * k_cols), d_act = matrix(2);
  against_triad(state, 6 * k_array, [&] { swiglu_backward(Exec(), gate_up, d_act); });
}

/// Every other group of 64 columns.
void pack_half_of_the_columns(benchmark::State& state) {
  constexpr index_t k_group = 64, k_runs = k_cols / (2 * k_group);
  const auto x = matrix(1), packed = matrix(2, k_rows, k_cols / 2);
  const Kokkos::View<ColumnRun*, Kokkos::LayoutRight> runs("runs", k_runs);
  auto host = Kokkos::create_mirror_view(runs);
  for (index_t r = 0; r < k_runs; ++r) host(r) = {2 * r * k_group, r * k_group, k_group};
  Kokkos::deep_copy(runs, host);
  against_triad(state, k_array, [&] { pack_columns(Exec(), runs, x, packed); });
}

void cross_entropy_loss(benchmark::State& state) {
  const index_t rows = k_size / k_vocabulary;
  const auto logits = matrix(1, rows, k_vocabulary);
  const auto losses = vector(2, rows);
  const auto targets = tokens(rows, k_vocabulary);
  const double bytes = static_cast<double>(logits.size() * sizeof(T));
  against_triad(state, bytes, [&] { cross_entropy_forward(Exec(), logits, targets, losses); });
}

void cross_entropy_gradient(benchmark::State& state) {
  const auto vocabulary = static_cast<index_t>(state.range(0));
  const index_t rows = k_size / vocabulary;
  const auto logits = matrix(1, rows, vocabulary);
  const auto losses = vector(2, rows);
  const auto targets = tokens(rows, vocabulary);
  const double bytes = 2.0 * static_cast<double>(logits.size() * sizeof(T));
  against_triad(state, bytes,
                [&] { cross_entropy_forward_backward(Exec(), logits, targets, 1.0, losses); });
}

void embedding_look_up(benchmark::State& state) {
  const auto table = matrix(1, k_vocabulary), out = matrix(2);
  const auto ids = tokens(k_rows, k_vocabulary);
  against_triad(state, 2 * k_array, [&] { embedding_forward(Exec(), ids, table, out); });
}

void embedding_gradient(benchmark::State& state) {
  const auto table = matrix(1, k_vocabulary), d_out = matrix(2);
  const auto ids = tokens(k_rows, k_vocabulary);
  const Vector<std::int32_t> order("order", embedding_backward_workspace<Exec>(k_rows));
  const Matrix<T> partials("partials", embedding_backward_chunks<Exec>(k_rows), k_cols);
  against_triad(state, 3 * k_array,
                [&] { embedding_backward(Exec(), ids, d_out, order, partials, table); });
}

Vector<UpdateBlock> update_blocks() {
  std::vector<UpdateBlock> blocks;
  append_update_blocks(blocks, {0, 0, 0, k_size, 1.0, 0.1});
  const Vector<UpdateBlock> view("blocks", blocks.size());
  Kokkos::deep_copy(
      view, Kokkos::View<UpdateBlock*, Kokkos::LayoutRight, Kokkos::HostSpace,
                         Kokkos::MemoryTraits<Kokkos::Unmanaged>>(blocks.data(), blocks.size()));
  return view;
}

void adamw(benchmark::State& state) {
  const auto blocks = update_blocks();
  const auto grad = vector(1), m = vector(2), v = vector(3), weight = vector(4);
  Kokkos::deep_copy(v, 1.0f);
  const Kokkos::View<double> factor("factor");
  const Kokkos::View<int> skip("skip");
  Kokkos::deep_copy(factor, 1.0);
  const AdamWStep step{1e-3, 0.9, 0.95, 1e-8, 0.5, 0.5};
  against_triad(state, 7 * k_array,
                [&] { adamw_update(Exec(), blocks, step, factor, skip, grad, m, v, weight); });
}

void sgd_momentum(benchmark::State& state) {
  const auto blocks = update_blocks();
  const auto grad = vector(1), buffer = vector(2), weight = vector(3);
  const Kokkos::View<double> factor("factor");
  const Kokkos::View<int> skip("skip");
  Kokkos::deep_copy(factor, 1.0);
  const SgdStep step{1e-3, 0.9, false, false};
  against_triad(state, 5 * k_array,
                [&] { sgd_update(Exec(), blocks, step, factor, skip, grad, buffer, weight); });
}

void gradient_norm(benchmark::State& state) {
  const auto grad = vector(1);
  const Vector<RowSpan> rows("rows", k_rows);
  auto host = Kokkos::create_mirror_view(rows);
  for (index_t i = 0; i < k_rows; ++i) host(i) = {i * k_cols, k_cols, i};
  Kokkos::deep_copy(rows, host);
  const Vector<double> partials("partials", k_rows);
  const Kokkos::View<double> sum("sum"), norm("norm"), factor("factor");
  const Kokkos::View<int> skip("skip");
  against_triad(state, k_array, [&] {
    sum_squares(Exec(), rows, grad, partials);
    tree_sum(Exec(), partials, sum);
    clip_factor(Exec(), sum, 1.0, norm, factor, skip);
  });
}

void normal_numbers(benchmark::State& state) {
  const auto out = vector(1);
  against_triad(state, k_array, [&] { fill_normal(Exec(), 1, 2, 0, 0.0, 0.02, out); });
}

#define SDP_BENCH(function) \
  BENCHMARK(function)->UseManualTime()->Unit(benchmark::kMillisecond)->MinTime(0.5)
SDP_BENCH(triad);
SDP_BENCH(residual_add);
SDP_BENCH(accumulate_in_place);
SDP_BENCH(rms_norm_forward_row);
SDP_BENCH(add_rms_norm_forward_row);
SDP_BENCH(rms_norm_apply_row);
SDP_BENCH(rms_norm_backward_both);
SDP_BENCH(rms_norm_backward_masked);
SDP_BENCH(swiglu_forward_row);
SDP_BENCH(swiglu_backward_row);
SDP_BENCH(pack_half_of_the_columns);
SDP_BENCH(cross_entropy_loss);
SDP_BENCH(cross_entropy_gradient)->Arg(k_vocabulary)->Arg(4096);
SDP_BENCH(embedding_look_up);
SDP_BENCH(embedding_gradient);
SDP_BENCH(adamw);
SDP_BENCH(sgd_momentum);
SDP_BENCH(gradient_norm);
SDP_BENCH(normal_numbers);

}  // namespace
}  // namespace sdp::bench
