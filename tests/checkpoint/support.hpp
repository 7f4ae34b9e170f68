// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/parameter_table.hpp"
#include "checkpoint/checkpoint.hpp"
#include "config/config.hpp"

namespace sdp::checkpoint_test {

/// A folder of its own, removed at the end.
class Folder {
 public:
  explicit Folder(std::string const& name)
      : m_path((std::filesystem::temp_directory_path() /
                ("sdp_" + name + "_" + std::to_string(::getpid())))
                   .string()) {
    std::filesystem::remove_all(m_path);
    std::filesystem::create_directories(m_path);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(m_path, ignored);
  }
  std::string const& path() const { return m_path; }
  std::string operator/(std::string const& name) const { return m_path + "/" + name; }

 private:
  std::string m_path;
};

inline std::string read_file(std::string const& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

inline void write_file(std::string const& path, std::string const& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::vector<std::string> names_in(std::string const& folder) {
  std::vector<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// Runs f and gives the text of the error that it throws, with its class in front.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (ConfigError const& error) {
    return std::string("ConfigError: ") + error.what();
  } catch (DataError const& error) {
    return std::string("DataError: ") + error.what();
  } catch (std::exception const& error) {
    return std::string("other: ") + error.what();
  }
  return "no error";
}

inline LlamaConfig small_llama(bool tied = false) {
  LlamaConfig config;
  config.vocab_size = 37;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.max_seq_len = 16;
  config.rope_theta = 5000.0;
  config.rms_norm_eps = 1e-6;
  config.tie_embeddings = tied;
  config.init_std = 0.03;
  return config;
}

/// The tensors of a LLaMA with o_proj and down_proj transposed, the last first.
inline std::vector<TensorSpec> tensors_of(ModelConfig const& model) {
  LlamaConfig const& m = model.llama;
  std::vector<TensorSpec> tensors;
  auto add = [&](std::string const& name, std::vector<index_t> shape, bool transposed = false) {
    TensorSpec spec;
    spec.name = name;
    spec.rows = shape.size() == 1 ? 1 : shape[0];
    spec.cols = shape.back();
    spec.shape = std::move(shape);
    spec.transposed = transposed;
    tensors.push_back(std::move(spec));
  };
  const index_t q = m.num_heads * m.head_dim;
  const index_t kv = m.num_kv_heads * m.head_dim;
  if (!m.tie_embeddings) add("lm_head.weight", {m.vocab_size, m.hidden_size});
  add("model.norm.weight", {m.hidden_size});
  for (index_t i = m.num_layers - 1; i >= 0; --i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "mlp.down_proj.weight", {m.intermediate_size, m.hidden_size}, true);
    add(layer + "mlp.up_proj.weight", {m.intermediate_size, m.hidden_size});
    add(layer + "mlp.gate_proj.weight", {m.intermediate_size, m.hidden_size});
    add(layer + "post_attention_layernorm.weight", {m.hidden_size});
    add(layer + "self_attn.o_proj.weight", {q, m.hidden_size}, true);
    add(layer + "self_attn.v_proj.weight", {kv, m.hidden_size});
    add(layer + "self_attn.k_proj.weight", {kv, m.hidden_size});
    add(layer + "self_attn.q_proj.weight", {q, m.hidden_size});
    add(layer + "input_layernorm.weight", {m.hidden_size});
  }
  add("model.embed_tokens.weight", {m.vocab_size, m.hidden_size});
  return tensors;
}

inline CheckpointHeader small_header(bool tied = false) {
  CheckpointHeader header;
  header.model.llama = small_llama(tied);
  header.state.step = 42;
  header.state.samples = 1344;
  header.state.tokens = 21504;
  header.state.skipped = 1;
  header.state.seed = 0xfedcba9876543210u;
  header.state.best_val_loss = 2.5;
  header.deck = "[run]\nname = \"näme\"\n";
  header.mask = "{\"N\": 2}";
  return header;
}

/// A value that tells group, tensor and element apart, exact in float.
template <class T>
T value_of(int group, int tensor, index_t element) {
  return static_cast<T>((group * 31 + tensor + 1) * 4096 + element % 4093) / T(8);
}

/// Fills the elements of a flat buffer that the table holds.
template <class T>
View1<T> filled(ParameterTable const& table, int group) {
  View1<T> flat("flat", table.size());
  auto host = Kokkos::create_mirror_view(flat);
  for (Span const& span : table.spans()) {
    const index_t cols = table.tensors()[span.tensor].cols;
    for (index_t i = 0; i < span.rows * cols; ++i)
      host(span.offset + i) = value_of<T>(group, span.tensor, span.row_begin * cols + i);
  }
  Kokkos::deep_copy(flat, host);
  return flat;
}

/// Elements of the table's part of a flat buffer that differ from filled().
template <class T>
index_t mismatches(ParameterTable const& table, int group, View1<T> const& flat) {
  auto host = Kokkos::create_mirror_view(flat);
  Kokkos::deep_copy(host, flat);
  index_t wrong = 0;
  for (Span const& span : table.spans()) {
    const index_t cols = table.tensors()[span.tensor].cols;
    for (index_t i = 0; i < span.rows * cols; ++i)
      if (host(span.offset + i) != value_of<T>(group, span.tensor, span.row_begin * cols + i))
        ++wrong;
  }
  return wrong;
}

/// A small checkpoint written by this process alone.
template <class T>
void write_small(std::string const& path, CheckpointHeader const& header) {
  const ParameterTable table(tensors_of(header.model));
  std::vector<CheckpointBuffer<T>> buffers;
  int group = 0;
  for (char const* name : {k_group_model, k_group_exp_avg, k_group_exp_avg_sq})
    buffers.push_back(
        checkpoint_buffer<T>(name, table, {{0, table.size()}}, filled<T>(table, group++)));
  write_checkpoint<T>(nullptr, path, header, buffers);
}

}  // namespace sdp::checkpoint_test
