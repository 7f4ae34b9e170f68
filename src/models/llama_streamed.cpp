// SPDX-License-Identifier: Apache-2.0
#include "models/llama_streamed.hpp"

#include <stdexcept>

#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/nn/elementwise.hpp"
#include "kernels/nn/embedding.hpp"
#include "models/llama_head.hpp"

namespace sdp {

namespace {

LlamaConfig one_layer(LlamaConfig config) {
  config.num_layers = 1;
  return config;
}

/// The rows of one layer, and nothing else.
ParameterTable layer_table(LlamaConfig const& config) {
  const auto tensors = llama_tensors(one_layer(config));
  const LlamaLayerTensors layer = llama_tensor_indices(one_layer(config)).layers[0];
  std::vector<std::vector<Span>> held(tensors.size());
  for (int t = layer.down; t <= layer.attention_norm; ++t)
    held[t] = {{t, 0, tensors[t].rows, 0, k_shared}};
  return ParameterTable(tensors, held);
}

template <class T>
Window1<T const> as_vector(Kokkos::View<T const**, Kokkos::LayoutRight, MemSpace> const& tokens) {
  return Window1<T const>(tokens.data(), tokens.size());
}

}  // namespace

template <class V>
LlamaStreamed<V>::LlamaStreamed(LlamaConfig const& config, ParameterTable const& table,
                                index_t max_batch, index_t max_seq_len)
    : m_config(config),
      m_table(table),
      m_where(llama_tensor_indices(config)),
      m_max_batch(max_batch),
      m_max_seq_len(max_seq_len),
      m_layer_table(layer_table(config)),
      m_layer_where(llama_tensor_indices(one_layer(config)).layers[0]),
      m_plan(llama_plan(one_layer(config), m_layer_table, m_layer_table)) {
  for (int tensor : {m_where.head, m_where.final_norm, m_where.embedding})
    if (table.held_rows(tensor) != table.tensors()[tensor].rows)
      throw std::invalid_argument("LlamaStreamed: " + table.tensors()[tensor].name +
                                  " must be held whole");
  MemoryScope scope(MemoryCategory::activations);
  const index_t n = max_batch * max_seq_len;
  m_scratch = llama_allocate_scratch<V>(config, m_plan, max_batch, max_seq_len, false);
  m_layer = llama_allocate_layer<V>(n, config.head_dim, m_plan.max_heads, m_plan.max_kv_heads,
                                    m_plan.max_width);
  m_final_rstd = llama_allocate<Accum>("final_rstd", n);
}

template <class V>
LlamaPass<V> LlamaStreamed<V>::make_pass(ExecSpace const& exec, index_t batch, index_t seq_len,
                                         Window1<V> const& stream) const {
  if (batch * seq_len > m_max_batch * m_max_seq_len || seq_len > m_max_seq_len)
    throw std::invalid_argument("LlamaStreamed: tokens (" + std::to_string(batch) + "," +
                                std::to_string(seq_len) + ") exceed the buffers (" +
                                std::to_string(m_max_batch) + "," + std::to_string(m_max_seq_len) +
                                ")");
  kernels::require_extent("LlamaStreamed", "stream", stream, 0, stream_size(batch * seq_len));
  return {exec,
          m_scratch,
          batch,
          seq_len,
          m_config.hidden_size,
          m_config.head_dim,
          m_config.rms_norm_eps};
}

template <class V>
void LlamaStreamed<V>::embed(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens,
                             Window1<V> const& stream) {
  const auto b = static_cast<index_t>(tokens.extent(0)), t = static_cast<index_t>(tokens.extent(1));
  const LlamaPass<V> pass = make_pass(exec, b, t, stream);
  kernels::embedding_forward(exec, as_vector(tokens), m_table.matrix(weights, m_where.embedding),
                             Window2<V>(stream.data(), pass.tokens(), pass.hidden));
}

template <class V>
void LlamaStreamed<V>::layer(ExecSpace const& exec, Window1<V> const& layer_weights, index_t batch,
                             index_t seq_len, Window1<V> const& stream) {
  Region region("sdp::models::llama_streamed_layer");
  const LlamaPass<V> pass = make_pass(exec, batch, seq_len, stream);
  kernels::require_extent("LlamaStreamed", "layer_weights", layer_weights, 0, layer_size());
  const LlamaLayerRows<V> rows =
      llama_layer_rows(m_layer_table, m_layer_where, layer_weights.data());
  const View1<V> value(stream.data(), stream.extent(0));
  LlamaLayerBuffers<V> kept = m_layer;
  kept.attention_in = value;
  kept.mlp_in = value;
  LlamaStream<V> in_place{value, false};
  llama_attention_forward(pass, m_plan.layers[0], rows, 1.0, kept, in_place);
  llama_mlp_forward(pass, m_plan.layers[0], rows, 1.0, kept, in_place, true);
  kernels::add(exec, stream, Window1<V>(m_scratch.branch.data(), stream.extent(0)), stream);
}

template <class V>
void LlamaStreamed<V>::loss(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
                            Window1<V> const& stream, View1<Accum> const& losses) {
  Region region("sdp::models::llama_streamed_loss");
  const auto b = static_cast<index_t>(targets.extent(0)),
             t = static_cast<index_t>(targets.extent(1));
  const LlamaPass<V> pass = make_pass(exec, b, t, stream);
  const View1<V> value(stream.data(), stream.extent(0));
  LlamaStream<V> last{value, false};
  llama_norm(pass, m_table.vector(weights, m_where.final_norm), last, value, m_final_rstd);
  const index_t chunk = llama_head_rows(m_config, m_max_batch * m_max_seq_len);
  llama_head_loss(exec, pass.window(m_scratch.normed, pass.hidden),
                  m_table.matrix(weights, m_where.head), as_vector(targets),
                  Window2<V>(m_scratch.logits.data(), chunk, m_config.vocab_size),
                  Window1<Accum>(losses.data(), pass.tokens()));
}

template class LlamaStreamed<float>;
template class LlamaStreamed<double>;
template class LlamaStreamed<kernels::bf16>;

}  // namespace sdp
