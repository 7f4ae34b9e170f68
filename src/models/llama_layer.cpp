// SPDX-License-Identifier: Apache-2.0
#include "models/llama_layer.hpp"

#include "base/memory_ledger.hpp"
#include "kernels/nn/attention.hpp"
#include "kernels/nn/linear.hpp"
#include "kernels/nn/rms_norm.hpp"
#include "kernels/nn/rotary.hpp"
#include "kernels/nn/swiglu.hpp"

namespace sdp {

namespace {

using kernels::accum_t;
using kernels::WeightLayout;

template <class T>
using Window3 =
    Kokkos::View<T***, Kokkos::LayoutRight, MemSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

template <class T>
Window1<T> first(View1<T> const& buffer, index_t size) {
  return Window1<T>(buffer.data(), size);
}

/// The tables of rotary embedding for the positions of the pass.
template <class V>
Window2<accum_t<V>> positions(LlamaPass<V> const& pass, View2<accum_t<V>> const& table) {
  return Window2<accum_t<V>>(table.data(), pass.seq_len, pass.head_dim / 2);
}

/// The columns of an activation that meet held gradient rows, next to each other.
template <class V>
Window2<V> held_columns(LlamaPass<V> const& pass, Window1<kernels::ColumnRun> const& runs,
                        Window2<V> const& activation, Window2<accum_t<V>> const& gradient) {
  if (runs.extent(0) == 0) return activation;
  const auto packed = pass.window(pass.scratch.packed, static_cast<index_t>(gradient.extent(0)));
  kernels::pack_columns(pass.exec, runs, activation, packed);
  return packed;
}

}  // namespace

template <class V>
LlamaLayerRows<V> llama_layer_rows(ParameterTable const& table, LlamaLayerTensors const& t,
                                   V* flat) {
  // Rows of tensors that lie next to each other are one matrix.
  const auto rows = [&](int tensor, index_t count) {
    return Window2<V>(flat + table.offset(tensor), count, table.tensors()[tensor].cols);
  };
  const auto scale = [&](int tensor) {
    return Window1<V>(flat + table.offset(tensor), table.held_size(tensor));
  };
  LlamaLayerRows<V> layer;
  layer.down = rows(t.down, table.held_rows(t.down));
  layer.gate_up = rows(t.gate, table.held_rows(t.gate) + table.held_rows(t.up));
  layer.mlp_norm = scale(t.mlp_norm);
  layer.output = rows(t.output, table.held_rows(t.output));
  layer.qkv =
      rows(t.query, table.held_rows(t.query) + table.held_rows(t.key) + table.held_rows(t.value));
  layer.attention_norm = scale(t.attention_norm);
  return layer;
}

template <class V>
void llama_norm(LlamaPass<V> const& pass, Window1<V> const& scale, LlamaStream<V>& stream,
                View1<V> const& stored, View1<accum_t<V>> const& rstd) {
  const index_t d = pass.hidden;
  const auto eps = static_cast<accum_t<V>>(pass.eps);
  const auto normed = pass.window(pass.scratch.normed, d);
  if (stream.pending_branch)
    kernels::add_rms_norm_forward(pass.exec, pass.window(stream.value, d),
                                  pass.window(pass.scratch.branch, d), scale, eps,
                                  pass.window(stored, d), normed, first(rstd, pass.tokens()));
  else
    kernels::rms_norm_forward(pass.exec, pass.window(stream.value, d), scale, eps, normed,
                              first(rstd, pass.tokens()));
  stream.value = stored;
  stream.pending_branch = false;
}

template <class V>
void llama_attention_forward(LlamaPass<V> const& pass, LlamaLayerPlan const& plan,
                             LlamaLayerRows<V> const& weights, double alpha,
                             LlamaLayerBuffers<V> const& kept, LlamaStream<V>& stream) {
  const index_t d = pass.hidden, h = pass.head_dim;
  const index_t slots = plan.heads + 2 * plan.kv_heads;
  llama_norm(pass, weights.attention_norm, stream, kept.attention_in, kept.attention_rstd);
  kernels::linear_forward(pass.exec, WeightLayout::out_in, pass.window(pass.scratch.normed, d),
                          weights.qkv, pass.window(kept.qkv, slots * h));
  pass.poll();
  const Window4<V> qkv(kept.qkv.data(), pass.batch, pass.seq_len, slots, h);
  kernels::rotary_forward(pass.exec, positions(pass, pass.scratch.cos),
                          positions(pass, pass.scratch.sin), qkv, plan.heads + plan.kv_heads);
  const MemoryScope scope(MemoryCategory::workspace);  // of a vendor's kernel, at its first call
  kernels::attention_forward(
      pass.exec, qkv, plan.heads,
      Window4<V>(kept.attention_out.data(), pass.batch, pass.seq_len, plan.heads, h),
      Window3<accum_t<V>>(kept.lse.data(), pass.batch, plan.heads, pass.seq_len));
  pass.poll();
  kernels::linear_forward(pass.exec, WeightLayout::in_out,
                          pass.window(kept.attention_out, plan.heads * h), weights.output,
                          pass.window(pass.scratch.branch, d), 0.0, alpha);
  stream.pending_branch = true;
}

template <class V>
void llama_mlp_forward(LlamaPass<V> const& pass, LlamaLayerPlan const& plan,
                       LlamaLayerRows<V> const& weights, double alpha,
                       LlamaLayerBuffers<V> const& kept, LlamaStream<V>& stream, bool with_down) {
  const index_t d = pass.hidden;
  const auto gate_up = pass.window(kept.gate_up, 2 * plan.width);
  llama_norm(pass, weights.mlp_norm, stream, kept.mlp_in, kept.mlp_rstd);
  kernels::linear_forward(pass.exec, WeightLayout::out_in, pass.window(pass.scratch.normed, d),
                          weights.gate_up, gate_up);
  pass.poll();
  if (!with_down) return;
  const auto act = pass.window(pass.scratch.act, plan.width);
  kernels::swiglu_forward(pass.exec, gate_up, act);
  kernels::linear_forward(pass.exec, WeightLayout::in_out, act, weights.down,
                          pass.window(pass.scratch.branch, d), 0.0, alpha);
  stream.pending_branch = true;
}

template <class V>
void llama_norm_backward(LlamaPass<V> const& pass, Window1<V> const& scale, View1<V> const& x,
                         View1<accum_t<V>> const& rstd, Window1<accum_t<V>> const& d_scale) {
  const index_t d = pass.hidden;
  const auto d_out = pass.window(pass.scratch.branch, d);
  const auto d_x = pass.window(pass.scratch.d_stream, d);
  const auto factors = first(rstd, pass.tokens());
  if (d_scale.extent(0) == 0) {
    kernels::rms_norm_backward_input(pass.exec, d_out, pass.window(x, d), factors, scale, d_x);
    return;
  }
  const Window2<accum_t<V>> partials(pass.scratch.partials.data(),
                                     kernels::rms_norm_backward_chunks(pass.tokens()), d);
  kernels::rms_norm_backward(pass.exec, d_out, pass.window(x, d), factors, scale, partials, d_x,
                             d_scale);
}

template <class V>
void llama_mlp_backward(LlamaPass<V> const& pass, LlamaLayerPlan const& plan,
                        LlamaLayerRows<V> const& weights, double alpha,
                        LlamaLayerBuffers<V> const& kept, LlamaLayerGradients<V> const& gradients) {
  const index_t d = pass.hidden;
  LlamaLayerRows<accum_t<V>> const& held = gradients.rows;
  const auto d_out = pass.window(pass.scratch.d_stream, d);
  const auto d_act = pass.window(pass.scratch.act, plan.width);
  const auto gate_up = pass.window(kept.gate_up, 2 * plan.width);
  kernels::linear_backward_input(pass.exec, WeightLayout::in_out, d_out, weights.down, d_act, 0.0,
                                 alpha);
  pass.poll();
  kernels::swiglu_backward(pass.exec, gate_up, d_act);
  if (held.down.extent(0) > 0) {
    kernels::linear_backward_weight(pass.exec, WeightLayout::in_out,
                                    held_columns(pass, gradients.act, d_act, held.down), d_out,
                                    held.down, gradients.beta, alpha);
    pass.poll();
  }
  kernels::linear_backward_input(pass.exec, WeightLayout::out_in, gate_up, weights.gate_up,
                                 pass.window(pass.scratch.branch, d));
  pass.poll();
  if (held.gate_up.extent(0) > 0) {
    const auto normed = pass.window(pass.scratch.normed, d);
    kernels::rms_norm_apply(pass.exec, pass.window(kept.mlp_in, d),
                            first(kept.mlp_rstd, pass.tokens()), weights.mlp_norm, normed);
    kernels::linear_backward_weight(pass.exec, WeightLayout::out_in, normed,
                                    held_columns(pass, gradients.gate_up, gate_up, held.gate_up),
                                    held.gate_up, gradients.beta);
    pass.poll();
  }
  llama_norm_backward(pass, weights.mlp_norm, kept.mlp_in, kept.mlp_rstd, held.mlp_norm);
}

template <class V>
void llama_attention_backward(LlamaPass<V> const& pass, LlamaLayerPlan const& plan,
                              LlamaLayerRows<V> const& weights, double alpha,
                              LlamaLayerBuffers<V> const& kept,
                              LlamaLayerGradients<V> const& gradients) {
  const index_t d = pass.hidden, h = pass.head_dim;
  const index_t b = pass.batch, t = pass.seq_len;
  const index_t slots = plan.heads + 2 * plan.kv_heads;
  LlamaScratch<V> const& scratch = pass.scratch;
  LlamaLayerRows<accum_t<V>> const& held = gradients.rows;
  const auto d_out = pass.window(scratch.d_stream, d);
  const auto d_qkv = pass.window(scratch.d_qkv, slots * h);
  const auto attention_out = pass.window(kept.attention_out, plan.heads * h);
  kernels::linear_backward_input(pass.exec, WeightLayout::in_out, d_out, weights.output,
                                 pass.window(scratch.d_attention, plan.heads * h), 0.0, alpha);
  if (held.output.extent(0) > 0)
    kernels::linear_backward_weight(
        pass.exec, WeightLayout::in_out,
        held_columns(pass, gradients.attention, attention_out, held.output), d_out, held.output,
        gradients.beta, alpha);
  pass.poll();
  const Window4<V> d_qkv_heads(scratch.d_qkv.data(), b, t, slots, h);
  const MemoryScope scope(MemoryCategory::workspace);  // of a vendor's kernel, at its first call
  kernels::attention_backward(
      pass.exec, Window4<V>(kept.qkv.data(), b, t, slots, h),
      Window4<V>(kept.attention_out.data(), b, t, plan.heads, h),
      Window3<accum_t<V>>(kept.lse.data(), b, plan.heads, t),
      Window4<V>(scratch.d_attention.data(), b, t, plan.heads, h), plan.heads,
      Window3<accum_t<V>>(scratch.delta.data(), b, plan.heads, t), d_qkv_heads, pass.deterministic);
  kernels::rotary_backward(pass.exec, positions(pass, scratch.cos), positions(pass, scratch.sin),
                           d_qkv_heads, plan.heads + plan.kv_heads);
  pass.poll();
  kernels::linear_backward_input(pass.exec, WeightLayout::out_in, d_qkv, weights.qkv,
                                 pass.window(scratch.branch, d));
  pass.poll();
  if (held.qkv.extent(0) > 0) {
    const auto normed = pass.window(scratch.normed, d);
    kernels::rms_norm_apply(pass.exec, pass.window(kept.attention_in, d),
                            first(kept.attention_rstd, pass.tokens()), weights.attention_norm,
                            normed);
    kernels::linear_backward_weight(pass.exec, WeightLayout::out_in, normed,
                                    held_columns(pass, gradients.qkv, d_qkv, held.qkv), held.qkv,
                                    gradients.beta);
    pass.poll();
  }
  llama_norm_backward(pass, weights.attention_norm, kept.attention_in, kept.attention_rstd,
                      held.attention_norm);
}

#define SDP_INSTANTIATE(V)                                                                        \
  template LlamaLayerRows<V> llama_layer_rows(ParameterTable const&, LlamaLayerTensors const&,    \
                                              V*);                                                \
  template void llama_norm(LlamaPass<V> const&, Window1<V> const&, LlamaStream<V>&,               \
                           View1<V> const&, View1<accum_t<V>> const&);                            \
  template void llama_attention_forward(LlamaPass<V> const&, LlamaLayerPlan const&,               \
                                        LlamaLayerRows<V> const&, double,                         \
                                        LlamaLayerBuffers<V> const&, LlamaStream<V>&);            \
  template void llama_mlp_forward(LlamaPass<V> const&, LlamaLayerPlan const&,                     \
                                  LlamaLayerRows<V> const&, double, LlamaLayerBuffers<V> const&,  \
                                  LlamaStream<V>&, bool);                                         \
  template void llama_attention_backward(                                                         \
      LlamaPass<V> const&, LlamaLayerPlan const&, LlamaLayerRows<V> const&, double,               \
      LlamaLayerBuffers<V> const&, LlamaLayerGradients<V> const&);                                \
  template void llama_mlp_backward(LlamaPass<V> const&, LlamaLayerPlan const&,                    \
                                   LlamaLayerRows<V> const&, double, LlamaLayerBuffers<V> const&, \
                                   LlamaLayerGradients<V> const&);                                \
  template void llama_norm_backward(LlamaPass<V> const&, Window1<V> const&, View1<V> const&,      \
                                    View1<accum_t<V>> const&, Window1<accum_t<V>> const&);
SDP_INSTANTIATE(float)
SDP_INSTANTIATE(double)
SDP_INSTANTIATE(kernels::bf16)
#undef SDP_INSTANTIATE

}  // namespace sdp
