// SPDX-License-Identifier: Apache-2.0
#include "models/llama.hpp"

#include <algorithm>
#include <stdexcept>

#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/nn/cross_entropy.hpp"
#include "kernels/nn/embedding.hpp"
#include "kernels/nn/linear.hpp"
#include "kernels/nn/rms_norm.hpp"
#include "models/llama_head.hpp"

namespace sdp {

namespace {

using kernels::ColumnRun;
using kernels::WeightLayout;

template <class View>
auto as_vector(View const& tokens) {
  return Kokkos::View<typename View::value_type const*, Kokkos::LayoutRight, MemSpace,
                      Kokkos::MemoryTraits<Kokkos::Unmanaged>>(tokens.data(), tokens.size());
}

/// All runs of a plan, layer by layer in the order of the members of LlamaLayerPlan.
View1<ColumnRun> upload_runs(LlamaPlan const& plan) {
  auto runs = llama_allocate<ColumnRun>("column_runs", plan.runs);
  auto host = Kokkos::create_mirror_view(runs);
  index_t next = 0;
  for (LlamaLayerPlan const& layer : plan.layers)
    for (auto const* list : {&layer.act, &layer.gate_up, &layer.attention, &layer.qkv})
      for (ColumnRun const& run : *list) host(next++) = run;
  Kokkos::deep_copy(runs, host);
  return runs;
}

}  // namespace

template <class V>
Llama<V>::Llama(LlamaConfig const& config, ModelSubnetwork const& subnetwork, index_t max_batch,
                index_t max_seq_len, Recompute recompute, bool with_backward, bool deterministic)
    : m_config(config),
      m_subnetwork(subnetwork),
      m_where(llama_tensor_indices(config)),
      m_plan(llama_plan(config, subnetwork.weights, subnetwork.gradients)),
      m_recompute(recompute),
      m_deterministic(deterministic),
      m_max_batch(max_batch),
      m_max_seq_len(max_seq_len),
      m_with_backward(with_backward) {
  MemoryScope scope(MemoryCategory::activations);
  const index_t n = max_batch * max_seq_len;
  const index_t d = config.hidden_size;
  m_scratch = llama_allocate_scratch<V>(config, m_plan, max_batch, max_seq_len, with_backward);
  m_embedded = llama_allocate<V>("embedded", n * d);
  m_final_rstd = llama_allocate<Accum>("final_rstd", n);
  m_final_out = llama_allocate<V>("final_out", n * d);
  allocate_layers();
  if (!with_backward) return;
  m_runs = upload_runs(m_plan);
  m_embedding_work = llama_allocate<std::int32_t>(
      "embedding_work", kernels::embedding_backward_workspace<ExecSpace>(n));
}

template <class V>
void Llama<V>::allocate_layers() {
  const index_t n = m_max_batch * m_max_seq_len;
  const index_t d = m_config.hidden_size;
  const index_t h = m_config.head_dim;
  // One set of buffers for all layers where nothing outlives a layer.
  const bool shared = !m_with_backward || m_recompute == Recompute::block;
  LlamaLayerBuffers<V> common;
  if (shared)
    common = llama_allocate_layer<V>(n, h, m_plan.max_heads, m_plan.max_kv_heads, m_plan.max_width);
  View1<V> shared_mlp_in;
  if (m_with_backward && shared && m_plan.whole_layer)
    shared_mlp_in = llama_allocate<V>("mlp_in", n * d);

  // The input of a sub-layer is a buffer of its own only if a branch was added since the last one;
  // a forward-only model keeps the stream in one place.
  Stream stream{m_embedded, false};
  auto stored_input = [&](char const* label, View1<V> const& reusable) {
    if (stream.pending_branch && m_with_backward)
      stream.value = reusable.data() ? reusable : llama_allocate<V>(label, n * d);
    stream.pending_branch = true;
    return stream.value;
  };
  for (LlamaLayerPlan const& layer : m_plan.layers) {
    LlamaLayerBuffers<V> set =
        shared ? common : llama_allocate_layer<V>(n, h, layer.heads, layer.kv_heads, layer.width);
    if (layer.has_attention()) set.attention_in = stored_input("attention_in", {});
    if (layer.has_mlp())
      set.mlp_in = stored_input("mlp_in", layer.has_attention() ? shared_mlp_in : View1<V>());
    m_layers.push_back(std::move(set));
  }
  m_final_in = stored_input("final_in", {});
}

template <class V>
typename Llama<V>::Pass Llama<V>::make_pass(ExecSpace const& exec) const {
  return Pass{exec,
              m_scratch,
              m_batch,
              m_seq_len,
              m_config.hidden_size,
              m_config.head_dim,
              m_config.rms_norm_eps,
              m_deterministic};
}

template <class V>
LlamaLayerRows<V> Llama<V>::layer_weights(View1<V> const& weights, int layer) const {
  return llama_layer_rows(m_subnetwork.weights, m_where.layers[layer], weights.data());
}

template <class V>
void Llama<V>::forward(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens,
                       ForwardObserver* observer) {
  Region region("sdp::models::llama_forward");
  m_batch = static_cast<index_t>(tokens.extent(0));
  m_seq_len = static_cast<index_t>(tokens.extent(1));
  m_tokens = m_batch * m_seq_len;
  if (m_tokens > m_max_batch * m_max_seq_len || m_seq_len > m_max_seq_len)
    throw std::invalid_argument("Llama::forward: tokens " + kernels::shape_string(tokens) +
                                " exceed the buffers (" + std::to_string(m_max_batch) + "," +
                                std::to_string(m_max_seq_len) + ")");
  ParameterTable const& table = m_subnetwork.weights;
  Pass pass = make_pass(exec);
  if (observer) pass.progress = [observer] { observer->progress(); };
  // A tensor is read with all that lies behind it in the buffer.
  const auto need = [&](int tensor) {
    if (observer) observer->weights_needed(table.offset(tensor));
  };
  need(m_where.embedding);
  kernels::embedding_forward(exec, as_vector(tokens), table.matrix(weights, m_where.embedding),
                             pass.window(m_embedded, m_config.hidden_size));
  Stream stream{m_embedded, false};
  for (int l = 0; l < static_cast<int>(m_layers.size()); ++l) {
    const LlamaLayerRows<V> rows = layer_weights(weights, l);
    if (m_plan.layers[l].has_attention()) {
      need(m_where.layers[l].output);
      llama_attention_forward(pass, m_plan.layers[l], rows, attention_scale(l), m_layers[l],
                              stream);
      pass.poll();
    }
    if (m_plan.layers[l].has_mlp()) {
      need(m_where.layers[l].down);
      llama_mlp_forward(pass, m_plan.layers[l], rows, mlp_scale(l), m_layers[l], stream, true);
      pass.poll();
    }
  }
  need(m_where.final_norm);
  llama_norm(pass, table.vector(weights, m_where.final_norm), stream, m_final_in, m_final_rstd);
  std::swap(m_scratch.normed, m_final_out);  // kept for the head; same size
}

template <class V>
void Llama<V>::logits(ExecSpace const& exec, View1<V> const& weights, index_t begin,
                      View2<V> const& out) {
  const index_t d = m_config.hidden_size;
  const auto rows = static_cast<index_t>(out.extent(0));
  if (begin < 0 || begin + rows > m_tokens)
    throw std::invalid_argument("Llama::logits: rows outside the last forward");
  kernels::linear_forward(exec, WeightLayout::out_in,
                          Window2<V>(m_final_out.data() + begin * d, rows, d),
                          m_subnetwork.weights.matrix(weights, m_where.head), out);
}

template <class V>
void Llama<V>::loss(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
                    View1<Accum> const& losses, ForwardObserver* observer) {
  Region region("sdp::models::llama_loss");
  if (observer) observer->weights_needed(0);
  const index_t chunk = llama_head_rows(m_config, m_max_batch * m_max_seq_len);
  llama_head_loss(exec, Window2<V>(m_final_out.data(), m_tokens, m_config.hidden_size),
                  m_subnetwork.weights.matrix(weights, m_where.head), as_vector(targets),
                  Window2<V>(m_scratch.logits.data(), chunk, m_config.vocab_size),
                  Window1<Accum>(losses.data(), m_tokens));
}

template <class V>
void Llama<V>::loss_backward(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
                             double grad_scale, bool accumulate, View1<Accum> const& grads,
                             View1<Accum> const& losses, double label_smoothing,
                             ForwardObserver* observer) {
  Region region("sdp::models::llama_loss_backward");
  if (observer) observer->weights_needed(0);
  const index_t d = m_config.hidden_size;
  const index_t chunk = llama_head_rows(m_config, m_max_batch * m_max_seq_len);
  const auto head = m_subnetwork.weights.matrix(weights, m_where.head);
  const auto d_head = m_subnetwork.gradients.matrix(grads, m_where.head);
  for (index_t begin = 0; begin < m_tokens; begin += chunk) {
    const index_t rows = std::min(chunk, m_tokens - begin);
    const Window2<V> hidden(m_final_out.data() + begin * d, rows, d);
    const Window2<V> logits(m_scratch.logits.data(), rows, m_config.vocab_size);
    const Window2<V> d_hidden(m_scratch.branch.data() + begin * d, rows, d);
    kernels::linear_forward(exec, WeightLayout::out_in, hidden, head, logits);
    kernels::cross_entropy_forward_backward(
        exec, logits, Window1<std::int32_t const>(targets.data() + begin, rows),
        static_cast<Accum>(grad_scale), Window1<Accum>(losses.data() + begin, rows),
        label_smoothing);
    kernels::linear_backward_input(exec, WeightLayout::out_in, logits, head, d_hidden);
    kernels::linear_backward_weight(exec, WeightLayout::out_in, hidden, logits, d_head,
                                    accumulate || begin > 0 ? 1.0 : 0.0);
  }
}

template <class V>
void Llama<V>::recompute_layer(Pass const& pass, View1<V> const& weights, int l) {
  LlamaLayerPlan const& plan = m_plan.layers[l];
  LlamaLayerBuffers<V> const& kept = m_layers[l];
  const LlamaLayerRows<V> rows = layer_weights(weights, l);
  Stream stream{plan.has_attention() ? kept.attention_in : kept.mlp_in, false};
  if (plan.has_attention())
    llama_attention_forward(pass, plan, rows, attention_scale(l), kept, stream);
  if (plan.has_mlp()) llama_mlp_forward(pass, plan, rows, mlp_scale(l), kept, stream, false);
}

template <class V>
LlamaLayerGradients<V> Llama<V>::layer_gradients(View1<Accum> const& grads, int l,
                                                 double beta) const {
  LlamaLayerGradients<V> layer;
  layer.rows = llama_layer_rows(m_subnetwork.gradients, m_where.layers[l], grads.data());
  layer.beta = beta;
  index_t first = 0;
  for (int i = 0; i < l; ++i) first += m_plan.layers[i].runs();
  LlamaLayerPlan const& plan = m_plan.layers[l];
  const auto next = [&](std::vector<ColumnRun> const& runs) {
    const Window1<ColumnRun> window(m_runs.data() + first, runs.size());
    first += static_cast<index_t>(runs.size());
    return window;
  };
  layer.act = next(plan.act);
  layer.gate_up = next(plan.gate_up);
  layer.attention = next(plan.attention);
  layer.qkv = next(plan.qkv);
  return layer;
}

template <class V>
void Llama<V>::start_gradients(ExecSpace const& exec, View1<Accum> const& grads) {
  // GEMMs overwrite with beta = 0; the rest accumulates and starts at zero, as does the norm of a
  // sub-layer without rows. A tied embedding has the head's gradient already.
  auto zero = [&](int tensor) {
    Kokkos::deep_copy(exec, m_subnetwork.gradients.vector(grads, tensor), Accum(0));
  };
  if (m_where.head != m_where.embedding) zero(m_where.embedding);
  zero(m_where.final_norm);
  for (LlamaLayerTensors const& t : m_where.layers) {
    zero(t.attention_norm);
    zero(t.mlp_norm);
  }
}

template <class V>
void Llama<V>::backward(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens,
                        bool accumulate, View1<Accum> const& grads, BackwardObserver* observer) {
  Region region("sdp::models::llama_backward");
  if (!m_with_backward)
    throw std::logic_error("Llama::backward: the model was built for forward passes only");
  const index_t d = m_config.hidden_size;
  ParameterTable const& table = m_subnetwork.gradients;
  Pass pass = make_pass(exec);
  if (observer) pass.progress = [observer] { observer->progress(); };
  index_t ready = 0;
  const auto report = [&](index_t end) {
    if (observer && end > ready) observer->gradients_ready(end);
    ready = end;
  };
  if (!accumulate) start_gradients(exec, grads);
  Kokkos::deep_copy(exec, Window1<V>(m_scratch.d_stream.data(), m_tokens * d), V(0.0f));
  llama_norm_backward(pass, m_subnetwork.weights.vector(weights, m_where.final_norm), m_final_in,
                      m_final_rstd, table.vector(grads, m_where.final_norm));
  report(table.offset(m_where.final_norm) + table.held_size(m_where.final_norm));
  for (int l = static_cast<int>(m_layers.size()) - 1; l >= 0; --l) {
    LlamaLayerTensors const& t = m_where.layers[l];
    LlamaLayerPlan const& plan = m_plan.layers[l];
    const LlamaLayerRows<V> rows = layer_weights(weights, l);
    const LlamaLayerGradients<V> layer = layer_gradients(grads, l, accumulate ? 1.0 : 0.0);
    if (m_recompute == Recompute::block) recompute_layer(pass, weights, l);
    if (plan.has_mlp()) llama_mlp_backward(pass, plan, rows, mlp_scale(l), m_layers[l], layer);
    report(table.offset(t.output));
    if (plan.has_attention())
      llama_attention_backward(pass, plan, rows, attention_scale(l), m_layers[l], layer);
    report(table.offset(t.attention_norm) + table.held_size(t.attention_norm));
  }
  kernels::embedding_backward(exec, as_vector(tokens), pass.window(m_scratch.d_stream, d),
                              m_embedding_work, m_scratch.partials,
                              table.matrix(grads, m_where.embedding));
  report(table.size());
}

template class Llama<float>;
template class Llama<double>;
template class Llama<kernels::bf16>;

}  // namespace sdp
