// SPDX-License-Identifier: Apache-2.0
#include "models/llama_plan.hpp"

#include <algorithm>

#include "kernels/core/team.hpp"
#include "kernels/nn/embedding.hpp"
#include "kernels/nn/rms_norm.hpp"
#include "models/held_runs.hpp"
#include "models/llama_tensors.hpp"

namespace sdp {

namespace {

// Tokens whose logits exist at a time. On a host their logits should stay in the cache. On a device
// each group of R tokens costs 6 R V D operations in three products and 8 V D bytes to read and
// write the float gradient of the weight (V,D): at 100 to 200 operations a byte the bytes take a
// fifth of the time for R = 1024 and less for more. There the logits of 2^26 elements are 128 MiB
// in bf16.
constexpr index_t k_logits_elements = index_t{1} << (kernels::k_is_host<ExecSpace> ? 21 : 26);
constexpr index_t k_min_head_rows = kernels::k_is_host<ExecSpace> ? 256 : 1024;

}  // namespace

LlamaPlan llama_plan(LlamaConfig const& config, ParameterTable const& weights,
                     ParameterTable const& gradients) {
  LlamaPlan plan;
  const auto where = llama_tensor_indices(config);
  const HeldRuns held(weights, gradients);
  for (LlamaLayerTensors const& t : where.layers) {
    LlamaLayerPlan layer;
    layer.heads = weights.held_rows(t.query) / config.head_dim;
    layer.kv_heads = weights.held_rows(t.key) / config.head_dim;
    layer.width = weights.held_rows(t.gate);
    layer.act = held.of({t.down});
    layer.gate_up = held.of({t.gate, t.up});
    layer.attention = held.of({t.output});
    layer.qkv = held.of({t.query, t.key, t.value});
    for (auto const* runs : {&layer.act, &layer.gate_up, &layer.attention, &layer.qkv}) {
      if (runs->empty()) continue;
      plan.packed_columns = std::max(plan.packed_columns, runs->back().to + runs->back().count);
    }
    plan.runs += layer.runs();
    plan.whole_layer |= layer.has_attention() && layer.has_mlp();
    plan.max_heads = std::max(plan.max_heads, layer.heads);
    plan.max_kv_heads = std::max(plan.max_kv_heads, layer.kv_heads);
    plan.max_width = std::max(plan.max_width, layer.width);
    plan.layers.push_back(std::move(layer));
  }
  return plan;
}

index_t llama_head_rows(LlamaConfig const& config, index_t max_tokens) {
  return std::min(std::max(k_min_head_rows, k_logits_elements / config.vocab_size), max_tokens);
}

index_t llama_work_size(LlamaConfig const& config, LlamaPlan const& plan, index_t max_tokens,
                        bool with_backward) {
  const index_t qkv = (plan.max_heads + 2 * plan.max_kv_heads) * config.head_dim;
  return std::max(max_tokens * std::max(plan.max_width, with_backward ? qkv : 0),
                  llama_head_rows(config, max_tokens) * config.vocab_size);
}

index_t llama_branch_size(LlamaConfig const& config, LlamaPlan const& plan, index_t max_tokens,
                          bool with_backward) {
  const index_t heads = with_backward ? plan.max_heads * config.head_dim : 0;
  return max_tokens * std::max(config.hidden_size, heads);
}

index_t llama_partial_rows(index_t max_tokens) {
  return std::max(kernels::rms_norm_backward_chunks(max_tokens),
                  kernels::embedding_backward_chunks<ExecSpace>(max_tokens));
}

}  // namespace sdp
