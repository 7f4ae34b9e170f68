// SPDX-License-Identifier: Apache-2.0
#include "models/llama_tensors.hpp"

#include <gtest/gtest.h>

namespace sdp {
namespace {

LlamaConfig shape(index_t v, index_t d, index_t f, index_t layers, index_t heads, index_t kv,
                  index_t head_dim, bool tied) {
  LlamaConfig config;
  config.vocab_size = v;
  config.hidden_size = d;
  config.intermediate_size = f;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv;
  config.head_dim = head_dim;
  config.tie_embeddings = tied;
  return config;
}

TEST(LlamaTensors, CountsThePublishedModels) {
  EXPECT_EQ(llama_parameters(shape(128256, 2048, 8192, 16, 32, 8, 64, true)), 1235814400);
  EXPECT_NEAR(static_cast<double>(llama_parameters(shape(32000, 768, 2048, 12, 12, 12, 64, false))),
              134.106e6, 1e3);
}

TEST(LlamaTensors, IndicesNameTheTensorsTheyPointAt) {
  for (bool tied : {false, true}) {
    const LlamaConfig config = shape(50, 16, 24, 3, 4, 2, 4, tied);
    const auto tensors = llama_tensors(config);
    const auto where = llama_tensor_indices(config);
    EXPECT_EQ(tensors[where.embedding].name, "model.embed_tokens.weight");
    EXPECT_EQ(tensors[where.head].name, tied ? "model.embed_tokens.weight" : "lm_head.weight");
    EXPECT_EQ(tensors[where.final_norm].name, "model.norm.weight");
    EXPECT_EQ(tensors[where.layers[1].key].name, "model.layers.1.self_attn.k_proj.weight");
    EXPECT_EQ(tensors[where.layers[2].down].name, "model.layers.2.mlp.down_proj.weight");
    EXPECT_TRUE(tensors[where.layers[2].down].transposed);
    EXPECT_EQ(tensors[where.layers[0].attention_norm].name,
              "model.layers.0.input_layernorm.weight");
    EXPECT_FALSE(tensors[where.layers[0].attention_norm].decay);
    EXPECT_EQ(where.layers[0].query + 1, where.layers[0].key);
    EXPECT_EQ(where.layers[0].key + 1, where.layers[0].value);
    EXPECT_EQ(where.layers[0].gate + 1, where.layers[0].up);
    EXPECT_LT(where.layers[2].down, where.layers[0].down);
  }
}

TEST(LlamaTensors, FlopsCountTheHeadButNotTheEmbedding) {
  const auto untied = shape(100, 8, 12, 1, 2, 2, 4, false);
  const double weights = static_cast<double>(llama_parameters(untied) - 100 * 8);
  EXPECT_DOUBLE_EQ(llama_flops_per_token(untied, 10), 6 * weights + 6.0 * 1 * 8 * 10);
  const auto tied = shape(100, 8, 12, 1, 2, 2, 4, true);
  EXPECT_DOUBLE_EQ(llama_flops_per_token(tied, 10), llama_flops_per_token(untied, 10));
}

}  // namespace
}  // namespace sdp
