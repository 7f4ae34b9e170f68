// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/convert.hpp"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>

#include "base/error.hpp"
#include "checkpoint/checkpoint.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/huggingface.hpp"
#include "checkpoint/resnet_file.hpp"

namespace sdp {

namespace fs = std::filesystem;

namespace {

/// to(c, r, t) = from(r, c, t), in tiles that fit the cache; from is (rows, cols, taps).
template <class T>
void transpose(T const* from, index_t rows, index_t cols, index_t taps, T* to) {
  constexpr index_t k_tile = 32;
  for (index_t r0 = 0; r0 < rows; r0 += k_tile)
    for (index_t c0 = 0; c0 < cols; c0 += k_tile)
      for (index_t r = r0; r < std::min(r0 + k_tile, rows); ++r)
        for (index_t c = c0; c < std::min(c0 + k_tile, cols); ++c)
          for (index_t t = 0; t < taps; ++t)
            to[(c * rows + r) * taps + t] = from[(r * cols + c) * taps + t];
}

/// Elements that stay together where the first two axes are swapped: the taps of a filter.
index_t taps_of(std::vector<index_t> const& shape) {
  return std::accumulate(shape.begin() + 2, shape.end(), index_t{1}, std::multiplies<>());
}

bool is_model_file(std::string const& name) {
  auto ends_with = [&name](std::string_view end) {
    return name.size() >= end.size() &&
           name.compare(name.size() - end.size(), end.size(), end) == 0;
  };
  return name == "config.json" || ends_with(".safetensors") ||
         ends_with(".safetensors.index.json") || name.rfind("pytorch_model", 0) == 0;
}

/// Refuses a folder in which an export could be taken for another model, or mix with one.
void check_export_folder(std::string const& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  if (!fs::is_directory(folder, error)) throw ConfigError(folder + " is not a folder");
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (is_model_file(name))
      throw ConfigError("the folder " + folder + " already holds the model file " +
                        file_io::in_quotes(name) + "; an export needs a folder without one");
  }
  if (error) throw ConfigError("cannot list the folder " + folder + ": " + error.message());
}

/// Whole storage rows at a time, turned where storage is transposed.
template <class T>
void export_tensor(CheckpointReader const& reader, StoredTensor const& tensor,
                   SafetensorsWriter& writer) {
  const index_t rows = tensor.shape.front();
  const index_t cols = rows == 0 ? 0 : tensor.elements / rows;
  const index_t step = std::max<index_t>(1, k_chunk_elements / std::max<index_t>(cols, 1));
  std::vector<T> values;
  std::vector<T> turned;
  for (index_t row = 0; row < rows; row += step) {
    const index_t count = std::min(step, rows - row);
    values.resize(count * cols);
    reader.read_elements(k_group_model, tensor.name, row * cols, count * cols, values.data());
    if (!tensor.transposed) {
      writer.write_rows(tensor.name, row, count, values.data());
      continue;
    }
    const index_t taps = taps_of(tensor.shape);
    turned.resize(values.size());
    transpose(values.data(), count, tensor.shape[1], taps, turned.data());
    writer.write_block(tensor.name, 0, tensor.shape[1], row * taps, count * taps, turned.data());
  }
}

index_t parameters_of(std::vector<TensorSpec> const& tensors) {
  index_t parameters = 0;
  for (TensorSpec const& tensor : tensors)
    if (!tensor.statistic) parameters += tensor.size();
  return parameters;
}

}  // namespace

ConvertedModel export_checkpoint(std::string const& checkpoint, std::string const& folder,
                                 TensorType type, TensorsOf const& tensors_of,
                                 std::int64_t max_shard_bytes) {
  const CheckpointReader reader(checkpoint);
  CheckpointInfo const& info = reader.info();
  const bool is_resnet = info.header.model.kind == ModelKind::resnet18;
  const std::vector<TensorSpec> tensors = tensors_of(info.header.model);
  reader.check_tensors(tensors);
  check_export_folder(folder);
  std::error_code ignored;
  const bool is_new = !fs::exists(folder, ignored);
  file_io::make_folder(folder);
  ConvertedModel result{info.header.model, parameters_of(tensors), {}};
  try {
    std::vector<SafetensorsOutput> outputs;
    for (StoredTensor const& tensor : info.tensors) {
      const std::string counter = is_resnet ? batch_counter_of(tensor.name) : "";
      if (!counter.empty()) outputs.push_back({counter, {}, info.header.state.step});
    }
    for (StoredTensor const& tensor : info.tensors)
      outputs.push_back({tensor.name, outside_shape(tensor.shape, tensor.transposed)});
    SafetensorsWriter writer(folder, outputs, type, max_shard_bytes);
    for (StoredTensor const& tensor : info.tensors) {
      if (info.is_double)
        export_tensor<double>(reader, tensor, writer);
      else
        export_tensor<float>(reader, tensor, writer);
    }
    writer.finish();
    result.paths = writer.paths();
    if (!is_resnet) {
      result.paths.push_back((fs::path(folder) / "config.json").string());
      write_hf_config(result.paths.back(), info.header.model.llama, type);
    }
  } catch (...) {
    for (std::string const& path : result.paths) file_io::remove_quietly(path);
    if (is_new) fs::remove(folder, ignored);
    throw;
  }
  return result;
}

template <class T>
void read_storage(SafetensorsReader const& reader, TensorSpec const& tensor, index_t begin,
                  index_t count, T* out) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
  if (count == 0) return;
  // The file's matrix: storage rows are its columns where the storage is transposed, `taps` columns
  // each.
  const index_t cols = tensor.shape.size() > 1 ? tensor.cols : 1;
  const index_t taps = tensor.transposed ? taps_of(tensor.shape) : 1;
  const index_t end = begin + count;
  std::vector<T> block;
  auto read_part = [&](index_t row, index_t rows, index_t col, index_t part_cols) {
    T* target = out + (row * cols + col - begin);
    if (!tensor.transposed) {
      reader.read_block(tensor.name, row, rows, col, part_cols, target);
      return;
    }
    const index_t first = col / taps;
    const index_t filters = (col + part_cols + taps - 1) / taps - first;
    block.resize(rows * filters * taps);
    reader.read_block(tensor.name, first, filters, row * taps, rows * taps, block.data());
    if (rows == 1)  // in order already, and perhaps cut within a filter
      std::copy_n(block.data() + (col - first * taps), part_cols, target);
    else
      transpose(block.data(), filters, rows, taps, target);
  };
  index_t at = begin;
  if (at % cols != 0) {  // the end of a first row
    const index_t stop = std::min(end, (at / cols + 1) * cols);
    read_part(at / cols, 1, at % cols, stop - at);
    at = stop;
  }
  if (end - at >= cols) {
    const index_t rows = (end - at) / cols;
    read_part(at / cols, rows, 0, cols);
    at += rows * cols;
  }
  if (at < end) read_part(at / cols, 1, 0, end - at);
}

template void read_storage(SafetensorsReader const&, TensorSpec const&, index_t, index_t, float*);
template void read_storage(SafetensorsReader const&, TensorSpec const&, index_t, index_t, double*);

namespace {

/// By the model_type of the config.json where that names a model of this project.
bool is_resnet(SafetensorsReader const& reader, std::string const& model_type) {
  if (model_type == "llama") return false;
  return model_type.rfind("resnet", 0) == 0 || has_resnet_names(reader);
}

}  // namespace

ImportSource open_import(std::string const& path, TensorsOf const& tensors_of) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) throw ConfigError("cannot open " + path + ": it does not exist");
  const fs::path folder =
      fs::is_directory(path, ignored) ? fs::path(path) : fs::path(path).parent_path();
  const std::string config_path = (folder / "config.json").string();
  SafetensorsReader reader = open_safetensors(path);
  const bool has_config = fs::exists(config_path, ignored);
  if (is_resnet(reader, has_config ? read_model_type(config_path) : "")) {
    ModelConfig model;
    model.kind = ModelKind::resnet18;
    model.resnet = read_resnet_shape(path, reader);
    std::vector<TensorSpec> tensors = tensors_of(model);
    check_resnet_tensors(path, tensors, reader);
    return {std::move(model), std::move(tensors), std::move(reader)};
  }
  if (!has_config)
    throw ConfigError(path + " has no config.json beside its tensors; the number of heads of a " +
                      "LLaMA is known from there only");
  ModelConfig model;
  model.kind = ModelKind::llama;
  model.llama = read_hf_config(config_path);
  std::vector<TensorSpec> tensors = tensors_of(model);
  check_against_tensors(config_path, tensors, reader);
  return {std::move(model), std::move(tensors), std::move(reader)};
}

namespace {

template <class T>
void write_import(ImportSource const& source, std::string const& out) {
  const ParameterTable table(source.tensors);
  CheckpointHeader header;
  header.model = source.model;
  CheckpointBuffer<T> buffer;
  buffer.group = k_group_model;
  buffer.table = &table;
  buffer.owned = {{0, table.size()}};
  buffer.fetch = [&](index_t begin, index_t count, T* values) {
    for (FlatPiece const& piece : flat_pieces(table, {{begin, begin + count}}))
      read_storage(source.reader, table.tensors()[piece.tensor], piece.begin, piece.count,
                   values + (piece.source - begin));
  };
  write_checkpoint<T>(nullptr, out, header, {buffer});
}

}  // namespace

ConvertedModel import_model(std::string const& path, std::string const& out,
                            TensorsOf const& tensors_of) {
  std::error_code ignored;
  if (fs::exists(out, ignored))
    throw ConfigError(out + " already exists; a checkpoint is imported to a new file");
  const ImportSource source = open_import(path, tensors_of);
  const bool is_double =
      std::any_of(source.tensors.begin(), source.tensors.end(), [&](TensorSpec const& tensor) {
        return source.reader.find(tensor.name)->type == TensorType::f64;
      });
  if (is_double)
    write_import<double>(source, out);
  else
    write_import<float>(source, out);
  return {source.model, parameters_of(source.tensors), {out}};
}

}  // namespace sdp
