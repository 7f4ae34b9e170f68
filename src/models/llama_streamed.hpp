// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "models/llama.hpp"

namespace sdp {

/// Forward passes of a complete LLaMA of which only one layer's weights are here at a time.
///
///   for each micro-batch m: embed(tokens_m, stream_m);
///   for each layer l: { get its weights; for each micro-batch m: layer(weights_l, stream_m); }
///   for each micro-batch m: loss(targets_m, stream_m, losses_m);
///
/// The caller keeps the residual stream (N,D) of every micro-batch, N = B*T. Losses have the bits
/// of Llama::forward and Llama::loss. Buffers are those of one layer and one micro-batch; calls
/// allocate nothing and do not wait for the device. V is float, double or bf16.
template <class V>
class LlamaStreamed {
 public:
  using Accum = kernels::accum_t<V>;
  using Tokens = typename Llama<V>::Tokens;

  /// `table` is that of the weights given to embed() and loss(); it holds at least embedding, final
  /// norm and head whole. Throws std::invalid_argument when it does not.
  LlamaStreamed(LlamaConfig const& config, ParameterTable const& table, index_t max_batch,
                index_t max_seq_len);

  /// Elements of one layer: the rows of its tensors end to end in the order of llama_tensors.
  index_t layer_size() const { return m_layer_table.size(); }
  /// Elements of the residual stream of `tokens` tokens.
  index_t stream_size(index_t tokens) const { return tokens * m_config.hidden_size; }

  /// stream (N*D) = embedding of tokens (B,T).
  void embed(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens,
             Window1<V> const& stream);
  /// Runs one layer, whose weights are layer_size() elements, on a stream of (batch, seq_len)
  /// tokens, in place.
  void layer(ExecSpace const& exec, Window1<V> const& layer_weights, index_t batch, index_t seq_len,
             Window1<V> const& stream);
  /// Losses (N) against targets (B,T) as in Llama::loss. The stream is left as it is.
  void loss(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
            Window1<V> const& stream, View1<Accum> const& losses);

 private:
  LlamaPass<V> make_pass(ExecSpace const& exec, index_t batch, index_t seq_len,
                         Window1<V> const& stream) const;

  LlamaConfig m_config;
  ParameterTable m_table;
  LlamaTensors m_where;
  index_t m_max_batch;
  index_t m_max_seq_len;
  ParameterTable m_layer_table;  ///< of a model with one layer, that layer alone held
  LlamaLayerTensors m_layer_where;
  LlamaPlan m_plan;
  LlamaScratch<V> m_scratch;
  LlamaLayerBuffers<V> m_layer;
  View1<Accum> m_final_rstd;  // (N)
};

extern template class LlamaStreamed<float>;
extern template class LlamaStreamed<double>;
extern template class LlamaStreamed<kernels::bf16>;

}  // namespace sdp
