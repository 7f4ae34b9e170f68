// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/parameter_table.hpp"
#include "config/config.hpp"

namespace sdp {

/// The tensors of a dense LLaMA in the order in which backward finishes their gradients: head,
/// final norm, then layer by layer from the last to the first, embedding at the end. Names are
/// Hugging Face's. Query, key and value rows lie next to each other, as do gate and up, so that
/// each group is one GEMM; output and down projections are stored transposed (in, out), so that
/// attention heads and MLP neurons are rows of every tensor that they own.
std::vector<TensorSpec> llama_tensors(LlamaConfig const& config);

/// Where the tensors of one layer stand in the list above.
struct LlamaLayerTensors {
  int down, gate, up, mlp_norm, output, query, key, value, attention_norm;
};
struct LlamaTensors {
  int head;  ///< the embedding itself when tied
  int final_norm;
  std::vector<LlamaLayerTensors> layers;
  int embedding;
};
LlamaTensors llama_tensor_indices(LlamaConfig const& config);

/// Number of parameters of the dense model.
index_t llama_parameters(LlamaConfig const& config);

/// Model FLOPs of one training token, 6 * (non-embedding parameters, head included) plus causal
/// attention 6 * L * H * h * T: the numerator of the model FLOP utilisation.
double llama_flops_per_token(LlamaConfig const& config, index_t seq_len);

}  // namespace sdp
