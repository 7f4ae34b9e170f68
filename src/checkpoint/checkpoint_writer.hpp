// SPDX-License-Identifier: Apache-2.0
#pragma once

// One checkpoint on its way to the disk; included by sources of this layer only.

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/checkpoint_file.hpp"
#include "checkpoint/crc_blocks.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/write_plan.hpp"

namespace sdp {

/// Writes the files of one checkpoint in three phases: the construction lays them out under
/// temporary names and reserves their space; write() is this rank's share of the elements and needs
/// neither MPI nor HDF5, so that another thread may do it; publish() adds the checksums and gives
/// the files their names, the one that opens the checkpoint last. Construction and publish() are
/// collective and throw the same error on every rank. What is not published is removed.
template <class T>
class CheckpointWriter {
 public:
  /// `files` is brought into [1, ranks]. Nothing of `buffers` is kept.
  CheckpointWriter(World const* world, std::string path, CheckpointHeader header,
                   std::vector<CheckpointBuffer<T>> const& buffers, int files);
  ~CheckpointWriter();
  CheckpointWriter(CheckpointWriter const&) = delete;
  CheckpointWriter& operator=(CheckpointWriter const&) = delete;

  /// Elements that this rank writes.
  index_t elements() const;
  /// Copies them on to the host, in the order in which they are written.
  void copy(std::vector<CheckpointBuffer<T>> const& buffers, T* host) const;

  /// Writes and flushes the elements of this rank, from its buffers or from a copy. Rank-local;
  /// DataError.
  void write(std::vector<CheckpointBuffer<T>> const& buffers);
  void write(T const* copied);

  /// All ranks must have written without an error. Returns the bytes of all files.
  std::int64_t publish();

 private:
  template <class Elements>
  void write_pieces(Elements const& elements);
  void lay_out();
  void lay_out_parts();
  std::vector<char> contents_id();
  void publish_parts();
  void remove_unpublished() noexcept;

  Writers m_writers;
  std::string m_path;       // that the checkpoint is opened by
  std::string m_temporary;  // the same while it is written
  CheckpointHeader m_header;
  std::vector<WriteGroup> m_groups;
  std::vector<WrittenPiece> m_pieces;
  std::vector<CrcBlocks> m_crcs;  // of each group
  std::optional<file_io::File> m_file;
  checkpoint_file::Offsets m_offsets;  // of the file that this rank laid out
  bool m_published = false;

  // Where there are part files:
  int m_parts;
  int m_part = 0;
  bool m_leads = false;            // this rank made the file of its part
  std::string m_parts_folder;      // of the part files at present
  checkpoint_file::Parts m_index;  // contents on the root only
};

extern template class CheckpointWriter<float>;
extern template class CheckpointWriter<double>;

}  // namespace sdp
