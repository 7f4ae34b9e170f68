// SPDX-License-Identifier: Apache-2.0
#pragma once

// The files of a checkpoint as HDF5 lays them out, without the elements of tensors; included by
// sources of this layer only.

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/write_plan.hpp"

namespace sdp::checkpoint_file {

/// Where things lie in a file, in bytes from its start.
struct Offsets {
  std::vector<std::int64_t> tensors;  ///< in the order in which they were given
  std::vector<std::int64_t> crcs;     ///< of each group
  std::int64_t id = 0;                ///< of the text that says to which checkpoint a part belongs
  std::int64_t file_bytes = 0;
};

/// The part files of a checkpoint as its index describes them.
struct Parts {
  std::string folder;                             ///< beside the index
  std::string id;                                 ///< of the checkpoint
  std::vector<std::int64_t> bytes;                ///< sizes of the files
  std::vector<std::vector<PartTensor>> contents;  ///< what each holds
  int ranks = 1;                                  ///< that wrote them
};

/// Writes the file that has everything but the elements of the tensors and their checksums; a new
/// file under the name `path`, with the space of all of it reserved. With `parts` the tensors are
/// virtual datasets over the part files. Not collective; DataError.
Offsets create(std::string const& path, CheckpointHeader const& header,
               std::vector<WriteGroup> const& groups, std::int64_t element_bytes,
               Parts const* parts);

/// The same for a part file. `name` is that of the checkpoint, which only appears in a description.
Offsets create_part(std::string const& path, std::string const& name, int part, int parts,
                    IndexRange ranks, std::vector<WriteGroup> const& groups,
                    std::vector<PartTensor> const& contents, std::int64_t element_bytes);

}  // namespace sdp::checkpoint_file
