// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "config/config.hpp"
#include "models/backward_observer.hpp"
#include "models/forward_observer.hpp"
#include "models/llama_tensors.hpp"
#include "models/llama_units.hpp"

namespace sdp {

// Shapes in this file: B sequences, T tokens each, N = B*T, D hidden size, H query heads, K
// key-value heads, h head_dim, F MLP width, V vocabulary. H, K and F are what this worker holds of
// a layer.

/// What one worker holds of a LLaMA. Under forward masking both tables are the same; under backward
/// masking the weights are complete and the gradients a part of them.
struct LlamaSubnetwork {
  ParameterTable weights;
  ParameterTable gradients;  ///< rows that get a gradient, all of them rows of `weights`
  LlamaScales scales;        ///< of the sub-layer outputs; empty: all 1
};

/// A LLaMA decoder for training: forward, loss and backward over flat weight and gradient buffers.
///
/// The model is what its parameter table holds: a layer's heads and MLP width are read off the held
/// rows, and a sub-layer without rows does not exist, so that the skip path carries the signal past
/// it. It knows shapes, never ranks. All buffers are allocated by the constructor; a step allocates
/// nothing and does not wait for the device. RMSNorm and rotary embedding are Hugging Face's forms.
/// V is float or double.
template <class V>
class Llama {
 public:
  using Accum = kernels::accum_t<V>;
  using Tokens = Kokkos::View<std::int32_t const**, Kokkos::LayoutRight, MemSpace>;

  /// Buffers for batches of up to max_batch sequences of up to max_seq_len tokens. With
  /// `with_backward` false only forward passes are possible and no activation is kept.
  Llama(LlamaConfig const& config, ParameterTable const& table, index_t max_batch,
        index_t max_seq_len, Recompute recompute, bool with_backward);

  /// As above for a subnetwork: its output scales multiply what sub-layers add to the residual
  /// stream, and weight gradients are formed for the rows of its gradient table alone. Throws
  /// std::invalid_argument when a gradient row is not among the weights.
  Llama(LlamaConfig const& config, LlamaSubnetwork const& subnetwork, index_t max_batch,
        index_t max_seq_len, Recompute recompute, bool with_backward);

  /// Runs the layers on tokens (B,T) and keeps what backward needs.
  void forward(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens);

  /// Losses (N) of the last forward against targets (B,T), nats per token; a negative target counts
  /// for nothing and has loss 0.
  void loss(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
            View1<Accum> const& losses);

  /// As loss(), and starts backward: gradients of grad_scale * sum of losses for the head, and for
  /// the activations below it. `accumulate` adds to the gradients instead of overwriting them.
  /// Label smoothing is PyTorch's and changes both losses and gradients.
  void loss_backward(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
                     double grad_scale, bool accumulate, View1<V> const& grads,
                     View1<Accum> const& losses, double label_smoothing = 0.0);

  /// The rest of backward, after loss_backward. `tokens` are those of forward. The observer, when
  /// given, hears how much of the gradient buffer is final.
  void backward(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens,
                bool accumulate, View1<V> const& grads, BackwardObserver* observer);

  /// Logits (rows, V) of the tokens [first, first + rows) of the last forward, counted over B*T.
  void logits(ExecSpace const& exec, View1<V> const& weights, index_t first,
              View2<V> const& logits);

  LlamaConfig const& config() const { return m_config; }
  ParameterTable const& table() const { return m_table; }

 private:
  /// What backward needs of one sub-layer pair. With recomputation all layers share one set, but
  /// for their inputs.
  struct Layer {
    index_t heads = 0, kv_heads = 0, width = 0;  // H, K, F held here
    View1<V> attention_in;                       // (N,D) residual stream at the attention norm
    View1<V> mlp_in;                             // (N,D) residual stream at the MLP norm
    View1<Accum> attention_rstd;                 // (N)
    View1<Accum> mlp_rstd;                       // (N)
    View1<V> qkv;                                // (B,T,H+2K,h) rotated queries and keys, values
    View1<V> attention_out;                      // (N,H*h)
    View1<Accum> lse;                            // (B,H,T)
    View1<V> gate_up;                            // (N,2F)
    bool has_attention() const { return heads > 0; }
    bool has_mlp() const { return width > 0; }
  };

  /// The residual stream on its way up: its last stored value, and a branch not yet added to it.
  struct Stream {
    View1<V> value;
    bool pending_branch = false;
  };

  void norm_into(ExecSpace const& exec, View1<V> const& weights, int norm_tensor, Stream& stream,
                 View1<V> const& stored, View1<Accum> const& rstd);
  void attention_forward(ExecSpace const& exec, View1<V> const& weights, int layer, Stream& stream);
  void mlp_forward(ExecSpace const& exec, View1<V> const& weights, int layer, Stream& stream,
                   bool with_down);
  void recompute_layer(ExecSpace const& exec, View1<V> const& weights, int layer);
  void attention_backward(ExecSpace const& exec, View1<V> const& weights, int layer, double beta,
                          View1<V> const& grads, BackwardObserver* observer);
  void mlp_backward(ExecSpace const& exec, View1<V> const& weights, int layer, double beta,
                    View1<V> const& grads, BackwardObserver* observer);
  void norm_backward(ExecSpace const& exec, View1<V> const& weights, int norm_tensor,
                     View1<V> const& x, View1<Accum> const& rstd, View1<V> const& grads);
  index_t head_chunk() const;

  Window2<V> window(View1<V> const& buffer, index_t cols) const {
    return Window2<V>(buffer.data(), m_tokens, cols);
  }
  /// Rows of tensors that lie next to each other, seen as one (rows, D) matrix.
  Window2<V> adjacent(View1<V> const& flat, int first_tensor, index_t rows) const;

  LlamaConfig m_config;
  ParameterTable m_table;
  LlamaTensors m_where;
  Recompute m_recompute;
  index_t m_max_batch = 0;
  index_t m_max_seq_len = 0;
  index_t m_batch = 0;    // B of the last forward
  index_t m_seq_len = 0;  // T of the last forward
  index_t m_tokens = 0;   // N of the last forward
  bool m_with_backward = true;

  std::vector<Layer> m_layers;
  View2<Accum> m_cos;            // (max_seq_len, h/2)
  View2<Accum> m_sin;            // (max_seq_len, h/2)
  View1<V> m_embedded;           // (N,D)
  View1<V> m_final_in;           // (N,D) residual stream at the final norm
  View1<Accum> m_final_rstd;     // (N)
  View1<V> m_final_out;          // (N,D) normed
  View1<V> m_normed;             // (N,D)
  View1<V> m_branch;             // (N,D) sub-layer output; gradient of the normed input in backward
  View1<V> m_act;                // (N,max F) SwiGLU output; its gradient in backward
  View1<V> m_logits;             // (chunk,V)
  View1<V> m_d_stream;           // (N,D) gradient of the residual stream
  View1<V> m_d_attention;        // (N,max H*h)
  View1<V> m_d_qkv;              // (N,max (H+2K)*h)
  View1<Accum> m_delta;          // (B,max H,T)
  View2<Accum> m_norm_partials;  // (chunks,D)
  View1<std::int32_t> m_embedding_work;
};

extern template class Llama<float>;
extern template class Llama<double>;

}  // namespace sdp
