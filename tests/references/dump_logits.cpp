// SPDX-License-Identifier: Apache-2.0
// Writes tokens (2, T) and the logits (2, T, V) that this project computes for them in fp32, for
// check_export.py to compare with transformers:
//
//   dump_logits CHECKPOINT FOLDER     writes FOLDER/model.safetensors
#include <Kokkos_Core.hpp>
#include <cstdio>
#include <filesystem>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/safetensors.hpp"
#include "models/llama.hpp"

namespace {

using namespace sdp;

void dump(std::string const& checkpoint, std::string const& folder) {
  constexpr index_t k_batch = 2;
  const CheckpointReader reader(checkpoint);
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
  std::filesystem::create_directories(folder);
  SafetensorsWriter writer(folder, {{"tokens", {k_batch, t}}, {"logits", {k_batch, t, v}}},
                           TensorType::f32);
  writer.write_rows("tokens", 0, k_batch, token_values.data());
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
  dump(argv[1], argv[2]);
  return 0;
}
