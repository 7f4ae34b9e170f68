// SPDX-License-Identifier: Apache-2.0
#include "train/describe_run.hpp"

#include <fmt/format.h>

#include "train/progress.hpp"

namespace sdp {

std::string model_title(ModelConfig const& model) {
  if (model.kind == ModelKind::resnet18)
    return fmt::format("ResNet-18 (width {}, {} classes)", model.resnet.width,
                       model.resnet.num_classes);
  LlamaConfig const& m = model.llama;
  return fmt::format("LLaMA (V {}, D {}, L {}, H {}/{}, F {})", m.vocab_size, m.hidden_size,
                     m.num_layers, m.num_heads, m.num_kv_heads, m.intermediate_size);
}

std::string describe_data(DataSet const& data) {
  if (!data.has_tokens()) return fmt::format("{} images", data.num_samples());
  TokenDataset const& tokens = data.tokens();
  return fmt::format("{} tokens in {} shard{}, {} samples",
                     short_count(static_cast<double>(tokens.num_tokens())), tokens.num_shards(),
                     tokens.num_shards() == 1 ? "" : "s", tokens.num_samples());
}

}  // namespace sdp
