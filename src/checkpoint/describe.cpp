// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/describe.hpp"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_layout.hpp"

namespace sdp {

namespace layout = checkpoint_layout;

namespace {

/// 1234567 as "1,234,567".
std::string grouped(std::int64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    text += digits[i];
    const std::size_t left = digits.size() - 1 - i;
    if (left > 0 && left % 3 == 0 && digits[i] != '-') text += ',';
  }
  return text;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

}  // namespace

std::string describe(CheckpointInfo const& info) {
  std::string text;
  auto line = [&text](std::string const& key, std::string const& value) {
    text += key + std::string(key.size() < 16 ? 16 - key.size() : 1, ' ') + value + "\n";
  };
  TrainingState const& state = info.header.state;
  line("checkpoint", info.path);
  line("format", std::to_string(info.version) + ", written by " + info.written_by);
  line("size", grouped(info.bytes) + " bytes");
  for (StoredPart const& part : info.parts)
    line("part", part.file + ", " + grouped(part.bytes) + " bytes, ranks " +
                     std::to_string(part.first_rank) + " to " + std::to_string(part.last_rank));
  if (info.header.model.kind == ModelKind::llama) {
    LlamaConfig const& m = info.header.model.llama;
    line("model", "llama: vocabulary " + std::to_string(m.vocab_size) + ", hidden " +
                      std::to_string(m.hidden_size) + ", intermediate " +
                      std::to_string(m.intermediate_size) + ", layers " +
                      std::to_string(m.num_layers) + ", heads " + std::to_string(m.num_heads) +
                      ", kv heads " + std::to_string(m.num_kv_heads) + ", head dimension " +
                      std::to_string(m.head_dim) + ", context " + std::to_string(m.max_seq_len) +
                      (m.tie_embeddings ? ", tied" : ", untied"));
  } else {
    ResnetConfig const& m = info.header.model.resnet;
    line("model", "resnet18: classes " + std::to_string(m.num_classes) + ", channels " +
                      std::to_string(m.in_channels) + ", width " + std::to_string(m.width));
  }
  const auto statistics =
      std::count_if(info.tensors.begin(), info.tensors.end(),
                    [](StoredTensor const& tensor) { return layout::is_statistic(tensor.name); });
  const auto parameters = static_cast<std::int64_t>(info.tensors.size()) - statistics;
  line("parameters", grouped(info.parameters) + " in " + std::to_string(parameters) + " tensors, " +
                         (info.is_double ? "float64" : "float32"));
  if (statistics > 0)
    line("statistics", grouped(info.statistics) + " in " + std::to_string(statistics) + " tensors");
  std::string moments;
  for (std::string const& group : info.moments)
    moments += (moments.empty() ? "" : ", ") + group.substr(group.find('/') + 1);
  line("optimizer", moments.empty() ? "none" : moments);
  line("step", grouped(state.step) +
                   (state.skipped ? ", " + grouped(state.skipped) + " skipped" : std::string()));
  line("samples", grouped(state.samples));
  if (info.header.model.kind == ModelKind::llama) line("tokens", grouped(state.tokens));
  line("seed", std::to_string(state.seed));
  if (state.best_val_loss) line("best val_loss", number(*state.best_val_loss));
  line("deck", info.header.deck.empty() ? "none" : "recorded");
  line("mask", info.header.mask.empty() ? "none" : "recorded");
  return text;
}

std::string describe_json(CheckpointInfo const& info) {
  using nlohmann::ordered_json;
  TrainingState const& state = info.header.state;
  ordered_json model = ordered_json::object();
  if (info.header.model.kind == ModelKind::llama) {
    LlamaConfig const& llama = info.header.model.llama;
    for (auto const& field : layout::k_llama_sizes) model[field.name] = llama.*field.member;
    for (auto const& field : layout::k_llama_reals) model[field.name] = llama.*field.member;
    model["tie_embeddings"] = llama.tie_embeddings;
  } else {
    for (auto const& field : layout::k_resnet_sizes)
      model[field.name] = info.header.model.resnet.*field.member;
  }
  ordered_json tensors = ordered_json::array();
  for (StoredTensor const& tensor : info.tensors)
    tensors.push_back(ordered_json{
        {"name", tensor.name}, {"shape", tensor.shape}, {"transposed", tensor.transposed}});
  ordered_json json;
  json["path"] = info.path;
  json["format_version"] = info.version;
  json["written_by"] = info.written_by;
  json["kind"] = layout::kind_name(info.header.model.kind);
  json["step"] = state.step;
  json["samples"] = state.samples;
  json["tokens"] = state.tokens;
  json["skipped"] = state.skipped;
  json["seed"] = state.seed;
  json["best_val_loss"] = nullptr;
  if (state.best_val_loss) json["best_val_loss"] = *state.best_val_loss;
  json["model"] = std::move(model);
  json["parameters"] = info.parameters;
  json["statistics"] = info.statistics;
  json["type"] = info.is_double ? "float64" : "float32";
  json["bytes"] = info.bytes;
  json["parts"] = ordered_json::array();
  for (StoredPart const& part : info.parts)
    json["parts"].push_back(ordered_json{{"file", part.file},
                                         {"bytes", part.bytes},
                                         {"first_rank", part.first_rank},
                                         {"last_rank", part.last_rank}});
  json["moments"] = info.moments;
  json["has_deck"] = !info.header.deck.empty();
  json["has_mask"] = !info.header.mask.empty();
  json["tensors"] = std::move(tensors);
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace sdp
