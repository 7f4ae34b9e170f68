// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/types.hpp"
#include "config/config.hpp"

// What writer and reader agree on.
//
//   /                 attributes format, format_version, written_by
//   /model            attributes kind and the shape of the model
//   /model/<name>     tensor, storage order; attributes crc_begin, and transposed = 1 where storage
//                     is the transpose of the outside (out, in) convention; of a convolution, whose
//                     shape outside is (out, in, height, width), the first two axes are swapped
//   /optimizer/<moment>/<name>   the same shapes
//   /state            attributes step, samples, tokens, skipped, seed, best_val_loss (may lack)
//   /config, /mask    text (absent when empty); attribute crc_begin = 0
//   /crc              attributes algorithm, block_elements
//   /crc/<group>      CRC-32 of each block of block_elements elements of each tensor of the
//                     group, in storage order; those of one tensor start at its crc_begin
//   /crc/config, /crc/mask       one CRC-32 of the whole text
//   /parts            where the elements lie in part files: attributes count, folder (beside this
//                     file), checkpoint_id
//   /parts/<file>     a part: attributes bytes (of the file), first_rank, last_rank
//
// With parts the tensors are virtual datasets: their elements lie in datasets of the same names in
// <folder>/<file>, and a reader of HDF5 sees whole tensors (NaN for those of a file that is
// missing). The file then ends with a checksum of all its bytes (seal.hpp). A part holds of each
// tensor the elements that its ranks own, in ascending order on one axis:
//
//   /                 attributes format, format_version, written_by, part (from 1), parts,
//                     first_rank, last_rank, description
//   /checkpoint_id    text: the checkpoint that the part belongs to; made from its contents
//   /model/<name>, /optimizer/<moment>/<name>   elements
//
// Object headers and groups carry HDF5's own checksums (file format 1.8), so that no byte of a file
// goes unchecked.

namespace sdp::checkpoint_layout {

inline constexpr char const* k_format = "sdp checkpoint";
inline constexpr char const* k_part_format = "sdp checkpoint part";
inline constexpr char const* k_part_id = "checkpoint_id";
inline constexpr std::size_t k_id_length = 16;
inline constexpr char const* k_crc_algorithm = "CRC-32 (zlib)";

/// Elements of a logical tensor under one checksum, independent of ranks and ownership.
inline constexpr index_t k_block_elements = 65536;

inline index_t block_count(index_t elements) {
  return (elements + k_block_elements - 1) / k_block_elements;
}

/// "part-01-of-16.h5" for part 0 of 16.
inline std::string part_name(int part, int parts) {
  std::string number = std::to_string(part + 1);
  const std::string count = std::to_string(parts);
  number.insert(0, count.size() - number.size(), '0');
  return "part-" + number + "-of-" + count + ".h5";
}

// The types of the members have names of their own: nvcc puts parentheses around the members
// otherwise, which the host compiler then warns of.
struct IntegerField {
  using Member = index_t LlamaConfig::*;
  char const* name;
  Member member;
};
inline constexpr IntegerField k_llama_sizes[] = {
    {"vocab_size", &LlamaConfig::vocab_size},
    {"hidden_size", &LlamaConfig::hidden_size},
    {"intermediate_size", &LlamaConfig::intermediate_size},
    {"num_layers", &LlamaConfig::num_layers},
    {"num_heads", &LlamaConfig::num_heads},
    {"num_kv_heads", &LlamaConfig::num_kv_heads},
    {"head_dim", &LlamaConfig::head_dim},
    {"max_seq_len", &LlamaConfig::max_seq_len},
};

struct RealField {
  using Member = double LlamaConfig::*;
  char const* name;
  Member member;
};
inline constexpr RealField k_llama_reals[] = {
    {"rope_theta", &LlamaConfig::rope_theta},
    {"rms_norm_eps", &LlamaConfig::rms_norm_eps},
    {"init_std", &LlamaConfig::init_std},
};

struct ResnetField {
  using Member = index_t ResnetConfig::*;
  char const* name;
  Member member;
};
inline constexpr ResnetField k_resnet_sizes[] = {
    {"num_classes", &ResnetConfig::num_classes},
    {"in_channels", &ResnetConfig::in_channels},
    {"width", &ResnetConfig::width},
};

/// Whether a tensor of that name is a running statistic and no parameter.
inline bool is_statistic(std::string_view name) {
  for (std::string_view end : {".running_mean", ".running_var"})
    if (name.size() >= end.size() && name.substr(name.size() - end.size()) == end) return true;
  return false;
}

inline constexpr char const* k_kind_llama = "llama";
inline constexpr char const* k_kind_resnet18 = "resnet18";

inline char const* kind_name(ModelKind kind) {
  return kind == ModelKind::llama ? k_kind_llama : k_kind_resnet18;
}

}  // namespace sdp::checkpoint_layout
