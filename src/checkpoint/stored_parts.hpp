// SPDX-License-Identifier: Apache-2.0
#pragma once

// Part files of a checkpoint that is read; included by sources of this layer only.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/h5.hpp"
#include "checkpoint/stored_file.hpp"

namespace sdp {

/// Elements that are contiguous in a tensor and in a file.
struct Stretch {
  index_t begin;  ///< in the tensor
  index_t count;
  int part;             ///< -1: the file of the checkpoint itself
  std::int64_t offset;  ///< byte in the file
};

/// The part files that a checkpoint names. HDF5 would read those that are missing as a fill value
/// and does not know an exchanged one, so the mappings are followed here and not by HDF5.
class StoredParts {
 public:
  StoredParts() = default;
  /// Of the open checkpoint `path`, none where it has no group /parts. Checks that each is there,
  /// whole and of this checkpoint; DataError.
  StoredParts(hid_t checkpoint, std::string const& path);

  std::vector<StoredPart> const& list() const { return m_list; }

  /// Where the elements of a virtual dataset of the checkpoint lie: ascending, without a gap.
  /// DataError where the dataset maps anything else than the parts, or does not map all elements.
  std::vector<Stretch> stretches(stored_file::Dataset const& dataset, std::string const& name);

  /// The file of a part, open until the next call; DataError.
  file_io::File const& file(int part) { return open(part).file; }

 private:
  struct OpenPart {
    h5::Id hdf5;
    file_io::File file;
  };
  OpenPart& open(int part);
  void check(int part, hid_t file) const;
  std::string path_of(int part) const;

  std::string m_path;    // of the checkpoint
  std::string m_folder;  // that it lies in
  std::string m_id;
  std::vector<StoredPart> m_list;
  std::map<int, OpenPart> m_open;
};

}  // namespace sdp
