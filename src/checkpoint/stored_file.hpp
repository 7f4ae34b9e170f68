// SPDX-License-Identifier: Apache-2.0
#pragma once

// What readers of a checkpoint and of its parts share; included by sources of this layer only.
// Every function throws DataError that begins with `path`, or with what cannot be done to it.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/h5.hpp"

namespace sdp::stored_file {

/// ConfigError where there is no such file.
h5::Id open(std::string const& path);

/// Whether there is an object of this type.
bool is_a(hid_t file, std::string const& name, H5O_type_t type, std::string const& path);

/// A dataset that is open, and what its own header says.
struct Dataset {
  h5::Id id;
  std::vector<hsize_t> extents;
  index_t elements = 0;
  H5T_class_t type_class = H5T_NO_CLASS;
  std::int64_t width = 0;  ///< bytes of an element
  bool is_virtual = false;
  std::int64_t offset = 0;  ///< byte in the file where it is not virtual
};

/// A dataset that is stored in one piece or, where `may_be_virtual`, maps other ones.
Dataset open_dataset(hid_t file, std::string const& name, std::string const& path,
                     bool may_be_virtual = false);
/// Whether the elements are floats of this width as this machine holds them.
bool is_native_float(Dataset const& dataset, std::int64_t width);

std::vector<std::uint32_t> read_crcs(hid_t file, std::string const& group, std::string const& path);

/// Model, state and texts of a checkpoint.
CheckpointHeader read_header(hid_t file, std::string const& path);

/// Name of the folder of part files that the checkpoint names; empty where it has none, nothing
/// where it cannot be opened.
std::optional<std::string> parts_folder_of(std::string const& path);

}  // namespace sdp::stored_file
