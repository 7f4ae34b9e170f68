// SPDX-License-Identifier: Apache-2.0
// Writes what this project computes in fp32, for check_export.py and check_resnet_export.py to
// compare with PyTorch: tokens (2, T) and logits (2, T, V) of a LLaMA, images (5, C, 32, 32) and
// logits (5, K) of a ResNet-18 in inference.
//
//   dump_logits CHECKPOINT FOLDER     writes FOLDER/model.safetensors
#include <Kokkos_Core.hpp>
#include <cstdio>
#include <filesystem>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/safetensors.hpp"
#include "models/llama.hpp"
#include "models/resnet.hpp"

namespace {

using namespace sdp;

void dump_llama(CheckpointReader const& reader, std::string const& folder) {
  constexpr index_t k_batch = 2;
  LlamaConfig const& config = reader.info().header.model.llama;
  const index_t t = std::min<index_t>(config.max_seq_len, 64), v = config.vocab_size;
  const ParameterTable table(llama_tensors(config));
  View1<float> weights("weights", table.size());
  reader.read(k_group_model, table, weights);
  View2<std::int32_t> tokens("tokens", k_batch, t);
  auto host_tokens = Kokkos::create_mirror_view(tokens);
  std::vector<float> token_values;
  for (index_t i = 0; i < k_batch * t; ++i) {
    host_tokens.data()[i] = static_cast<std::int32_t>((i * 7919 + 13) % v);
    token_values.push_back(static_cast<float>(host_tokens.data()[i]));
  }
  Kokkos::deep_copy(tokens, host_tokens);
  Llama<float> model(config, table, k_batch, t, Recompute::none, false);
  View2<float> logits("logits", k_batch * t, v);
  const ExecSpace exec;
  model.forward(exec, weights, tokens);
  model.logits(exec, weights, 0, logits);
  exec.fence();
  auto host_logits = Kokkos::create_mirror_view_and_copy(HostSpace(), logits);
  SafetensorsWriter writer(folder, {{"tokens", {k_batch, t}}, {"logits", {k_batch, t, v}}},
                           TensorType::f32);
  writer.write_rows("tokens", 0, k_batch, token_values.data());
  writer.write_rows("logits", 0, k_batch, host_logits.data());
  writer.finish();
}

void dump_resnet(CheckpointReader const& reader, std::string const& folder) {
  constexpr index_t k_batch = 5, k_size = k_resnet_image_size;
  ResnetConfig const& config = reader.info().header.model.resnet;
  const index_t channels = config.in_channels, classes = config.num_classes;
  const ParameterTable table(resnet_tensors(config));
  View1<float> weights("weights", table.size());
  reader.read(k_group_model, table, weights);
  View4<float> images("images", k_batch, k_size, k_size, channels);
  auto host_images = Kokkos::create_mirror_view(images);
  std::vector<float> values;  // (B, C, 32, 32), the order of PyTorch
  for (index_t b = 0; b < k_batch; ++b)
    for (index_t c = 0; c < channels; ++c)
      for (index_t y = 0; y < k_size; ++y)
        for (index_t x = 0; x < k_size; ++x) {
          const auto place = static_cast<index_t>(values.size());
          values.push_back(static_cast<float>(place * 7919 % 4093) / 1024.0f - 2.0f);
          host_images(b, y, x, c) = values.back();
        }
  Kokkos::deep_copy(images, host_images);
  Resnet<float> model(config, ModelSubnetwork{table, table, {}}, k_batch, false);
  View2<float> logits("logits", k_batch, classes);
  const ExecSpace exec;
  model.forward(exec, weights, images);
  model.logits(exec, weights, logits);
  exec.fence();
  auto host_logits = Kokkos::create_mirror_view_and_copy(HostSpace(), logits);
  SafetensorsWriter writer(
      folder, {{"images", {k_batch, channels, k_size, k_size}}, {"logits", {k_batch, classes}}},
      TensorType::f32);
  writer.write_rows("images", 0, k_batch, values.data());
  writer.write_rows("logits", 0, k_batch, host_logits.data());
  writer.finish();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: dump_logits CHECKPOINT FOLDER\n");
    return 2;
  }
  Kokkos::ScopeGuard guard(argc, argv);
  const CheckpointReader reader(argv[1]);
  std::filesystem::create_directories(argv[2]);
  if (reader.info().header.model.kind == ModelKind::llama)
    dump_llama(reader, argv[2]);
  else
    dump_resnet(reader, argv[2]);
  return 0;
}
