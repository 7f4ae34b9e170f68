// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/parameter_table.hpp"
#include "config/config.hpp"
#include "kernels/nn/pack_columns.hpp"

namespace sdp {

/// Sizes of one layer as a worker holds it, and which of its weight gradients are formed.
struct LlamaLayerPlan {
  index_t heads = 0, kv_heads = 0, width = 0;  ///< H, K, F held here
  /// Columns of the activations that meet held gradient rows, where those are some but not all of
  /// the columns; empty where all or none are.
  std::vector<kernels::ColumnRun> act;        ///< of (N,F), for the down projection
  std::vector<kernels::ColumnRun> gate_up;    ///< of (N,2F)
  std::vector<kernels::ColumnRun> attention;  ///< of (N,H*h), for the output projection
  std::vector<kernels::ColumnRun> qkv;        ///< of (N,(H+2K)*h)

  bool has_attention() const { return heads > 0; }
  bool has_mlp() const { return width > 0; }
  /// Runs in all four lists.
  index_t runs() const {
    return static_cast<index_t>(act.size() + gate_up.size() + attention.size() + qkv.size());
  }
};

/// What the tables of a worker ask of a Llama: everything in them that sizes its buffers.
struct LlamaPlan {
  std::vector<LlamaLayerPlan> layers;
  index_t max_heads = 0, max_kv_heads = 0, max_width = 0;
  index_t packed_columns = 0;  ///< of the widest packed matrix; 0: nothing is packed
  index_t runs = 0;            ///< in all layers
  bool whole_layer = false;    ///< some layer has both attention and an MLP
};

/// Throws std::invalid_argument when a gradient row is not among the weights.
LlamaPlan llama_plan(LlamaConfig const& config, ParameterTable const& weights,
                     ParameterTable const& gradients);

/// Tokens whose logits exist at a time in a model for max_tokens tokens: enough for an efficient
/// GEMM, so few that logits never dominate memory.
index_t llama_head_rows(LlamaConfig const& config, index_t max_tokens);

/// Elements of the one buffer that an MLP, the backward pass of attention and the head take in turn
/// (LlamaScratch::act, d_qkv and logits).
index_t llama_work_size(LlamaConfig const& config, LlamaPlan const& plan, index_t max_tokens,
                        bool with_backward);
/// Elements of LlamaScratch::branch, which also holds d_attention.
index_t llama_branch_size(LlamaConfig const& config, LlamaPlan const& plan, index_t max_tokens,
                          bool with_backward);
/// Rows of LlamaScratch::partials, in which norms and the embedding sum gradients.
index_t llama_partial_rows(index_t max_tokens);

}  // namespace sdp
