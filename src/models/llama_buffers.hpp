// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/device_pool.hpp"
#include "base/types.hpp"
#include "config/config.hpp"
#include "models/llama_plan.hpp"

// Shapes: B sequences, T tokens each, N = B*T, D hidden size, h head_dim; H query heads, K
// key-value heads and F neurons of a layer as held here.

namespace sdp {

/// What backward needs of one layer.
template <class V>
struct LlamaLayerBuffers {
  using Accum = kernels::accum_t<V>;
  View1<V> attention_in;        // (N,D) residual stream at the attention norm
  View1<V> mlp_in;              // (N,D) residual stream at the MLP norm
  View1<Accum> attention_rstd;  // (N)
  View1<Accum> mlp_rstd;        // (N)
  View1<V> qkv;                 // (B,T,H+2K,h) rotated queries and keys, values
  View1<V> attention_out;       // (N,H*h)
  View1<Accum> lse;             // (B,H,T)
  View1<V> gate_up;             // (N,2F)
};

/// Buffers whose content lives no longer than a sub-layer or the loss; large enough for the widest
/// layer. What is never needed at the same time shares memory: act, d_qkv and logits; branch and
/// d_attention.
template <class V>
struct LlamaScratch {
  using Accum = kernels::accum_t<V>;
  View2<Accum> cos;  // (max_seq_len, h/2)
  View2<Accum> sin;  // (max_seq_len, h/2)
  View1<V> normed;   // (N,D)
  View1<V> branch;   // (N,D) sub-layer output; gradient of the normed input in backward
  View1<V> act;      // (N,F) SwiGLU output; its gradient in backward
  View1<V> logits;   // (llama_head_rows,V)

  // For backward.
  View1<V> d_stream;      // (N,D) gradient of the residual stream
  View1<V> d_attention;   // (N,H*h)
  View1<V> d_qkv;         // (N,(H+2K)*h)
  View1<Accum> delta;     // (B,H,T)
  View2<Accum> partials;  // (llama_partial_rows,D)
  View1<V> packed;        // (N,columns) held columns of an activation
};

/// A buffer that is not initialised; see allocate().
template <class T>
View1<T> llama_allocate(std::string const& label, index_t size) {
  return allocate<View1<T>>("sdp::models::" + label, size);
}

/// Buffers of a layer with these heads and neurons for N tokens, but for its inputs.
template <class V>
LlamaLayerBuffers<V> llama_allocate_layer(index_t tokens, index_t head_dim, index_t heads,
                                          index_t kv_heads, index_t width);

/// Scratch for the widest layer of the plan, with the rotary tables filled in.
template <class V>
LlamaScratch<V> llama_allocate_scratch(LlamaConfig const& config, LlamaPlan const& plan,
                                       index_t max_batch, index_t max_seq_len, bool with_backward);

}  // namespace sdp
