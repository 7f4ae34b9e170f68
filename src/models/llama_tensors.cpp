// SPDX-License-Identifier: Apache-2.0
#include "models/llama_tensors.hpp"

#include <cmath>

namespace sdp {

namespace {

TensorSpec matrix(std::string name, index_t rows, index_t cols, double std,
                  bool transposed = false) {
  TensorSpec spec;
  spec.name = std::move(name);
  spec.shape = {rows, cols};
  spec.transposed = transposed;
  spec.rows = rows;
  spec.cols = cols;
  spec.decay = true;
  spec.init = Init::normal;
  spec.init_std = std;
  return spec;
}

TensorSpec norm_scale(std::string name, index_t size) {
  TensorSpec spec;
  spec.name = std::move(name);
  spec.shape = {size};
  spec.rows = 1;
  spec.cols = size;
  spec.decay = false;
  spec.init = Init::ones;
  return spec;
}

}  // namespace

std::vector<TensorSpec> llama_tensors(LlamaConfig const& c) {
  const double std = c.init_std;
  const double residual_std = std / std::sqrt(2.0 * static_cast<double>(c.num_layers));
  const index_t query_rows = c.num_heads * c.head_dim;
  const index_t key_rows = c.num_kv_heads * c.head_dim;
  const index_t d = c.hidden_size;
  std::vector<TensorSpec> list;
  if (!c.tie_embeddings) list.push_back(matrix("lm_head.weight", c.vocab_size, d, std));
  list.push_back(norm_scale("model.norm.weight", d));
  for (index_t layer = c.num_layers - 1; layer >= 0; --layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    list.push_back(
        matrix(prefix + "mlp.down_proj.weight", c.intermediate_size, d, residual_std, true));
    list.push_back(matrix(prefix + "mlp.gate_proj.weight", c.intermediate_size, d, std));
    list.push_back(matrix(prefix + "mlp.up_proj.weight", c.intermediate_size, d, std));
    list.push_back(norm_scale(prefix + "post_attention_layernorm.weight", d));
    list.push_back(matrix(prefix + "self_attn.o_proj.weight", query_rows, d, residual_std, true));
    list.push_back(matrix(prefix + "self_attn.q_proj.weight", query_rows, d, std));
    list.push_back(matrix(prefix + "self_attn.k_proj.weight", key_rows, d, std));
    list.push_back(matrix(prefix + "self_attn.v_proj.weight", key_rows, d, std));
    list.push_back(norm_scale(prefix + "input_layernorm.weight", d));
  }
  list.push_back(matrix("model.embed_tokens.weight", c.vocab_size, d, std));
  return list;
}

LlamaTensors llama_tensor_indices(LlamaConfig const& c) {
  LlamaTensors where;
  int next = 0;
  where.head = c.tie_embeddings ? -1 : next++;
  where.final_norm = next++;
  where.layers.resize(c.num_layers);
  for (index_t layer = c.num_layers - 1; layer >= 0; --layer) {
    LlamaLayerTensors& t = where.layers[layer];
    for (int* index : {&t.down, &t.gate, &t.up, &t.mlp_norm, &t.output, &t.query, &t.key, &t.value,
                       &t.attention_norm})
      *index = next++;
  }
  where.embedding = next;
  if (c.tie_embeddings) where.head = where.embedding;
  return where;
}

index_t llama_parameters(LlamaConfig const& config) {
  index_t total = 0;
  for (TensorSpec const& tensor : llama_tensors(config)) total += tensor.size();
  return total;
}

double llama_flops_per_token(LlamaConfig const& c, index_t seq_len) {
  const index_t embedding = c.tie_embeddings ? 0 : c.vocab_size * c.hidden_size;
  const double weights = static_cast<double>(llama_parameters(c) - embedding);
  return 6.0 * weights + 6.0 * static_cast<double>(c.num_layers) *
                             static_cast<double>(c.num_heads * c.head_dim) *
                             static_cast<double>(seq_len);
}

}  // namespace sdp
