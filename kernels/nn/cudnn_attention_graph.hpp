// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(SDP_HAVE_CUDNN)

#include <cstdint>
#include <cstring>
#include <memory>

#include <cudnn_frontend.h>  // after <cstring>, which it uses without JSON

#include "kernels/nn/attention_parts.hpp"

// Attention as a graph of cuDNN. Legend: B batch, T positions, H query heads, K key/value heads, h
// head dimension.

namespace sdp::kernels::Details {

/// Backward by the algorithm that gives the same bits every time, or by any.
enum class CudnnPass : int { forward, backward_deterministic, backward };

using CudnnGraph = cudnn_frontend::graph::Graph;
using CudnnTensor = cudnn_frontend::graph::Tensor_attributes;

namespace cudnn_id {
inline constexpr std::int64_t k_q = 1, k_k = 2, k_v = 3, k_out = 4, k_lse = 5, k_d_out = 6,
                              k_d_q = 7, k_d_k = 8, k_d_v = 9;
}

/// Describes `heads` of the `width` heads a position of (B,T,width,h) as cuDNN's (B,heads,T,h), for
/// the sequences of a part.
inline void cudnn_describe(CudnnTensor& tensor, std::int64_t id, AttentionShape const& shape,
                           AttentionPart const& part, index_t heads, index_t width) {
  const index_t h = shape.head_dim;
  tensor.set_uid(id)
      .set_dim({part.sequences, heads, shape.positions, h})
      .set_stride({shape.positions * width * h, h, width * h, 1});
}

/// Describes a part of lse (B,H,T) as cuDNN's (B,H,T,1).
inline void cudnn_describe_lse(CudnnTensor& tensor, AttentionShape const& shape,
                               AttentionPart const& part) {
  tensor.set_uid(cudnn_id::k_lse)
      .set_dim({part.sequences, part.groups * shape.heads_of_group(), shape.positions, 1})
      .set_stride({shape.heads * shape.positions, shape.positions, 1, 1})
      .set_data_type(cudnn_frontend::DataType_t::FLOAT);
}

/// The graph of one direction and part: causal, scores scaled by 1/sqrt(h), sums in float. cuDNN's
/// statistics are the natural logarithm of the sum of the exponentials of the scaled scores, as our
/// lse.
inline std::shared_ptr<CudnnGraph> cudnn_attention_graph(CudnnPass pass,
                                                         AttentionShape const& shape,
                                                         AttentionPart const& part) {
  using cudnn_frontend::DataType_t;
  const index_t groups = part.groups, heads = groups * shape.heads_of_group();
  const index_t stored = shape.stored_heads();
  const auto scale = static_cast<float>(shape.scale());
  auto graph = std::make_shared<CudnnGraph>();
  graph->set_io_data_type(DataType_t::BFLOAT16)
      .set_intermediate_data_type(DataType_t::FLOAT)
      .set_compute_data_type(DataType_t::FLOAT);
  const auto input = [&](char const* name, std::int64_t id, index_t count, index_t width) {
    CudnnTensor tensor;
    tensor.set_name(name);
    cudnn_describe(tensor, id, shape, part, count, width);
    return graph->tensor(tensor);
  };
  const auto output = [&](std::shared_ptr<CudnnTensor> const& tensor, std::int64_t id,
                          index_t count, index_t width) {
    cudnn_describe(*tensor, id, shape, part, count, width);
    tensor->set_output(true);
  };
  const auto q = input("q", cudnn_id::k_q, heads, stored);
  const auto k = input("k", cudnn_id::k_k, groups, stored);
  const auto v = input("v", cudnn_id::k_v, groups, stored);
  if (pass == CudnnPass::forward) {
    auto options = cudnn_frontend::graph::SDPA_attributes();
    options.set_name("attention_forward");
    options.set_generate_stats(true);
    options.set_attn_scale(scale);
    options.set_diagonal_alignment(cudnn_frontend::DiagonalAlignment_t::TOP_LEFT);
    options.set_diagonal_band_right_bound(0);
    const auto [out, lse] = graph->sdpa(q, k, v, options);
    output(out, cudnn_id::k_out, heads, shape.heads);
    cudnn_describe_lse(*lse, shape, part);
    lse->set_output(true);
    return graph;
  }
  const auto out = input("out", cudnn_id::k_out, heads, shape.heads);
  const auto d_out = input("d_out", cudnn_id::k_d_out, heads, shape.heads);
  CudnnTensor statistics;
  statistics.set_name("lse");
  cudnn_describe_lse(statistics, shape, part);
  const auto lse = graph->tensor(statistics);
  auto options = cudnn_frontend::graph::SDPA_backward_attributes();
  options.set_name("attention_backward");
  options.set_attn_scale(scale);
  options.set_diagonal_alignment(cudnn_frontend::DiagonalAlignment_t::TOP_LEFT);
  options.set_diagonal_band_right_bound(0);
  options.set_deterministic_algorithm(pass == CudnnPass::backward_deterministic);
  const auto [d_q, d_k, d_v] = graph->sdpa_backward(q, k, v, out, d_out, lse, options);
  output(d_q, cudnn_id::k_d_q, heads, stored);
  output(d_k, cudnn_id::k_d_k, groups, stored);
  output(d_v, cudnn_id::k_d_v, groups, stored);
  return graph;
}

}  // namespace sdp::kernels::Details

#endif
