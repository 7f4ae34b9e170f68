// SPDX-License-Identifier: Apache-2.0
#include "tests/support/references.hpp"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace sdp::test {

namespace {
std::string data_path(std::string const& name, char const* extension) {
  return std::string(SDP_TEST_REFERENCES) + "/" + name + extension;
}
}  // namespace

Reference::Reference(std::string const& name)
    : m_reader(open_safetensors(data_path(name, ".safetensors"))) {
  std::ifstream file(data_path(name, ".json"));
  const auto json = nlohmann::json::parse(file);
  if (json.contains("config")) {
    auto const& c = json["config"];
    m_config.vocab_size = c["vocab_size"];
    m_config.hidden_size = c["hidden_size"];
    m_config.intermediate_size = c["intermediate_size"];
    m_config.num_layers = c["num_hidden_layers"];
    m_config.num_heads = c["num_attention_heads"];
    m_config.num_kv_heads = c["num_key_value_heads"];
    m_config.head_dim = c["head_dim"];
    m_config.max_seq_len = c["max_position_embeddings"];
    m_config.rope_theta = c["rope_theta"];
    m_config.rms_norm_eps = c["rms_norm_eps"];
    m_config.tie_embeddings = c["tie_word_embeddings"];
  }
  if (json.contains("train")) {
    auto const& t = json["train"];
    m_steps = t["steps"];
    m_optimizer.lr = t["lr"];
    m_optimizer.beta1 = t["beta1"];
    m_optimizer.beta2 = t["beta2"];
    m_optimizer.eps = t["eps"];
    m_optimizer.weight_decay = t["weight_decay"];
    m_optimizer.grad_clip = t["grad_clip"];
    m_schedule.warmup_steps = t["warmup_steps"];
    m_schedule.final_ratio = t["final_ratio"];
  }
}

std::vector<index_t> Reference::shape(std::string const& tensor) const {
  auto const* found = m_reader.find(tensor);
  if (!found) throw std::runtime_error("reference has no tensor " + tensor);
  return found->shape;
}

std::vector<double> Reference::values(std::string const& tensor) const {
  auto const* found = m_reader.find(tensor);
  if (!found) throw std::runtime_error("reference has no tensor " + tensor);
  std::vector<double> out(static_cast<std::size_t>(found->elements));
  m_reader.read_rows(tensor, 0, found->rows(), out.data());
  return out;
}

std::vector<std::int32_t> Reference::integers(std::string const& tensor) const {
  std::vector<std::int32_t> out;
  for (double value : values(tensor)) out.push_back(static_cast<std::int32_t>(value));
  return out;
}

std::vector<double> Reference::stored(std::string const& prefix, TensorSpec const& spec) const {
  std::vector<double> outside = values(prefix + "." + spec.name);
  if (!spec.transposed) return outside;
  std::vector<double> turned(outside.size());
  for (index_t row = 0; row < spec.rows; ++row)
    for (index_t col = 0; col < spec.cols; ++col)
      turned[row * spec.cols + col] = outside[col * spec.rows + row];
  return turned;
}

double relative_error(std::vector<double> const& a, std::vector<double> const& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

}  // namespace sdp::test
