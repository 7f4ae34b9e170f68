// SPDX-License-Identifier: Apache-2.0
// Kernels on rows that memory bounds, against the bandwidth of the same run. Bytes are algorithmic:
// every input and output once, no write-allocate traffic.
#include <vector>

#include "benchmarks/kernels/memory_cases.hpp"
#include "kernels/nn/cross_entropy.hpp"
#include "kernels/nn/elementwise.hpp"
#include "kernels/nn/embedding.hpp"
#include "kernels/nn/pack_columns.hpp"
#include "kernels/nn/rms_norm.hpp"
#include "kernels/nn/rotary.hpp"
#include "kernels/nn/swiglu.hpp"

namespace sdp::bench {
namespace {

using namespace sdp::kernels;

Vector<std::int32_t> tokens(index_t count, index_t vocabulary) {
  std::vector<std::int32_t> host(static_cast<std::size_t>(count));
  for (index_t i = 0; i < count; ++i)
    host[static_cast<std::size_t>(i)] =
        static_cast<std::int32_t>(stream_bits(3, 4, static_cast<std::uint64_t>(i))[0] %
                                  static_cast<std::uint32_t>(vocabulary));
  return from_host(host.data(), count);
}

/// Arrays of a kernel on rows: matrices (rows, columns) of T, and what a norm has beside them.
template <class T>
struct Rows {
  index_t columns;
  index_t rows = rows_of<T>(columns);
  double bytes = bytes_of<T>(rows, columns);  ///< of one matrix

  Matrix<T> matrix(std::uint64_t salt) const { return bench::matrix<T>(salt, rows, columns); }
  Vector<T> weight(std::uint64_t salt) const { return vector<T>(salt, columns); }
  Vector<accum_t<T>> rstd(std::uint64_t salt) const { return vector<accum_t<T>>(salt, rows); }
};

void triad(benchmark::State& state, index_t) {
  against_triad(state, Triad::k_bytes, [] { run_triad(); });
}

template <class T>
void residual_add(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto a = r.matrix(1), b = r.matrix(2), out = r.matrix(3);
  against_triad(state, 3 * r.bytes, [&] { add(Exec(), a, b, out); });
}

template <class T>
void accumulate_in_place(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto x = r.matrix(1), y = r.matrix(2);
  against_triad(state, 3 * r.bytes, [&] { accumulate(Exec(), 0.5, x, y); });
}

template <class T>
void rms_norm_forward_row(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto x = r.matrix(1), out = r.matrix(2);
  const auto weight = r.weight(3);
  const auto rstd = r.rstd(4);
  against_triad(state, 2 * r.bytes, [&] { rms_norm_forward(Exec(), x, weight, 1e-5, out, rstd); });
}

template <class T>
void add_rms_norm_forward_row(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto x = r.matrix(1), branch = r.matrix(2), sum = r.matrix(3), out = r.matrix(4);
  const auto weight = r.weight(3);
  const auto rstd = r.rstd(4);
  against_triad(state, 4 * r.bytes,
                [&] { add_rms_norm_forward(Exec(), x, branch, weight, 1e-5, sum, out, rstd); });
}

template <class T>
void rms_norm_apply_row(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto x = r.matrix(1), out = r.matrix(2);
  const auto weight = r.weight(3);
  const auto rstd = r.rstd(4);
  against_triad(state, 2 * r.bytes, [&] { rms_norm_apply(Exec(), x, rstd, weight, out); });
}

template <class T>
void rms_norm_backward_both(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto x = r.matrix(1), d_out = r.matrix(2), d_x = r.matrix(3);
  const auto partials = matrix<accum_t<T>>(4, rms_norm_backward_chunks(r.rows), columns);
  const auto weight = r.weight(3);
  const auto rstd = r.rstd(4);
  const auto d_weight = vector<accum_t<T>>(5, columns);
  against_triad(state, 4 * r.bytes, [&] {
    rms_norm_backward(Exec(), d_out, x, rstd, weight, partials, d_x, d_weight);
  });
}

template <class T>
void rms_norm_backward_masked(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto x = r.matrix(1), d_out = r.matrix(2), d_x = r.matrix(3);
  const auto weight = r.weight(3);
  const auto rstd = r.rstd(4);
  against_triad(state, 4 * r.bytes,
                [&] { rms_norm_backward_input(Exec(), d_out, x, rstd, weight, d_x); });
}

template <class T>
void swiglu_forward_row(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto gate_up = matrix<T>(1, r.rows, 2 * columns);
  const auto out = r.matrix(2);
  against_triad(state, 3 * r.bytes, [&] { swiglu_forward(Exec(), gate_up, out); });
}

template <class T>
void swiglu_backward_row(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto gate_up = matrix<T>(1, r.rows, 2 * columns);
  const auto d_act = r.matrix(2);
  against_triad(state, 6 * r.bytes, [&] { swiglu_backward(Exec(), gate_up, d_act); });
}

/// Queries and keys of a fused projection with heads of 64, at 2048 positions.
template <class T>
void rotary_of_queries_and_keys(benchmark::State& state, index_t columns) {
  constexpr index_t k_head = 64, k_positions = 2048;
  const index_t heads = columns / k_head;
  const index_t batch = rows_of<T>(3 * columns) / k_positions;
  const auto projection = vector<T>(1, batch * k_positions * 3 * columns);
  const Kokkos::View<T****, Kokkos::LayoutRight> x(projection.data(), batch, k_positions, 3 * heads,
                                                   k_head);
  const Matrix<accum_t<T>> cos("cos", k_positions, k_head / 2), sin("sin", k_positions, k_head / 2);
  rotary_tables(Exec(), 1e4, cos, sin);
  against_triad(state, 2 * bytes_of<T>(batch * k_positions, 2 * columns),
                [&] { rotary_forward(Exec(), cos, sin, x, 2 * heads); });
}

/// Every other group of 64 columns.
template <class T>
void pack_half_of_the_columns(benchmark::State& state, index_t columns) {
  constexpr index_t k_group = 64;
  const Rows<T> r{columns};
  const auto x = r.matrix(1);
  const auto packed = matrix<T>(2, r.rows, columns / 2);
  std::vector<ColumnRun> host;
  for (index_t i = 0; i < columns / (2 * k_group); ++i)
    host.push_back({2 * i * k_group, i * k_group, k_group});
  const auto runs = from_host(host.data(), static_cast<index_t>(host.size()));
  against_triad(state, r.bytes, [&] { pack_columns(Exec(), runs, x, packed); });
}

template <class T>
void cross_entropy_loss(benchmark::State& state, index_t vocabulary) {
  const Rows<T> r{vocabulary};
  const auto logits = r.matrix(1);
  const auto losses = r.rstd(2);
  const auto targets = tokens(r.rows, vocabulary);
  against_triad(state, r.bytes, [&] { cross_entropy_forward(Exec(), logits, targets, losses); });
}

template <class T>
void cross_entropy_gradient(benchmark::State& state, index_t vocabulary) {
  const Rows<T> r{vocabulary};
  const auto logits = r.matrix(1);
  const auto losses = r.rstd(2);
  const auto targets = tokens(r.rows, vocabulary);
  against_triad(state, 2 * r.bytes,
                [&] { cross_entropy_forward_backward(Exec(), logits, targets, 1.0, losses); });
}

/// Rows of the table count once, however many tokens they are looked up for.
template <class T>
void embedding_look_up(benchmark::State& state, index_t columns) {
  const Rows<T> r{columns};
  const auto table = matrix<T>(1, k_vocabulary, columns);
  const auto out = r.matrix(2);
  const auto ids = tokens(r.rows, k_vocabulary);
  against_triad(state, r.bytes + bytes_of<T>(std::min(r.rows, k_vocabulary), columns),
                [&] { embedding_forward(Exec(), ids, table, out); });
}

template <class T>
void embedding_gradient(benchmark::State& state, index_t columns) {
  const index_t count = rows_of<T>(columns);
  const auto table = matrix<accum_t<T>>(1, k_vocabulary, columns);
  const auto d_out = matrix<T>(2, count, columns);
  const auto ids = tokens(count, k_vocabulary);
  const Vector<std::int32_t> order("order", embedding_backward_workspace<Exec>(count));
  const Matrix<accum_t<T>> partials("partials", embedding_backward_chunks<Exec>(count), columns);
  const double changed = bytes_of<accum_t<T>>(std::min(count, k_vocabulary), columns);
  against_triad(state, bytes_of<T>(count, columns) + 2 * changed,
                [&] { embedding_backward(Exec(), ids, d_out, order, partials, table); });
}

/// Rows as wide as the hidden states of the 134M and 1B models of benchmarks/gpu, and as their
/// MLPs.
bool add_all() {
  const auto rows = [](char const* name, Case of_float, Case of_bf16) {
    add_cases(name, of_float, of_bf16, k_host_columns, {768, 2048});
  };
  add_case("triad", triad, 0);
#define SDP_ROWS(kernel) rows(#kernel, kernel<float>, kernel<bf16>)
  SDP_ROWS(residual_add);
  SDP_ROWS(accumulate_in_place);
  SDP_ROWS(rms_norm_forward_row);
  SDP_ROWS(add_rms_norm_forward_row);
  SDP_ROWS(rms_norm_apply_row);
  SDP_ROWS(rms_norm_backward_both);
  SDP_ROWS(rms_norm_backward_masked);
  SDP_ROWS(pack_half_of_the_columns);
  SDP_ROWS(embedding_look_up);
  SDP_ROWS(embedding_gradient);
  if (k_on_device) SDP_ROWS(rotary_of_queries_and_keys);
#undef SDP_ROWS
  add_cases("swiglu_forward_row", swiglu_forward_row<float>, swiglu_forward_row<bf16>,
            k_host_columns, {2048, 5472});
  add_cases("swiglu_backward_row", swiglu_backward_row<float>, swiglu_backward_row<bf16>,
            k_host_columns, {2048, 5472});
  add_cases("cross_entropy_loss", cross_entropy_loss<float>, cross_entropy_loss<bf16>, k_vocabulary,
            {k_vocabulary});
  add_cases("cross_entropy_gradient", cross_entropy_gradient<float>, cross_entropy_gradient<bf16>,
            k_vocabulary, {k_vocabulary});
  if (!k_on_device) add_case("cross_entropy_gradient/4096", cross_entropy_gradient<float>, 4096);
  return true;
}
[[maybe_unused]] const bool k_added = add_all();

}  // namespace
}  // namespace sdp::bench
