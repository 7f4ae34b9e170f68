// SPDX-License-Identifier: Apache-2.0
#include "models/llama_costs.hpp"

#include "kernels/nn/embedding.hpp"
#include "models/llama_plan.hpp"
#include "models/llama_tensors.hpp"

namespace sdp {

SampleFlops llama_sample_flops(LlamaConfig const& config, ParameterTable const& weights,
                               ParameterTable const& gradients, index_t seq_len) {
  const auto where = llama_tensor_indices(config);
  const LlamaPlan plan = llama_plan(config, weights, gradients);
  // Elements that are multiplied with every token, and those of them that get a gradient. The norm
  // of a sub-layer without rows is not computed.
  std::int64_t used = 0, updated = 0, query_width = 0;
  const auto count = [&](int tensor) {
    used += weights.held_size(tensor);
    updated += gradients.held_size(tensor);
  };
  count(where.head);
  count(where.final_norm);
  for (std::size_t l = 0; l < plan.layers.size(); ++l) {
    LlamaLayerTensors const& t = where.layers[l];
    LlamaLayerPlan const& layer = plan.layers[l];
    if (layer.has_attention())
      for (int tensor : {t.attention_norm, t.query, t.key, t.value, t.output}) count(tensor);
    if (layer.has_mlp())
      for (int tensor : {t.mlp_norm, t.gate, t.up, t.down}) count(tensor);
    query_width += layer.heads * config.head_dim;
  }
  const std::int64_t scores = 2 * seq_len * seq_len * query_width;
  SampleFlops flops;
  flops.forward = 2 * seq_len * used + scores;
  flops.activation_gradient = 2 * seq_len * used + 2 * scores;
  flops.weight_gradient = 2 * seq_len * updated;
  return flops;
}

LlamaActivationBytes llama_activation_bytes(LlamaConfig const& config,
                                            ParameterTable const& weights,
                                            ParameterTable const& gradients, index_t max_batch,
                                            index_t max_seq_len, Recompute recompute,
                                            std::size_t element_bytes) {
  const LlamaPlan plan = llama_plan(config, weights, gradients);
  const index_t n = max_batch * max_seq_len;
  const index_t d = config.hidden_size;
  const index_t h = config.head_dim;
  // Kokkos rounds every allocation up to 8 bytes. Sums and statistics of two-byte types take four.
  const auto bytes = [](index_t count, std::size_t size) {
    return (count * static_cast<index_t>(size) + 7) / 8 * 8;
  };
  const auto values = [&](index_t count) { return bytes(count, element_bytes); };
  const auto accums = [&](index_t count) {
    return bytes(count, element_bytes < sizeof(float) ? sizeof(float) : element_bytes);
  };
  const auto inner = [&](index_t heads, index_t kv, index_t width) {
    return values(n * (heads + 2 * kv) * h) + values(n * heads * h) + accums(n * heads) +
           values(n * 2 * width);
  };
  const auto statistics = [&](bool attention, bool mlp) {
    return (attention ? accums(n) : 0) + (mlp ? accums(n) : 0);
  };

  LlamaActivationBytes total;
  total.shared = 2 * accums(max_seq_len * (h / 2))                   // cos, sin
                 + 4 * values(n * d)                                 // normed, embedded, final_out,
                                                                     // d_stream
                 + values(llama_branch_size(config, plan, n, true))  // branch
                 + values(llama_work_size(config, plan, n, true))    // act, d_qkv, logits
                 + accums(n)                                         // final_rstd
                 + accums(n * plan.max_heads)                        // delta
                 + accums(llama_partial_rows(n) * d)                 // partials
                 + values(n * plan.packed_columns) + bytes(plan.runs, sizeof(kernels::ColumnRun)) +
                 bytes(kernels::embedding_backward_workspace<ExecSpace>(n), sizeof(std::int32_t));
  const bool recomputed = recompute == Recompute::block;
  if (recomputed)
    total.shared += (plan.whole_layer ? values(n * d) : 0)  // mlp_in
                    + inner(plan.max_heads, plan.max_kv_heads, plan.max_width) +
                    statistics(plan.max_heads > 0, plan.max_width > 0);

  // The first sub-layer reads the embedded batch where it lies; every other, and the final norm,
  // keeps an input of its own.
  bool first = true;
  const auto input = [&](bool reused) {
    if (!first && !reused) total.inputs += values(n * d);
    first = false;
  };
  for (LlamaLayerPlan const& layer : plan.layers) {
    if (layer.has_attention()) input(false);
    if (layer.has_mlp()) input(recomputed && layer.has_attention());
    if (recomputed) continue;
    total.inputs += statistics(layer.has_attention(), layer.has_mlp());
    total.inner += inner(layer.heads, layer.kv_heads, layer.width);
  }
  input(false);
  return total;
}

}  // namespace sdp
