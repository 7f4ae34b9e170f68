// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/blas/gemm.hpp"

// Linear maps without bias, thin over gemm. N rows (tokens), I inputs, O outputs. Each throws
// ShapeError (from gemm, in gemm's names) when the extents do not fit, and none allows aliasing.

namespace sdp::kernels {

/// How a weight lies in memory. PyTorch's convention is out_in, (O,I). Matrices whose inputs are
/// cut by subnetworks (down and output projections) are stored in_out, (I,O), so that a unit is a
/// range of rows.
enum class WeightLayout { out_in, in_out };

/// out = alpha * x * W^T (W as (O,I)) + beta * out. x (N,I), weight (O,I) or (I,O), out (N,O).
template <ExecutionSpace Exec, ViewOfRank<2> X, ViewOfRank<2> W, ViewOfRank<2> Out>
void linear_forward(Exec const& exec, WeightLayout layout, X const& x, W const& weight,
                    Out const& out, double beta = 0.0, double alpha = 1.0) {
  const auto transpose = layout == WeightLayout::out_in ? Transpose::yes : Transpose::no;
  gemm(exec, Transpose::no, transpose, alpha, x, weight, beta, out);
}

/// d_x = alpha * d_out * W (W as (O,I)) + beta * d_x. d_out (N,O), weight (O,I) or (I,O), d_x
/// (N,I).
template <ExecutionSpace Exec, ViewOfRank<2> DOut, ViewOfRank<2> W, ViewOfRank<2> DX>
void linear_backward_input(Exec const& exec, WeightLayout layout, DOut const& d_out,
                           W const& weight, DX const& d_x, double beta = 0.0, double alpha = 1.0) {
  const auto transpose = layout == WeightLayout::out_in ? Transpose::no : Transpose::yes;
  gemm(exec, Transpose::no, transpose, alpha, d_out, weight, beta, d_x);
}

/// d_W = alpha * d_out^T * x + beta * d_W for W as (O,I), its transpose for (I,O); accumulates by
/// default. x (N,I), d_out (N,O), d_weight (O,I) or (I,O).
template <ExecutionSpace Exec, ViewOfRank<2> X, ViewOfRank<2> DOut, ViewOfRank<2> DW>
void linear_backward_weight(Exec const& exec, WeightLayout layout, X const& x, DOut const& d_out,
                            DW const& d_weight, double beta = 1.0, double alpha = 1.0) {
  if (layout == WeightLayout::out_in)
    gemm(exec, Transpose::yes, Transpose::no, alpha, d_out, x, beta, d_weight);
  else
    gemm(exec, Transpose::yes, Transpose::no, alpha, x, d_out, beta, d_weight);
}

}  // namespace sdp::kernels
