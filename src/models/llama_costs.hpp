// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/parameter_table.hpp"
#include "config/config.hpp"
#include "models/subnetwork_model.hpp"

namespace sdp {

/// FLOPs of one sample of seq_len tokens: 2 per token and weight in each part, causal attention
/// 2 * T^2 * h per query head forward and twice that in the activation gradient. `weights` says
/// what exists here and `gradients` what gets a gradient. With both complete the total is T times
/// llama_flops_per_token; attention scores
/// have no weight gradient and the embedding look-up costs nothing. Recomputation is not counted.
SampleFlops llama_sample_flops(LlamaConfig const& config, ParameterTable const& weights,
                               ParameterTable const& gradients, index_t seq_len);

/// Bytes that a Llama of the same arguments allocates as activations, split by what makes them
/// shrink.
struct LlamaActivationBytes {
  std::int64_t shared =
      0;  ///< once per model: residual stream, head, workspaces of the widest layer
  std::int64_t inputs = 0;  ///< kept for every sub-layer that exists, whatever its width
  std::int64_t inner = 0;   ///< kept in proportion to heads and neurons
  std::int64_t total() const { return shared + inputs + inner; }
};
LlamaActivationBytes llama_activation_bytes(LlamaConfig const& config,
                                            ParameterTable const& weights,
                                            ParameterTable const& gradients, index_t max_batch,
                                            index_t max_seq_len, Recompute recompute,
                                            std::size_t element_bytes);

}  // namespace sdp
