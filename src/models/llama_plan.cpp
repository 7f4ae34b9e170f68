// SPDX-License-Identifier: Apache-2.0
#include "models/llama_plan.hpp"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>

#include "models/llama_tensors.hpp"

namespace sdp {

namespace {

constexpr index_t k_logits_elements = index_t{1} << 21;
constexpr index_t k_min_head_rows = 256;

/// Spans by tensor.
std::vector<std::vector<Span>> by_tensor(ParameterTable const& table) {
  std::vector<std::vector<Span>> spans(table.tensors().size());
  for (Span const& span : table.spans()) spans[span.tensor].push_back(span);
  return spans;
}

using SpanLists = std::vector<std::vector<Span>>;

/// Adds the held rows of one tensor, as columns of a matrix in which its weight rows start at
/// `first`. Neighbouring spans make one run.
void add_runs(TensorSpec const& tensor, std::vector<Span> const& weights,
              std::vector<Span> const& gradients, index_t first,
              std::vector<kernels::ColumnRun>& runs) {
  auto weight = weights.begin();
  for (Span const& span : gradients) {
    for (index_t row = span.row_begin; row < span.row_begin + span.rows;) {
      while (weight != weights.end() && weight->row_begin + weight->rows <= row) {
        first += weight->rows;
        ++weight;
      }
      if (weight == weights.end() || weight->row_begin > row)
        throw std::invalid_argument("Llama: row " + std::to_string(row) + " of " + tensor.name +
                                    " has a gradient but no weight");
      const index_t end = std::min(span.row_begin + span.rows, weight->row_begin + weight->rows);
      const index_t from = first + row - weight->row_begin;
      if (!runs.empty() && runs.back().from + runs.back().count == from)
        runs.back().count += end - row;
      else
        runs.push_back({from, runs.empty() ? 0 : runs.back().to + runs.back().count, end - row});
      row = end;
    }
  }
}

/// Runs of the tensors side by side; empty when they are everything or nothing.
std::vector<kernels::ColumnRun> held_runs(ParameterTable const& weights, SpanLists const& stored,
                                          SpanLists const& held,
                                          std::initializer_list<int> tensors) {
  std::vector<kernels::ColumnRun> runs;
  index_t columns = 0;
  for (int tensor : tensors) {
    add_runs(weights.tensors()[tensor], stored[tensor], held[tensor], columns, runs);
    columns += weights.held_rows(tensor);
  }
  if (runs.size() == 1 && runs[0].count == columns) runs.clear();
  return runs;
}

}  // namespace

LlamaPlan llama_plan(LlamaConfig const& config, ParameterTable const& weights,
                     ParameterTable const& gradients) {
  LlamaPlan plan;
  const auto where = llama_tensor_indices(config);
  const SpanLists stored = by_tensor(weights), held = by_tensor(gradients);
  for (LlamaLayerTensors const& t : where.layers) {
    LlamaLayerPlan layer;
    layer.heads = weights.held_rows(t.query) / config.head_dim;
    layer.kv_heads = weights.held_rows(t.key) / config.head_dim;
    layer.width = weights.held_rows(t.gate);
    layer.act = held_runs(weights, stored, held, {t.down});
    layer.gate_up = held_runs(weights, stored, held, {t.gate, t.up});
    layer.attention = held_runs(weights, stored, held, {t.output});
    layer.qkv = held_runs(weights, stored, held, {t.query, t.key, t.value});
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

}  // namespace sdp
