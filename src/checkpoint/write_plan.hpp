// SPDX-License-Identifier: Apache-2.0
#pragma once

// Who writes which elements where; included by sources of this layer only.

#include <mpi.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/index_range.hpp"
#include "checkpoint/checkpoint.hpp"
#include "comm/mpi_error.hpp"

namespace sdp {

/// The ranks that write together, or one process without MPI.
class Writers {
 public:
  explicit Writers(World const* world) : m_world(world) {}

  bool is_root() const { return rank() == 0; }
  int rank() const { return m_world == nullptr ? 0 : m_world->rank(); }
  int size() const { return m_world == nullptr ? 1 : m_world->size(); }
  MPI_Comm comm() const { return m_world == nullptr ? MPI_COMM_NULL : m_world->comm(); }

  template <class T>
  void broadcast(std::vector<T>& values) const {
    if (m_world != nullptr) m_world->broadcast(values);
  }
  template <class F>
  void together(F&& f) const {
    if (m_world != nullptr)
      m_world->collectively(std::forward<F>(f));
    else
      f();
  }
  /// values[i] = the reduction of that element over ranks, in place.
  template <class T>
  void reduce(std::vector<T>& values, MPI_Datatype type, MPI_Op op) const {
    if (m_world == nullptr) return;
    constexpr std::size_t k_most = std::size_t{1} << 28;
    for (std::size_t begin = 0; begin < values.size(); begin += k_most)
      check_mpi(MPI_Allreduce(MPI_IN_PLACE, values.data() + begin,
                              static_cast<int>(std::min(k_most, values.size() - begin)), type, op,
                              m_world->comm()),
                "MPI_Allreduce");
  }

 private:
  World const* m_world;
};

/// The ranks of [0, size) that write part `part` of `parts`: contiguous, and no group has more than
/// one rank more than another.
IndexRange ranks_of_part(int part, int parts, int size);

/// One group of tensors of a checkpoint, "model" or a moment.
struct WriteGroup {
  std::string name;
  std::vector<TensorSpec> tensors;
};

/// A run of elements that this rank writes, contiguous in its buffer, in the logical tensor and in
/// its file.
struct WrittenPiece {
  int group;
  int tensor;
  index_t begin;  ///< in the logical tensor
  index_t count;
  index_t source;       ///< in the buffer
  std::int64_t offset;  ///< byte in the file of this rank
};

/// What one part file holds of one tensor: its elements stored one after the other.
struct PartTensor {
  int group;
  int tensor;
  std::vector<IndexRange> runs;  ///< elements of the logical tensor; ascending, not adjacent
  index_t elements() const {
    index_t sum = 0;
    for (IndexRange const& run : runs) sum += run.size();
    return sum;
  }
};

/// Cuts what the ranks own into pieces, sorted by (group, tensor, begin), whose offsets are still
/// to come. Checks that all name the same tensors and together cover every element once; DataError.
/// Collective.
template <class T>
std::vector<WrittenPiece> cut_request(Writers const& writers, std::string const& path,
                                      std::vector<CheckpointBuffer<T>> const& buffers);

/// The ranks that write one part file. Collective over all writers.
class PartGroup {
 public:
  PartGroup(Writers const& writers, int parts);
  ~PartGroup();
  PartGroup(PartGroup const&) = delete;
  PartGroup& operator=(PartGroup const&) = delete;

  int part() const { return m_part; }
  /// The one that makes the file.
  bool leads() const { return m_rank == 0; }

  /// What the part holds, on the leader; sorted by (group, tensor). Collective over the group.
  std::vector<PartTensor> gather(std::vector<WrittenPiece> const& pieces);
  /// Sets the offsets of the pieces of all ranks of the group from those of the tensors that
  /// gather() returned. Collective over the group.
  void place(std::vector<std::int64_t> const& offsets, std::int64_t element_bytes,
             std::vector<WrittenPiece>& pieces);

 private:
  MPI_Comm m_comm = MPI_COMM_NULL;
  int m_part = 0;
  int m_rank = 0;
  int m_size = 1;
  // On the leader, for the pieces of its ranks one after the other:
  std::vector<int> m_counts;          // (ranks)
  std::vector<std::size_t> m_tensor;  // index in what gather() returned
  std::vector<index_t> m_place;       // elements of that tensor's part before the piece
};

/// The parts of all leaders on the root, by part; empty elsewhere. Collective; `mine` is empty on
/// ranks that lead none.
std::vector<std::vector<PartTensor>> gather_parts(Writers const& writers, int parts,
                                                  std::vector<PartTensor> const& mine);

}  // namespace sdp
