// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/huggingface.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "base/error.hpp"
#include "checkpoint/file_io.hpp"

namespace sdp {

using file_io::in_quotes;
using file_io::shape_text;
using nlohmann::json;

namespace {

constexpr std::int64_t k_longest_config = 16 << 20;

/// A JSON object with its place, for messages.
class Reader {
 public:
  Reader(std::string const& path, json const& object, std::string prefix = "")
      : m_path(path), m_object(object), m_prefix(std::move(prefix)) {}

  [[noreturn]] void fail(char const* key, std::string const& text) const {
    throw ConfigError(m_path + ": " + m_prefix + key + " " + text);
  }
  /// The value, nullptr where it is absent or null.
  json const* find(char const* key) const {
    auto at = m_object.find(key);
    return at == m_object.end() || at->is_null() ? nullptr : &*at;
  }
  /// The value as text, shortened.
  static std::string shown(json const& value) {
    const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    return text.size() > 60 ? text.substr(0, 60) + "..." : text;
  }

  index_t size(char const* key, std::optional<index_t> fallback = std::nullopt,
               index_t most = std::numeric_limits<std::int32_t>::max()) const {
    json const* value = find(key);
    if (value == nullptr && fallback) return *fallback;
    if (value == nullptr) fail(key, "is missing");
    // A number above 2^63 is held unsigned, so the sign is asked for first.
    if (!value->is_number_integer() ||
        (value->is_number_unsigned()
             ? value->get<std::uint64_t>() < 1 ||
                   value->get<std::uint64_t>() > static_cast<std::uint64_t>(most)
             : true))
      fail(key, "is " + shown(*value) + "; a whole number from 1 to " + std::to_string(most) +
                    " is expected");
    return value->get<index_t>();
  }
  double real(char const* key, double fallback, bool zero_allowed) const {
    json const* value = find(key);
    if (value == nullptr) return fallback;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number > 0.0 || (zero_allowed && number == 0.0)) || !std::isfinite(number))
      fail(key, "is " + shown(*value) + "; a positive number is expected");
    return number;
  }
  bool flag(char const* key, bool fallback) const {
    json const* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail(key, "is " + shown(*value) + "; true or false is expected");
    return value->get<bool>();
  }
  /// The value must be this string, or absent.
  void expect(char const* key, char const* allowed) const {
    json const* value = find(key);
    if (value != nullptr && *value != allowed)
      fail(key, "is " + shown(*value) + "; only \"" + allowed + "\" is supported");
  }

 private:
  std::string const& m_path;
  json const& m_object;
  std::string m_prefix;
};

/// Refuses every rotary embedding but the default one.
double read_rope_theta(std::string const& path, Reader const& root) {
  std::optional<double> theta;
  auto take = [&](Reader const& from, char const* key) {
    if (from.find(key) == nullptr) return;
    const double value = from.real(key, 0.0, false);
    if (theta && *theta != value)
      from.fail(key, "disagrees with the rope_theta given elsewhere in the file");
    theta = value;
  };
  take(root, "rope_theta");
  for (char const* key : {"rope_scaling", "rope_parameters"}) {
    json const* value = root.find(key);
    if (value == nullptr) continue;
    if (!value->is_object())
      root.fail(key, "is " + Reader::shown(*value) + "; an object or null is expected");
    const Reader rope(path, *value, std::string(key) + ".");
    rope.expect("rope_type", "default");
    rope.expect("type", "default");
    json const* partial = rope.find("partial_rotary_factor");
    if (partial != nullptr && !(partial->is_number() && *partial == 1.0))
      rope.fail("partial_rotary_factor", "is " + Reader::shown(*partial) + "; only 1 is supported");
    take(rope, "rope_theta");
  }
  return theta.value_or(10000.0);
}

bool same_elements(SafetensorsReader const& reader, std::string const& a, std::string const& b) {
  SafetensorsTensor const& first = *reader.find(a);
  SafetensorsTensor const& second = *reader.find(b);
  if (first.shape != second.shape || first.type == TensorType::other ||
      second.type == TensorType::other)
    return false;
  const index_t cols = std::max<index_t>(first.cols(), 1);
  const index_t step = std::max<index_t>(1, (index_t{1} << 20) / cols);
  std::vector<float> left;
  std::vector<float> right;
  for (index_t row = 0; row < first.rows(); row += step) {
    const index_t rows = std::min(step, first.rows() - row);
    left.resize(rows * cols);
    right.resize(rows * cols);
    reader.read_rows(a, row, rows, left.data());
    reader.read_rows(b, row, rows, right.data());
    if (left != right) return false;
  }
  return true;
}

json read_object(std::string const& path) {
  json document = json::parse(file_io::read_text(path, k_longest_config), nullptr, false);
  if (document.is_discarded()) throw ConfigError(path + " is not valid JSON");
  if (!document.is_object()) throw ConfigError(path + " is no JSON object");
  return document;
}

}  // namespace

std::string read_model_type(std::string const& path) {
  const json document = read_object(path);
  const auto type = document.find("model_type");
  return type != document.end() && type->is_string() ? type->get<std::string>() : "";
}

LlamaConfig read_hf_config(std::string const& path) {
  const json document = read_object(path);
  const Reader root(path, document);
  if (root.find("model_type") == nullptr) root.fail("model_type", "is missing");
  root.expect("model_type", "llama");
  if (json const* architectures = root.find("architectures")) {
    if (!architectures->is_array() || architectures->empty() ||
        architectures->front() != "LlamaForCausalLM")
      root.fail("architectures", "is " + Reader::shown(*architectures) +
                                     "; only [\"LlamaForCausalLM\"] is supported");
  }
  root.expect("hidden_act", "silu");
  for (char const* key : {"attention_bias", "mlp_bias"})
    if (root.flag(key, false)) root.fail(key, "is true; only false is supported");
  if (root.find("quantization_config") != nullptr)
    root.fail("quantization_config", "is given; quantised models are not supported");

  constexpr index_t k_most_layers = 10000;
  LlamaConfig config;
  config.vocab_size = root.size("vocab_size");
  config.hidden_size = root.size("hidden_size");
  config.intermediate_size = root.size("intermediate_size");
  config.num_layers = root.size("num_hidden_layers", std::nullopt, k_most_layers);
  config.num_heads = root.size("num_attention_heads");
  config.num_kv_heads = root.size("num_key_value_heads", config.num_heads);
  if (config.num_heads % config.num_kv_heads != 0)
    root.fail("num_key_value_heads", "is " + std::to_string(config.num_kv_heads) +
                                         ", which does not divide num_attention_heads = " +
                                         std::to_string(config.num_heads));
  if (root.find("head_dim") == nullptr && config.hidden_size % config.num_heads != 0)
    root.fail("num_attention_heads",
              "is " + std::to_string(config.num_heads) +
                  ", which does not divide hidden_size = " + std::to_string(config.hidden_size));
  config.head_dim = root.size("head_dim", config.hidden_size / config.num_heads);
  if (config.head_dim % 2 != 0)
    root.fail("head_dim",
              "is " + std::to_string(config.head_dim) + "; rotary embeddings need an even one");
  config.max_seq_len = root.size("max_position_embeddings", 2048);
  config.rope_theta = read_rope_theta(path, root);
  config.rms_norm_eps = root.real("rms_norm_eps", 1e-6, true);
  config.tie_embeddings = root.flag("tie_word_embeddings", false);
  config.init_std = root.real("initializer_range", 0.02, true);
  return config;
}

void write_hf_config(std::string const& path, LlamaConfig const& config, TensorType type) {
  nlohmann::ordered_json document;
  document["architectures"] = {"LlamaForCausalLM"};
  document["model_type"] = "llama";
  document["vocab_size"] = config.vocab_size;
  document["hidden_size"] = config.hidden_size;
  document["intermediate_size"] = config.intermediate_size;
  document["num_hidden_layers"] = config.num_layers;
  document["num_attention_heads"] = config.num_heads;
  document["num_key_value_heads"] = config.num_kv_heads;
  document["head_dim"] = config.head_dim;
  document["hidden_act"] = "silu";
  document["max_position_embeddings"] = config.max_seq_len;
  document["initializer_range"] = config.init_std;
  document["rms_norm_eps"] = config.rms_norm_eps;
  document["rope_theta"] = config.rope_theta;
  document["rope_scaling"] = nullptr;
  document["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", config.rope_theta}};
  document["tie_word_embeddings"] = config.tie_embeddings;
  document["attention_bias"] = false;
  document["mlp_bias"] = false;
  document["torch_dtype"] = type == TensorType::bf16 ? "bfloat16" : "float32";
  file_io::write_text(path, document.dump(2) + "\n");
}

std::vector<index_t> outside_shape(std::vector<index_t> shape, bool transposed) {
  if (transposed) std::swap(shape.at(0), shape.at(1));
  return shape;
}

void check_against_tensors(std::string const& config_path, std::vector<TensorSpec> const& tensors,
                           SafetensorsReader const& reader) {
  std::set<std::string> expected;
  for (TensorSpec const& tensor : tensors) {
    expected.insert(tensor.name);
    SafetensorsTensor const* found = reader.find(tensor.name);
    const std::vector<index_t> shape = outside_shape(tensor.shape, tensor.transposed);
    if (found == nullptr)
      throw ConfigError("the safetensors beside " + config_path + " have no tensor " +
                        in_quotes(tensor.name) + "; the config expects one of shape " +
                        shape_text(shape));
    const std::string where = reader.file_of(tensor.name) + ": tensor " + in_quotes(tensor.name);
    if (found->shape != shape)
      throw ConfigError(where + " has the shape " + shape_text(found->shape) + ", but " +
                        config_path + " expects " + shape_text(shape));
    if (found->type == TensorType::other)
      throw ConfigError(where + " has the element type " + found->type_name +
                        "; F32, F16, BF16 or F64 is expected");
  }
  const std::string embedding = "model.embed_tokens.weight";
  const std::string head = "lm_head.weight";
  constexpr std::string_view k_rotary = ".rotary_emb.inv_freq";
  for (SafetensorsTensor const& tensor : reader.tensors()) {
    if (expected.count(tensor.name)) continue;
    if (tensor.name.size() > k_rotary.size() &&
        tensor.name.compare(tensor.name.size() - k_rotary.size(), k_rotary.size(), k_rotary) == 0)
      continue;
    const std::string where = reader.file_of(tensor.name) + ": tensor " + in_quotes(tensor.name);
    if (tensor.name == head && expected.count(embedding)) {
      if (same_elements(reader, head, embedding)) continue;
      throw ConfigError(where + " differs from " + embedding + ", but " + config_path +
                        " says that the embeddings are tied");
    }
    throw ConfigError(where + " of shape " + shape_text(tensor.shape) +
                      " does not belong to the model that " + config_path + " describes");
  }
}

}  // namespace sdp
