// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "config/config.hpp"
#include "models/backward_observer.hpp"
#include "models/forward_observer.hpp"
#include "models/llama_layer.hpp"
#include "models/llama_plan.hpp"
#include "models/llama_tensors.hpp"
#include "models/model.hpp"
#include "models/subnetwork_model.hpp"

namespace sdp {

// Shapes in this file: B sequences, T tokens each, N = B*T, D hidden size, H query heads, K
// key-value heads, h head_dim, F MLP width, V vocabulary. H, K and F are what this worker holds of
// a layer.

/// A LLaMA decoder for training: forward, loss and backward over flat weight and gradient buffers.
///
/// The model is what its parameter table holds: a layer's heads and MLP width are read off the held
/// rows, and a sub-layer without rows does not exist, so that the skip path carries the signal past
/// it. It knows shapes, never ranks. All buffers are allocated by the constructor; a step allocates
/// nothing and does not wait for the device. RMSNorm and rotary embedding are Hugging Face's forms.
/// V is float, double or bf16; weight gradients and losses are in the accumulation type of V.
template <class V>
class Llama : public Model<V> {
 public:
  using Accum = kernels::accum_t<V>;
  using Batch = ModelBatch<V>;
  using Tokens = Kokkos::View<std::int32_t const**, Kokkos::LayoutRight, MemSpace>;

  /// Buffers for batches of up to max_batch sequences of up to max_seq_len tokens. With
  /// `with_backward` false only forward passes are possible and no activation is kept. Output
  /// scales multiply what sub-layers add to the residual stream, and weight gradients are formed
  /// for the rows of the gradient table alone. Unless `deterministic`, backward may take algorithms
  /// that sum in any order (kernels::attention_backward). Throws std::invalid_argument when a
  /// gradient row is not among the weights.
  Llama(LlamaConfig const& config, ModelSubnetwork const& subnetwork, index_t max_batch,
        index_t max_seq_len, Recompute recompute, bool with_backward, bool deterministic = true);
  /// Weights and gradients of the same rows, nothing scaled.
  Llama(LlamaConfig const& config, ParameterTable const& table, index_t max_batch,
        index_t max_seq_len, Recompute recompute, bool with_backward)
      : Llama(config, ModelSubnetwork{table, table, {}}, max_batch, max_seq_len, recompute,
              with_backward) {}

  /// Runs the layers on tokens (B,T) and keeps what backward needs. The observer, when given, hears
  /// which weights are read next, here and in the losses below.
  void forward(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens,
               ForwardObserver* observer = nullptr);

  /// Losses (N) of the last forward against targets (B,T), nats per token; a negative target counts
  /// for nothing and has loss 0.
  void loss(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
            View1<Accum> const& losses, ForwardObserver* observer = nullptr);

  /// As loss(), and starts backward: gradients of grad_scale * sum of losses for the head, and for
  /// the activations below it. `accumulate` adds to the gradients instead of overwriting them.
  /// Label smoothing is PyTorch's and changes both losses and gradients.
  void loss_backward(ExecSpace const& exec, View1<V> const& weights, Tokens const& targets,
                     double grad_scale, bool accumulate, View1<Accum> const& grads,
                     View1<Accum> const& losses, double label_smoothing = 0.0,
                     ForwardObserver* observer = nullptr);

  /// The rest of backward, after loss_backward. `tokens` are those of forward. Every element of the
  /// gradient table is written. The observer, when given, hears how much of the gradient buffer is
  /// final.
  void backward(ExecSpace const& exec, View1<V> const& weights, Tokens const& tokens,
                bool accumulate, View1<Accum> const& grads, BackwardObserver* observer);

  /// Logits (rows, V) of the tokens [first, first + rows) of the last forward, counted over B*T.
  void logits(ExecSpace const& exec, View1<V> const& weights, index_t first,
              View2<V> const& logits);

  // The same for a batch of any model.
  void infer(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
             ForwardObserver* observer) override {
    forward(exec, weights, batch.tokens, observer);
  }
  void forward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
               bool /*accumulate*/, View1<Accum> const& /*grads*/,
               ForwardObserver* observer) override {
    forward(exec, weights, batch.tokens, observer);
  }
  void loss(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
            View1<Accum> const& losses, ForwardObserver* observer) override {
    loss(exec, weights, batch.targets, losses, observer);
  }
  void loss_backward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
                     double grad_scale, bool accumulate, View1<Accum> const& grads,
                     View1<Accum> const& losses, double label_smoothing) override {
    loss_backward(exec, weights, batch.targets, grad_scale, accumulate, grads, losses,
                  label_smoothing);
  }
  void backward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch, bool accumulate,
                View1<Accum> const& grads, BackwardObserver* observer) override {
    backward(exec, weights, batch.tokens, accumulate, grads, observer);
  }

  LlamaConfig const& config() const { return m_config; }
  ParameterTable const& table() const { return m_subnetwork.weights; }
  ParameterTable const& gradient_table() const { return m_subnetwork.gradients; }

 private:
  using Stream = LlamaStream<V>;
  using Pass = LlamaPass<V>;

  void allocate_layers();
  Pass make_pass(ExecSpace const& exec) const;
  void recompute_layer(Pass const& pass, View1<V> const& weights, int layer);
  void start_gradients(ExecSpace const& exec, View1<Accum> const& grads);
  LlamaLayerGradients<V> layer_gradients(View1<Accum> const& grads, int layer, double beta) const;
  LlamaLayerRows<V> layer_weights(View1<V> const& weights, int layer) const;
  double attention_scale(int layer) const { return branch_scale(2 * layer); }
  double mlp_scale(int layer) const { return branch_scale(2 * layer + 1); }
  double branch_scale(int branch) const {
    auto const& scales = m_subnetwork.branch_scales;
    return scales.empty() ? 1.0 : scales[static_cast<std::size_t>(branch)];
  }

  LlamaConfig m_config;
  ModelSubnetwork m_subnetwork;
  LlamaTensors m_where;
  LlamaPlan m_plan;
  Recompute m_recompute;
  bool m_deterministic = true;
  index_t m_max_batch = 0;
  index_t m_max_seq_len = 0;
  index_t m_batch = 0;    // B of the last forward
  index_t m_seq_len = 0;  // T of the last forward
  index_t m_tokens = 0;   // N of the last forward
  bool m_with_backward = true;

  /// Of each layer. With recomputation all layers share one set, but for their inputs.
  std::vector<LlamaLayerBuffers<V>> m_layers;
  LlamaScratch<V> m_scratch;
  View1<V> m_embedded;               // (N,D)
  View1<V> m_final_in;               // (N,D) residual stream at the final norm
  View1<Accum> m_final_rstd;         // (N)
  View1<V> m_final_out;              // (N,D) normed
  View1<kernels::ColumnRun> m_runs;  // (runs of all layers)
  View1<std::int32_t> m_embedding_work;
};

extern template class Llama<float>;
extern template class Llama<double>;
extern template class Llama<kernels::bf16>;

}  // namespace sdp
