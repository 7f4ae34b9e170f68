// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/huggingface.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/checkpoint/support.hpp"

namespace sdp {
namespace {

using checkpoint_test::error_of;
using checkpoint_test::Folder;
using checkpoint_test::read_file;
using checkpoint_test::small_llama;
using checkpoint_test::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(HuggingFaceConfig, RoundTrip) {
  const Folder folder("hf_config");
  const std::string path = folder / "config.json";
  for (bool tied : {false, true}) {
    const LlamaConfig config = small_llama(tied);
    write_hf_config(path, config, tied ? TensorType::bf16 : TensorType::f32);
    const LlamaConfig back = read_hf_config(path);
    EXPECT_EQ(back.vocab_size, config.vocab_size);
    EXPECT_EQ(back.hidden_size, config.hidden_size);
    EXPECT_EQ(back.intermediate_size, config.intermediate_size);
    EXPECT_EQ(back.num_layers, config.num_layers);
    EXPECT_EQ(back.num_heads, config.num_heads);
    EXPECT_EQ(back.num_kv_heads, config.num_kv_heads);
    EXPECT_EQ(back.head_dim, config.head_dim);
    EXPECT_EQ(back.max_seq_len, config.max_seq_len);
    EXPECT_EQ(back.rope_theta, config.rope_theta);
    EXPECT_EQ(back.rms_norm_eps, config.rms_norm_eps);
    EXPECT_EQ(back.tie_embeddings, tied);
    EXPECT_EQ(back.init_std, config.init_std);
    EXPECT_THAT(read_file(path), HasSubstr(tied ? "\"bfloat16\"" : "\"float32\""));
  }
}

/// The least that a config says, with `changes` merged in (null removes a key).
std::string config_text(nlohmann::json const& changes) {
  nlohmann::json config = {{"model_type", "llama"},  {"vocab_size", 100},
                           {"hidden_size", 16},      {"intermediate_size", 24},
                           {"num_hidden_layers", 3}, {"num_attention_heads", 4}};
  config.merge_patch(changes);
  return config.dump();
}

LlamaConfig read(nlohmann::json const& changes) {
  const Folder folder("hf_config_read");
  write_file(folder / "config.json", config_text(changes));
  return read_hf_config(folder / "config.json");
}

TEST(HuggingFaceConfig, DefaultsAndBothPlacesOfTheta) {
  const LlamaConfig config = read(nlohmann::json::object());
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.max_seq_len, 2048);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_EQ(config.init_std, 0.02);
  EXPECT_EQ(read({{"rope_theta", 500000}}).rope_theta, 500000.0);
  EXPECT_EQ(read({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7e5}}}}).rope_theta,
            7e5);
  EXPECT_EQ(read({{"rope_theta", 2e4}, {"rope_scaling", {{"type", "default"}}}}).rope_theta, 2e4);
  EXPECT_EQ(read({{"head_dim", 10}}).head_dim, 10);
  EXPECT_EQ(read({{"num_key_value_heads", 2}}).num_kv_heads, 2);
}

TEST(HuggingFaceConfig, RefusesWhatIsNotComputedAndNamesTheKey) {
  struct Case {
    nlohmann::json changes;
    char const* message;
  };
  const Case cases[] = {
      {{{"model_type", "mistral"}}, "model_type is \"mistral\"; only \"llama\" is supported"},
      {{{"model_type", nullptr}}, "model_type is missing"},
      {{{"architectures", {"LlamaForSequenceClassification"}}}, "architectures is"},
      {{{"architectures", "LlamaForCausalLM"}}, "architectures is"},
      {{{"hidden_act", "gelu"}}, "hidden_act is \"gelu\"; only \"silu\" is supported"},
      {{{"attention_bias", true}}, "attention_bias is true; only false is supported"},
      {{{"mlp_bias", true}}, "mlp_bias is true"},
      {{{"mlp_bias", "no"}}, "mlp_bias is \"no\"; true or false is expected"},
      {{{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}},
       "rope_scaling.rope_type is \"llama3\""},
      {{{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling.type is \"linear\""},
      {{{"rope_scaling", 2.0}}, "rope_scaling is 2.0; an object or null is expected"},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}}, "rope_parameters.rope_type is \"yarn\""},
      {{{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}, "partial_rotary_factor is 0.5"},
      {{{"rope_theta", 1e4}, {"rope_parameters", {{"rope_theta", 2e4}}}},
       "rope_parameters.rope_theta disagrees"},
      {{{"rope_theta", -1.0}}, "rope_theta is -1.0; a positive number is expected"},
      {{{"rope_theta", "big"}}, "rope_theta is \"big\""},
      {{{"quantization_config", {{"bits", 4}}}}, "quantization_config is given"},
      {{{"vocab_size", nullptr}}, "vocab_size is missing"},
      {{{"vocab_size", "100"}}, "vocab_size is \"100\"; a whole number from 1 to"},
      {{{"vocab_size", 0}}, "vocab_size is 0"},
      {{{"vocab_size", -5}}, "vocab_size is -5"},
      {{{"vocab_size", 100.5}}, "vocab_size is 100.5"},
      {{{"vocab_size", 18446744073709551615u}}, "vocab_size is 18446744073709551615"},
      {{{"num_hidden_layers", 2000000000}}, "num_hidden_layers is 2000000000"},
      {{{"num_key_value_heads", 3}}, "num_key_value_heads is 3, which does not divide"},
      {{{"num_attention_heads", 5}}, "num_attention_heads is 5, which does not divide"},
      {{{"head_dim", 5}}, "head_dim is 5; rotary embeddings need an even one"},
      {{{"rms_norm_eps", false}}, "rms_norm_eps is false"},
      {{{"tie_word_embeddings", 1}}, "tie_word_embeddings is 1"},
  };
  for (Case const& c : cases) {
    SCOPED_TRACE(c.changes.dump());
    EXPECT_THAT(
        error_of([&] { read(c.changes); }),
        AllOf(HasSubstr("ConfigError: "), HasSubstr("config.json: "), HasSubstr(c.message)));
  }
  const Folder folder("hf_config_broken");
  write_file(folder / "config.json", "{\"model_type\": ");
  EXPECT_THAT(error_of([&] { read_hf_config(folder / "config.json"); }),
              HasSubstr("is not valid JSON"));
  write_file(folder / "config.json", "[1]");
  EXPECT_THAT(error_of([&] { read_hf_config(folder / "config.json"); }),
              HasSubstr("is no JSON object"));
  EXPECT_THAT(error_of([&] { read_hf_config(folder / "other.json"); }), HasSubstr("cannot open"));
}

/// Writes the tensors of a model in the outside convention, all ones but for `odd`.
void write_model(std::string const& folder, std::vector<TensorSpec> const& tensors,
                 std::string const& odd = "") {
  std::vector<SafetensorsOutput> outputs;
  for (TensorSpec const& tensor : tensors)
    outputs.push_back({tensor.name, outside_shape(tensor.shape, tensor.transposed)});
  SafetensorsWriter writer(folder, outputs, TensorType::f32);
  for (SafetensorsOutput const& output : outputs) {
    index_t size = 1;
    for (index_t extent : output.shape) size *= extent;
    const std::vector<float> ones(static_cast<std::size_t>(size), output.name == odd ? 2.0f : 1.0f);
    writer.write_rows(output.name, 0, output.shape[0], ones.data());
  }
  writer.finish();
}

TEST(HuggingFaceTensors, DisagreementNamesTensorFoundAndExpected) {
  ModelConfig model;
  model.llama = small_llama();
  const std::vector<TensorSpec> tensors = checkpoint_test::tensors_of(model);
  auto complaint = [&](std::vector<TensorSpec> const& written, bool tied = false,
                       std::string const& odd = "") {
    const Folder folder("hf_tensors");
    write_model(folder.path(), written, odd);
    ModelConfig expected = model;
    expected.llama.tie_embeddings = tied;
    return error_of([&] {
      check_against_tensors("config.json", checkpoint_test::tensors_of(expected),
                            open_safetensors(folder.path()));
    });
  };
  EXPECT_EQ(complaint(tensors), "no error");
  auto changed = tensors;
  changed.erase(changed.begin() + 3);
  EXPECT_THAT(complaint(changed), AllOf(HasSubstr("have no tensor \"" + tensors[3].name + "\""),
                                        HasSubstr("shape [20, 12]")));
  changed = tensors;
  changed[2].shape = {12, 20};  // down_proj as (D, F) in storage: (F, D) outside
  EXPECT_THAT(complaint(changed), AllOf(HasSubstr("down_proj.weight\" has the shape [20, 12]"),
                                        HasSubstr("config.json expects [12, 20]")));
  changed = tensors;
  changed.push_back(changed[1]);
  changed.back().name = "model.extra.weight";
  EXPECT_THAT(complaint(changed),
              HasSubstr("\"model.extra.weight\" of shape [12] does not belong"));
  changed.back().name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  EXPECT_EQ(complaint(changed), "no error");
  EXPECT_EQ(complaint(tensors, true), "no error");
  EXPECT_THAT(complaint(tensors, true, "lm_head.weight"),
              HasSubstr("\"lm_head.weight\" differs from model.embed_tokens.weight"));
}

}  // namespace
}  // namespace sdp
