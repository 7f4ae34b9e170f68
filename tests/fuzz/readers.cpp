// SPDX-License-Identifier: Apache-2.0
#include <hdf5.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <typeinfo>

#include "base/error.hpp"
#include "checkpoint/checkpoint.hpp"
#include "checkpoint/describe.hpp"
#include "checkpoint/huggingface.hpp"
#include "checkpoint/resnet_file.hpp"
#include "checkpoint/safetensors.hpp"
#include "config/load.hpp"
#include "config/supported.hpp"
#include "data/image_files.hpp"
#include "data/token_dataset.hpp"
#include "tests/checkpoint/resnet_support.hpp"
#include "tests/checkpoint/support.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace sdp::fuzz {

namespace {

namespace fs = std::filesystem;

/// Writes the files into a folder, in place of those of the bundle before.
std::string put(Bundle const& bundle) {
  static const fs::path folder = scratch_folder() + "/input";
  static std::vector<std::string> before;
  fs::create_directories(folder);
  for (auto const& name : before)
    if (!bundle.count(name)) fs::remove(folder / name);
  before.clear();
  for (auto const& [name, content] : bundle) {
    fs::create_directories((folder / name).parent_path());
    std::ofstream out(folder / name, std::ios::binary | std::ios::trunc);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    if (!out.flush()) finding("cannot write " + (folder / name).string());
    before.push_back(name);
  }
  return folder.string();
}

/// One sentence that names the file: no line breaks or other control bytes, of readable length.
void check_sentence(std::string const& text, std::string const& named) {
  constexpr std::size_t k_longest = 2000;
  const bool control = std::any_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (text.empty() || text.size() > k_longest || control)
    finding("the message is no sentence: " + text);
  if (text.find(named) == std::string::npos)
    finding("the message does not name " + named + ": " + text);
}

template <class F>
Result result_of(std::string const& named, F&& read) {
  Result result;
  try {
    result.content = read();
    result.accepted = true;
  } catch (Error const& error) {
    if (error.code() != ExitCode::usage && error.code() != ExitCode::data)
      finding(std::string("unexpected class of error: ") + error.what());
    result.error = error.what();
    check_sentence(result.error, named);
  } catch (std::exception const& error) {
    finding(std::string("exception ") + typeid(error).name() + ": " + error.what());
  }
  return result;
}

template <class T>
void append(std::string& text, std::vector<T> const& values) {
  text.append(reinterpret_cast<char const*>(values.data()), values.size() * sizeof(T));
}

/// Everything that a checkpoint holds. Elements are read twice: in whole tensors, and in a part
/// that starts and ends inside.
Result run_checkpoint(Bundle const& bundle) {
  const std::string path = put(bundle) + "/checkpoint";  // or one of its parts
  Result result = result_of(path, [&] {
    const CheckpointReader reader(path + ".h5");
    CheckpointInfo info = reader.info();
    info.bytes = 0;  // bytes after the end of what HDF5 has written are not part of the content
    std::string all = describe(info) + describe_json(info) + info.header.deck + info.header.mask;
    std::vector<std::string> groups = info.moments;
    groups.push_back(k_group_model);
    for (std::string const& group : groups) {
      for (StoredTensor const& tensor : info.tensors) {
        std::vector<double> values(static_cast<std::size_t>(tensor.elements));
        reader.read_elements(group, tensor.name, 0, tensor.elements, values.data());
        const index_t begin = tensor.elements / 3;
        std::vector<float> part(static_cast<std::size_t>(tensor.elements / 2));
        reader.read_elements(group, tensor.name, begin, tensor.elements / 2, part.data());
        for (std::size_t i = 0; i < part.size(); ++i) {
          const auto whole = static_cast<float>(values[static_cast<std::size_t>(begin) + i]);
          if (std::memcmp(&part[i], &whole, sizeof(float)) != 0 && whole == whole)
            finding("part and whole of " + group + "/" + tensor.name + " differ");
        }
        append(all, values);
      }
    }
    return all;
  });
  if (H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) != 0)
    finding("the reader leaves HDF5 objects open");
  return result;
}

/// Tokens as the format defines them, from the bytes of the file.
std::vector<std::int32_t> decode_tokens(std::string const& bytes, TokenFormat format) {
  const std::size_t begin = format == TokenFormat::nanogpt_u16 ? 0 : 1024;
  std::size_t width = 2;
  if (begin != 0) {
    std::int32_t words[3];
    std::memcpy(words, bytes.data(), sizeof(words));
    if (words[0] == k_llama3_magic) width = 4;
    if (words[2] < 1 || bytes.size() != begin + static_cast<std::size_t>(words[2]) * width)
      finding("a shard whose size disagrees with its count was accepted");
  }
  std::vector<std::int32_t> tokens;
  for (std::size_t at = begin; at + width <= bytes.size(); at += width) {
    std::uint32_t token = 0;
    std::memcpy(&token, bytes.data() + at, width);
    tokens.push_back(static_cast<std::int32_t>(token));
  }
  return tokens;
}

std::string read_shard(std::string const& path, std::string const& bytes, TokenFormat format) {
  TokenShard shard(path, format);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(shard.num_tokens()));
  shard.read(0, shard.num_tokens(), tokens.data());
  if (tokens != decode_tokens(bytes, format)) finding("the tokens are not those of the file");
  std::string all;
  append(all, tokens);
  // The samples of a data set are its tokens in pieces.
  constexpr index_t k_seq_len = 7;
  constexpr index_t k_vocab_size = 300;
  if (shard.num_tokens() <= k_seq_len) return all;
  TokenDataset data("data.train", {path}, format, k_seq_len, k_vocab_size);
  std::vector<std::int32_t> row(k_seq_len + 1);
  for (index_t sample = 0; sample < data.num_samples(); ++sample) {
    data.read(sample, row.data());
    if (!std::equal(row.begin(), row.end(), tokens.begin() + sample * k_seq_len) ||
        std::any_of(row.begin(), row.end(),
                    [](std::int32_t token) { return token < 0 || token >= k_vocab_size; }))
      finding("a sample is not what the shard holds");
  }
  return all;
}

Result run_token_shard(Bundle const& bundle) {
  const std::string path = put(bundle) + "/shard.bin";
  static const std::string none;
  const auto found = bundle.find("shard.bin");
  std::string const& bytes = found == bundle.end() ? none : found->second;
  result_of(path, [&] { return read_shard(path, bytes, TokenFormat::nanogpt_u16); });
  return result_of(path, [&] { return read_shard(path, bytes, TokenFormat::automatic); });
}

/// All files of the bundle as one data set.
std::string read_image_files(std::string const& folder, Bundle const& bundle, DataKind kind,
                             index_t channels, index_t classes) {
  std::vector<std::string> files;
  for (auto const& [name, content] : bundle) files.push_back(folder + "/" + name);
  std::string all;
  for (ImageFile const& file : examine_images(folder, kind, files, channels)) {
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(file.count * file.image_bytes()));
    std::vector<std::uint8_t> labels(static_cast<std::size_t>(file.count));
    read_images(file, kind, classes, pixels.data(), labels.data());
    for (std::uint8_t label : labels)
      if (label >= classes) finding("a label out of range was accepted");
    append(all, pixels);
    append(all, labels);
  }
  return all;
}

Result run_cifar(Bundle const& bundle) {
  constexpr index_t k_channels = 3;
  const std::string folder = put(bundle);
  result_of(folder,
            [&] { return read_image_files(folder, bundle, DataKind::cifar100, k_channels, 100); });
  return result_of(folder, [&] {
    const std::string all = read_image_files(folder, bundle, DataKind::cifar10, k_channels, 10);
    std::size_t bytes = 0;
    for (auto const& [name, content] : bundle) bytes += content.size();
    if (all.size() != bytes) finding("a part of a CIFAR file was passed over");
    return all;
  });
}

Result run_idx(Bundle const& bundle) {
  const std::string folder = put(bundle);
  return result_of(folder, [&] { return read_image_files(folder, bundle, DataKind::idx, 1, 10); });
}

/// A Hugging Face folder: config.json, one safetensors file or shards with their index.
Result run_huggingface(Bundle const& bundle) {
  const std::string folder = put(bundle);
  return result_of(folder, [&] {
    const SafetensorsReader reader = open_safetensors(folder);
    std::string all;
    std::int64_t bytes = 0;
    for (SafetensorsTensor const& tensor : reader.tensors()) {
      all += reader.file_of(tensor.name) + tensor.name + tensor.type_name;
      append(all, tensor.shape);
      bytes += tensor.bytes;
      if (tensor.type == TensorType::other) continue;
      std::vector<double> values(static_cast<std::size_t>(tensor.elements));
      reader.read_rows(tensor.name, 0, tensor.rows(), values.data());
      std::vector<float> column(static_cast<std::size_t>(tensor.rows()));
      if (tensor.cols() > 0) {
        reader.read_block(tensor.name, 0, tensor.rows(), tensor.cols() - 1, 1, column.data());
        for (std::size_t i = 0; i < column.size(); ++i) {
          const double whole = values[(i + 1) * static_cast<std::size_t>(tensor.cols()) - 1];
          if (whole == whole && column[i] != static_cast<float>(whole))
            finding("a column and the whole of " + tensor.name + " differ");
        }
      }
      append(all, values);
    }
    for (auto const& [name, content] : bundle) bytes -= static_cast<std::int64_t>(content.size());
    if (bytes > 0) finding("the tensors are larger than the files");

    ModelConfig model;
    model.llama = read_hf_config(folder + "/config.json");
    LlamaConfig const& llama = model.llama;
    for (index_t size : {llama.vocab_size, llama.hidden_size, llama.intermediate_size,
                         llama.num_layers, llama.num_heads, llama.num_kv_heads, llama.head_dim})
      if (size < 1 || size > INT32_MAX) finding("a size out of range was accepted");
    check_against_tensors(folder + "/config.json", checkpoint_test::tensors_of(model), reader);
    return all;
  });
}

/// The safetensors of a ResNet-18 under PyTorch's names. An accepted file has every tensor of the
/// model, in the right shape, and nothing that belongs to another one.
Result run_resnet(Bundle const& bundle) {
  const std::string folder = put(bundle);
  return result_of(folder, [&] {
    const std::string path = folder + "/model.safetensors";
    const SafetensorsReader reader = open_safetensors(path);
    ModelConfig model;
    model.kind = ModelKind::resnet18;
    model.resnet = read_resnet_shape(path, reader);
    if (!has_resnet_names(reader)) finding("a shape was read from names of another model");
    const std::vector<TensorSpec> tensors = checkpoint_test::resnet_tensors_of(model);
    check_resnet_tensors(path, tensors, reader);
    std::string all;
    std::size_t counters = 0;
    for (TensorSpec const& tensor : tensors) {
      SafetensorsTensor const* found = reader.find(tensor.name);
      if (found == nullptr || found->elements != tensor.size())
        finding("a file without " + tensor.name + " was accepted");
      std::vector<float> values(static_cast<std::size_t>(found->elements));
      reader.read_rows(tensor.name, 0, found->rows(), values.data());
      append(all, values);
      const std::string counter = batch_counter_of(tensor.name);
      counters += !counter.empty() && reader.find(counter) != nullptr;
    }
    if (reader.tensors().size() != tensors.size() + counters)
      finding("a tensor of another model was accepted");
    return all;
  });
}

/// The resolved text of an accepted deck must give the same deck.
std::string check_round_trip(Config const& config, Launch const& launch) {
  const std::string text = to_toml(config);
  try {
    if (!(parse_deck(text, "resolved deck", {}, launch) == config))
      finding("the resolved deck is another deck:\n" + text);
  } catch (Error const& error) {
    finding(std::string("the resolved deck is refused: ") + error.what() + "\n" + text);
  }
  return text;
}

Result run_deck(Bundle const& bundle) {
  const std::string path = put(bundle) + "/deck.toml";
  const auto read = [&](Launch const& launch) {
    return result_of(path, [&] {
      const Config config = load_deck(path, {}, launch);
      return check_round_trip(config, launch);
    });
  };
  read({.ranks = 4, .training = false});
  return read({.ranks = 2});
}

constexpr char const* k_small_deck = R"([run]
out_dir = "out"
[model]
kind = "llama"
vocab_size = 512
hidden_size = 32
intermediate_size = 64
num_layers = 2
num_heads = 2
[data]
kind = "tokens"
train = ["a.bin"]
[train]
steps = 2
global_batch = 8
seq_len = 16
)";

Result run_override(Bundle const& bundle) {
  std::string text = bundle.empty() ? std::string() : bundle.begin()->second;
  text.resize(std::min(text.find('\0'), text.size()));  // an argument of a process ends there
  const Launch launch{.ranks = 2};
  return result_of("", [&] {
    return check_round_trip(parse_deck(k_small_deck, "deck.toml", {text}, launch), launch);
  });
}

}  // namespace

std::vector<Reader> const& readers() {
  static const std::vector<Reader> all = {
      {"checkpoint", "checkpoint", "checkpoint.h5", ".h5", Form::hdf5, true, run_checkpoint},
      {"token_shard", "token_shard", "shard.bin", ".bin", Form::binary, false, run_token_shard},
      {"cifar", "cifar", "data.bin", ".bin", Form::binary, false, run_cifar},
      {"idx", "idx", "train-images-idx3-ubyte", "", Form::binary, false, run_idx},
      {"safetensors", "huggingface", "model.safetensors", ".safetensors", Form::safetensors, false,
       run_huggingface},
      {"safetensors_index", "huggingface_shards", "model.safetensors.index.json", ".index.json",
       Form::text, false, run_huggingface},
      {"hf_config", "huggingface", "config.json", "config.json", Form::text, false,
       run_huggingface},
      {"resnet", "resnet", "model.safetensors", ".safetensors", Form::safetensors, false,
       run_resnet},
      {"deck", "deck", "deck.toml", ".toml", Form::text, false, run_deck},
      {"deck_override", "deck_override", "override.txt", ".txt", Form::text, false, run_override},
  };
  return all;
}

}  // namespace sdp::fuzz
