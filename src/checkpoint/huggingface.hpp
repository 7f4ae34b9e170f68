// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/parameter_table.hpp"
#include "checkpoint/safetensors.hpp"
#include "config/config.hpp"

namespace sdp {

/// Reads the config.json of a Hugging Face LLaMA. Refused with a ConfigError that names file and
/// key: anything that this project does not compute (another architecture or activation, biases,
/// rope scaling, quantisation), a wrong type, a size out of range, heads that do not divide.
/// Defaults are those of the format: num_key_value_heads = H, head_dim = D / H, rope_theta 10000
/// (from `rope_theta` or `rope_parameters`), rms_norm_eps 1e-6, max_position_embeddings 2048.
LlamaConfig read_hf_config(std::string const& path);

/// The config.json of `config`, which transformers 4 and 5 load; `type` is the element type of the
/// safetensors beside it. Temporary name, then rename; DataError.
void write_hf_config(std::string const& path, LlamaConfig const& config, TensorType type);

/// The model_type of a config.json, empty where it names none. ConfigError where the file is no
/// JSON object.
std::string read_model_type(std::string const& path);

/// A shape of storage in the outside (out, in, ...) convention: transposed storage has the first
/// two axes swapped.
std::vector<index_t> outside_shape(std::vector<index_t> shape, bool transposed);

/// Checks that the file holds exactly the tensors of the model (name, shape, readable element
/// type). The rotary `inv_freq` buffers of old exports are passed over, and so is an lm_head.weight
/// that repeats tied embeddings element by element. Throws ConfigError naming config, file, tensor,
/// what was found and what was expected.
void check_against_tensors(std::string const& config_path, std::vector<TensorSpec> const& tensors,
                           SafetensorsReader const& reader);

}  // namespace sdp
