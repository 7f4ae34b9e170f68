// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "models/llama_buffers.hpp"
#include "models/llama_plan.hpp"
#include "models/llama_tensors.hpp"

// The sub-layers of a LLaMA, forward and backward, over windows and buffers of the caller.
// Shapes: B sequences, T tokens each, N = B*T, D hidden size, h head_dim; H query heads, K
// key-value heads and F neurons of the layer as held here. Everything is asynchronous on the
// execution space, and nothing allocates.

namespace sdp {

/// The held rows of one layer in a flat buffer of weights or of gradients.
template <class V>
struct LlamaLayerRows {
  Window2<V> down;            // (F,D)
  Window2<V> gate_up;         // (2F,D)
  Window1<V> mlp_norm;        // (D), or none
  Window2<V> output;          // (H*h,D)
  Window2<V> qkv;             // ((H+2K)*h,D)
  Window1<V> attention_norm;  // (D), or none
};
template <class V>
LlamaLayerRows<V> llama_layer_rows(ParameterTable const& table, LlamaLayerTensors const& tensors,
                                   V* flat);

/// Where the weight gradients of one layer go, in the type in which V is summed, and from which
/// columns of the activations they come where only some are held (runs without elements: all
/// columns).
template <class V>
struct LlamaLayerGradients {
  LlamaLayerRows<kernels::accum_t<V>> rows;
  Window1<kernels::ColumnRun> act, gate_up, attention, qkv;
  double beta = 0.0;  ///< of the matrices; the norms accumulate
};

/// The residual stream on its way up: its last stored value, and a branch (LlamaScratch::branch)
/// not yet added to it.
template <class V>
struct LlamaStream {
  View1<V> value;  // (N,D)
  bool pending_branch = false;
};

/// One pass of a batch: sizes that all layers share, and what is called between large kernels.
template <class V>
struct LlamaPass {
  ExecSpace const& exec;
  LlamaScratch<V> const& scratch;
  index_t batch;              ///< B
  index_t seq_len;            ///< T
  index_t hidden;             ///< D
  index_t head_dim;           ///< h
  double eps;                 ///< of RMSNorm
  bool deterministic = true;  ///< backward gives the same bits every time
  std::function<void()> progress = nullptr;

  index_t tokens() const { return batch * seq_len; }
  Window2<V> window(View1<V> const& buffer, index_t cols) const {
    return Window2<V>(buffer.data(), tokens(), cols);
  }
  void poll() const {
    if (progress) progress();
  }
};

/// scratch.normed = RMSNorm of the stream, its pending branch added first; the value normed is
/// kept in `stored` and becomes the stream. rstd (N) is overwritten.
template <class V>
void llama_norm(LlamaPass<V> const& pass, Window1<V> const& scale, LlamaStream<V>& stream,
                View1<V> const& stored, View1<kernels::accum_t<V>> const& rstd);

/// scratch.branch = alpha * attention of the normed stream, projected. Keeps what backward needs.
template <class V>
void llama_attention_forward(LlamaPass<V> const& pass, LlamaLayerPlan const& plan,
                             LlamaLayerRows<V> const& weights, double alpha,
                             LlamaLayerBuffers<V> const& kept, LlamaStream<V>& stream);

/// scratch.branch = alpha * SwiGLU MLP of the normed stream; up to gate_up alone when `with_down`
/// is false, as backward needs after recomputation.
template <class V>
void llama_mlp_forward(LlamaPass<V> const& pass, LlamaLayerPlan const& plan,
                       LlamaLayerRows<V> const& weights, double alpha,
                       LlamaLayerBuffers<V> const& kept, LlamaStream<V>& stream, bool with_down);

/// Adds the gradient through the sub-layer to scratch.d_stream and forms the held weight gradients;
/// those of the norm are added to.
template <class V>
void llama_attention_backward(LlamaPass<V> const& pass, LlamaLayerPlan const& plan,
                              LlamaLayerRows<V> const& weights, double alpha,
                              LlamaLayerBuffers<V> const& kept,
                              LlamaLayerGradients<V> const& gradients);
template <class V>
void llama_mlp_backward(LlamaPass<V> const& pass, LlamaLayerPlan const& plan,
                        LlamaLayerRows<V> const& weights, double alpha,
                        LlamaLayerBuffers<V> const& kept, LlamaLayerGradients<V> const& gradients);

/// Gradient of the norm of x (N,D) for the gradient of its output in scratch.branch: added to
/// scratch.d_stream and to d_scale, which may hold nothing.
template <class V>
void llama_norm_backward(LlamaPass<V> const& pass, Window1<V> const& scale, View1<V> const& x,
                         View1<kernels::accum_t<V>> const& rstd,
                         Window1<kernels::accum_t<V>> const& d_scale);

}  // namespace sdp
