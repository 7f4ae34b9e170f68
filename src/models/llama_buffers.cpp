// SPDX-License-Identifier: Apache-2.0
#include "models/llama_buffers.hpp"

#include "kernels/nn/rotary.hpp"

namespace sdp {

template <class V>
LlamaLayerBuffers<V> llama_allocate_layer(index_t n, index_t h, index_t heads, index_t kv_heads,
                                          index_t width) {
  using Accum = kernels::accum_t<V>;
  LlamaLayerBuffers<V> layer;
  if (heads > 0) {
    layer.attention_rstd = llama_allocate<Accum>("attention_rstd", n);
    layer.qkv = llama_allocate<V>("qkv", n * (heads + 2 * kv_heads) * h);
    layer.attention_out = llama_allocate<V>("attention_out", n * heads * h);
    layer.lse = llama_allocate<Accum>("lse", n * heads);
  }
  if (width > 0) {
    layer.mlp_rstd = llama_allocate<Accum>("mlp_rstd", n);
    layer.gate_up = llama_allocate<V>("gate_up", n * 2 * width);
  }
  return layer;
}

template <class V>
LlamaScratch<V> llama_allocate_scratch(LlamaConfig const& config, LlamaPlan const& plan,
                                       index_t max_batch, index_t max_seq_len, bool with_backward) {
  using Accum = kernels::accum_t<V>;
  const index_t n = max_batch * max_seq_len;
  const index_t d = config.hidden_size;
  const index_t h = config.head_dim;
  LlamaScratch<V> s;
  s.cos = allocate<View2<Accum>>("sdp::models::cos", max_seq_len, h / 2);
  s.sin = allocate<View2<Accum>>("sdp::models::sin", max_seq_len, h / 2);
  kernels::rotary_tables(ExecSpace(), config.rope_theta, s.cos, s.sin);
  s.normed = llama_allocate<V>("normed", n * d);
  s.branch = llama_allocate<V>("branch", llama_branch_size(config, plan, n, with_backward));
  s.act = llama_allocate<V>("work", llama_work_size(config, plan, n, with_backward));
  s.logits = s.act;
  if (!with_backward) return s;
  s.d_stream = llama_allocate<V>("d_stream", n * d);
  s.d_attention = s.branch;
  s.d_qkv = s.act;
  s.delta = llama_allocate<Accum>("delta", n * plan.max_heads);
  s.partials = allocate<View2<Accum>>("sdp::models::partials", llama_partial_rows(n), d);
  s.packed = llama_allocate<V>("packed", n * plan.packed_columns);
  return s;
}

template LlamaLayerBuffers<float> llama_allocate_layer(index_t, index_t, index_t, index_t, index_t);
template LlamaLayerBuffers<double> llama_allocate_layer(index_t, index_t, index_t, index_t,
                                                        index_t);
template LlamaLayerBuffers<kernels::bf16> llama_allocate_layer(index_t, index_t, index_t, index_t,
                                                               index_t);
template LlamaScratch<float> llama_allocate_scratch(LlamaConfig const&, LlamaPlan const&, index_t,
                                                    index_t, bool);
template LlamaScratch<double> llama_allocate_scratch(LlamaConfig const&, LlamaPlan const&, index_t,
                                                     index_t, bool);
template LlamaScratch<kernels::bf16> llama_allocate_scratch(LlamaConfig const&, LlamaPlan const&,
                                                            index_t, index_t, bool);

}  // namespace sdp
