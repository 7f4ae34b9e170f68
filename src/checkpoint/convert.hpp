// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "checkpoint/flat_pieces.hpp"
#include "checkpoint/safetensors.hpp"
#include "config/config.hpp"

namespace sdp {

/// The logical tensors of a model, in storage shapes; the models give it.
using TensorsOf = std::function<std::vector<TensorSpec>(ModelConfig const&)>;

struct ConvertedModel {
  ModelConfig model;
  index_t parameters = 0;
  std::vector<std::string> paths;  ///< what was written
};

/// Writes a checkpoint as safetensors of `type` (f32 or bf16) in a folder, transposed tensors
/// turned back: a LLaMA with its config.json as a Hugging Face folder, a ResNet-18 under the names
/// of its PyTorch state_dict, num_batches_tracked (the updates done) included. The folder is made
/// where it does not exist; one that holds model files already is refused (ConfigError). The files
/// appear complete or not at all, config.json last. Every block is verified as it is read
/// (DataError). Memory is bounded by a few chunks of 8 MB.
ConvertedModel export_checkpoint(
    std::string const& checkpoint, std::string const& folder, TensorType type,
    TensorsOf const& tensors_of,
    std::int64_t max_shard_bytes = SafetensorsWriter::k_default_shard_bytes);

/// A Hugging Face LLaMA whose config and tensors are checked against each other, or a ResNet-18
/// whose tensors describe it. `path` is a folder or a safetensors file; the config.json beside it
/// says which of the two it is, or else the names of the tensors do.
struct ImportSource {
  ModelConfig model;
  std::vector<TensorSpec> tensors;
  SafetensorsReader reader;
};
ImportSource open_import(std::string const& path, TensorsOf const& tensors_of);

/// Writes such a model as a checkpoint at step 0: weights only, fp32, or fp64 where the file has
/// F64 tensors. `out` must not exist. ConfigError for what is found before writing, else DataError;
/// memory is bounded by a few chunks.
ConvertedModel import_model(std::string const& path, std::string const& out,
                            TensorsOf const& tensors_of);

/// Elements [begin, begin + count) of a tensor in storage order, turned where storage is the
/// transpose of the file's (out, in, ...); T is float or double. Memory beyond `out` is bounded by
/// as much again and a few MB.
template <class T>
void read_storage(SafetensorsReader const& reader, TensorSpec const& tensor, index_t begin,
                  index_t count, T* out);

/// Fills pieces of the flat buffer of a table from safetensors; rank-local. T is float, double or
/// bf16, to which values are rounded by way of float.
template <class T>
void read_model(SafetensorsReader const& reader, ParameterTable const& table,
                std::vector<FlatPiece> const& pieces, View1<T> const& flat) {
  fill_flat(pieces, flat, [&](int tensor, index_t begin, index_t count, auto* out) {
    read_storage(reader, table.tensors()[tensor], begin, count, out);
  });
}
/// The same for all that the table holds.
template <class T>
void read_model(SafetensorsReader const& reader, ParameterTable const& table,
                View1<T> const& flat) {
  read_model(reader, table, flat_pieces(table), flat);
}

}  // namespace sdp
