// SPDX-License-Identifier: Apache-2.0
#include "train/inputs.hpp"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.hpp"
#include "checkpoint/convert.hpp"
#include "config/load.hpp"
#include "config/names.hpp"
#include "data/glob.hpp"
#include "models/model_family.hpp"
#include "train/run_folder.hpp"

namespace sdp {

namespace fs = std::filesystem;

namespace {

/// By the first bytes, whatever the file is called.
bool is_checkpoint(std::string const& path) {
  constexpr std::string_view k_magic = "\x89HDF\r\n\x1a\n";
  if (fs::path(path).extension() == ".h5") return true;
  std::array<char, k_magic.size()> head{};
  std::ifstream file(path, std::ios::binary);
  file.read(head.data(), head.size());
  return file.good() && std::string_view(head.data(), head.size()) == k_magic;
}

/// ConfigError that names the first key in which the model of a file differs from the deck's.
void require_same_model(ModelConfig const& in_file, ModelConfig const& in_deck,
                        std::string const& path) {
  const auto same = [&](auto const& file, auto const& deck, char const* key) {
    if (file != deck)
      throw ConfigError(
          fmt::format("model.{} is {} in the deck, but {} in \"{}\"", key, deck, file, path));
  };
  same(to_string(in_file.kind), to_string(in_deck.kind), "kind");
  if (in_deck.kind == ModelKind::resnet18) {
    ResnetConfig const &found = in_file.resnet, &expected = in_deck.resnet;
    same(found.num_classes, expected.num_classes, "num_classes");
    same(found.in_channels, expected.in_channels, "in_channels");
    same(found.width, expected.width, "width");
    return;
  }
  LlamaConfig const &found = in_file.llama, &expected = in_deck.llama;
  same(found.vocab_size, expected.vocab_size, "vocab_size");
  same(found.hidden_size, expected.hidden_size, "hidden_size");
  same(found.intermediate_size, expected.intermediate_size, "intermediate_size");
  same(found.num_layers, expected.num_layers, "num_layers");
  same(found.num_heads, expected.num_heads, "num_heads");
  same(found.num_kv_heads, expected.num_kv_heads, "num_kv_heads");
  same(found.head_dim, expected.head_dim, "head_dim");
  same(found.tie_embeddings, expected.tie_embeddings, "tie_embeddings");
  same(found.rope_theta, expected.rope_theta, "rope_theta");
  same(found.rms_norm_eps, expected.rms_norm_eps, "rms_norm_eps");
}

/// What opening the initial weights tells; they are read later.
void check_weights(Config const& config) {
  std::string const& path = config.model.init_from;
  if (!is_checkpoint(path)) {
    require_same_model(open_import(path, model_tensors).model, config.model, path);
    return;
  }
  const CheckpointReader reader(path);
  require_same_model(reader.info().header.model, config.model, path);
  reader.check_tensors(model_tensors(config.model));
}

/// DataError where a checkpoint has no group that the optimizer of its own deck has filled.
void require_moments(CheckpointReader const& reader, OptimizerConfig const& optimizer) {
  std::vector<std::string> groups;
  if (optimizer.kind == OptimizerKind::adamw)
    groups = {k_group_exp_avg, k_group_exp_avg_sq};
  else if (optimizer.momentum != 0.0)
    groups = {k_group_momentum};
  for (std::string const& group : groups)
    if (!reader.has_group(group))
      throw DataError(reader.info().path + " has no group /" + group +
                      ", which the optimizer of its own deck has filled");
}

/// Whether the run of the deck can continue from a checkpoint: DataError where that is damaged,
/// ConfigError where it is of another model, another run or other data.
void check_resumable(CheckpointReader const& reader, Config const& config,
                     DataSet const& training_set) {
  CheckpointInfo const& info = reader.info();
  require_same_model(info.header.model, config.model, info.path);
  reader.check_tensors(model_tensors(config.model));
  if (!info.header.deck.empty()) {
    Launch launch;
    launch.training = false;
    const Config started = parse_deck(info.header.deck, info.path, {}, launch);
    require_same_run(started, config, info.path);
    require_moments(reader, started.optimizer);
  }
  const std::int64_t size = info.header.state.data_tokens;
  if (size > 0 && size != training_set.recorded_size())
    throw ConfigError(
        fmt::format("data.train has {} {} now, but {} when the run in \"{}\" was "
                    "saved: the training data cannot change on resume",
                    training_set.recorded_size(), training_set.has_tokens() ? "tokens" : "images",
                    size, info.path));
}

/// The texts that zero bytes end.
std::vector<std::string> divided(std::string const& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, '\0');) parts.push_back(part);
  return parts;
}

/// Steps of the run that a summary is of, -1 where there is none.
std::int64_t summary_steps(fs::path const& path) {
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file, nullptr, false);
  return json.is_object() ? json.value("steps", std::int64_t{-1}) : -1;
}

}  // namespace

DataSets open_data(World const& world, Config const& config, bool with_train) {
  return world.collectively([&] {
    DataSets sets;
    if (config.data.kind == DataKind::tokens) {
      const auto open = [&](char const* key, std::vector<std::string> const& patterns) {
        return std::make_unique<DataSet>(TokenDataset(key, expand_globs(key, patterns),
                                                      config.data.format, config.train.seq_len,
                                                      config.model.llama.vocab_size));
      };
      if (with_train) sets.train = open("data.train", config.data.train);
      if (!config.data.val.empty()) sets.val = open("data.val", config.data.val);
      return sets;
    }
    const auto open = [&](char const* key, std::vector<std::string> const& patterns) {
      return ImageSet(key, config.data.kind, expand_globs(key, patterns),
                      config.model.resnet.in_channels, config.model.resnet.num_classes);
    };
    // The training set says how images are normalised, also where it is not trained on.
    ImageSet train = open("data.train", config.data.train);
    const Normalization normalization = train.normalization();
    if (!config.data.val.empty())
      sets.val = std::make_unique<DataSet>(open("data.val", config.data.val), normalization);
    sets.train = std::make_unique<DataSet>(std::move(train), normalization);
    return sets;
  });
}

StartPoint find_start(World const& world, Config const& config, DataSet const& training_set) {
  const RunFolder folder(config.run.out_dir);
  std::string const& resume = config.checkpoint.resume;
  std::string list;  // of paths, each ended by a zero byte
  world.collectively([&] {
    if (!world.is_root()) return;
    folder.check(config);
    if (resume == "auto" && folder.holds_run())
      for (std::string const& path : resume_candidates(folder.checkpoints())) list += path + '\0';
    std::error_code error;
    if (resume != "auto" && resume != "never" && !fs::is_regular_file(resume, error))
      throw ConfigError("checkpoint.resume \"" + resume + "\" is not a file");
  });
  world.broadcast(list);

  StartPoint start;
  const auto check = [&config, &training_set](CheckpointReader const& reader) {
    check_resumable(reader, config, training_set);
  };
  if (resume == "auto")
    start.resume = ResumeChain(divided(list), config.run.out_dir, check);
  else if (resume != "never")
    start.resume = ResumeChain(resume, check);
  start.resume.open(world);
  if (start.resume) {
    const bool done = start.resume->info().header.state.step >= config.train.steps;
    start.finished = world.any(world.is_root() && done && fs::exists(folder.summary()));
    return start;
  }
  // A run without a checkpoint at its end is known by its summary.
  start.finished =
      resume == "auto" && world.any(world.is_root() && folder.holds_run() &&
                                    summary_steps(folder.summary()) >= config.train.steps);
  if (start.finished) return start;
  start.init_from = config.model.init_from;
  if (!start.init_from.empty()) world.collectively([&] { check_weights(config); });
  return start;
}

template <class V>
void load_weights(std::string const& path, ModelConfig const& expected, ParameterTable const& table,
                  std::vector<FlatPiece> const& pieces, View1<V> const& weights) {
  if (is_checkpoint(path)) {
    const CheckpointReader reader(path);
    require_same_model(reader.info().header.model, expected, path);
    reader.check_tensors(table.tensors());
    reader.read(k_group_model, table, pieces, weights);
    return;
  }
  const ImportSource source = open_import(path, model_tensors);
  require_same_model(source.model, expected, path);
  read_model(source.reader, table, pieces, weights);
}

template void load_weights<float>(std::string const&, ModelConfig const&, ParameterTable const&,
                                  std::vector<FlatPiece> const&, View1<float> const&);
template void load_weights<double>(std::string const&, ModelConfig const&, ParameterTable const&,
                                   std::vector<FlatPiece> const&, View1<double> const&);
template void load_weights<kernels::bf16>(std::string const&, ModelConfig const&,
                                          ParameterTable const&, std::vector<FlatPiece> const&,
                                          View1<kernels::bf16> const&);

}  // namespace sdp
