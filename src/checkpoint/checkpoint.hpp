// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "checkpoint/flat_pieces.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"

namespace sdp {

/// Version of the files that are written; every older version is read.
inline constexpr int k_checkpoint_version = 2;

/// Where a run stands.
struct TrainingState {
  std::int64_t step = 0;     ///< updates, skipped ones included
  std::int64_t samples = 0;  ///< samples consumed: the position in the data
  std::int64_t tokens = 0;
  std::int64_t skipped = 0;      ///< updates skipped for non-finite values
  std::int64_t data_tokens = 0;  ///< size of the training set, which may not change; 0: unknown
  std::uint64_t seed = 1;
  std::optional<double> best_val_loss;
};

/// Everything in a checkpoint but tensors.
struct CheckpointHeader {
  ModelConfig model;  ///< kind and shape; the rest keeps its defaults
  TrainingState state;
  std::string deck;  ///< resolved deck, TOML; empty for an imported model
  std::string mask;  ///< JSON; empty where the run has none
};

/// Groups of tensors in a checkpoint: "model" and one per optimizer moment.
inline constexpr char const* k_group_model = "model";
inline constexpr char const* k_group_exp_avg = "optimizer/exp_avg";
inline constexpr char const* k_group_exp_avg_sq = "optimizer/exp_avg_sq";
inline constexpr char const* k_group_momentum = "optimizer/momentum";

/// What one rank contributes to one group: its flat buffer and the ranges of it that it must write.
/// Over all ranks the ranges of a group must cover every element of every logical tensor once.
template <class T>
struct CheckpointBuffer {
  std::string group;
  ParameterTable const* table = nullptr;  ///< same tensors on every rank and in every group
  std::vector<IndexRange> owned;          ///< in elements of the table's flat layout
  bool packed = false;                    ///< see flat_pieces()
  /// Copies `count` elements from `source` on to the host.
  std::function<void(index_t source, index_t count, T* out)> fetch;
  /// Where the host can read the buffer itself: element 0, and no copy is made.
  T const* host = nullptr;
};

/// A flat device or host View as the source of a CheckpointBuffer; the View must outlive the write,
/// and the work that fills it must be complete.
template <class T>
CheckpointBuffer<T> checkpoint_buffer(std::string group, ParameterTable const& table,
                                      std::vector<IndexRange> owned, View1<T> const& flat,
                                      bool packed = false) {
  auto fetch = [flat](index_t source, index_t count, T* out) {
    copy_from_flat(flat, source, count, out);
  };
  return {std::move(group), &table, std::move(owned), packed, std::move(fetch), host_data(flat)};
}

/// Writes one checkpoint; collective, T is float or double. It appears under `path` whole and on
/// the disk, or not at all: everything is written under temporary names, flushed, renamed.
///
/// With `files` = 1 that is one file, whose bytes do not depend on the number of ranks or on who
/// owns what. With more, at most one a rank, the elements lie in so many part files in a folder
/// beside `path`, each written by a contiguous group of ranks, and `path` shows them as whole
/// tensors (HDF5 virtual datasets). The bytes then depend on who owns what, the contents do not.
///
/// Memory beyond the buffers is bounded by 32 MB a rank plus 4 bytes per 65,536 elements of the
/// model and group, and for part files 32 bytes per run of elements that a rank owns (on rank 0
/// those of all). Throws DataError, the same on every rank. Without a world (nullptr) one process
/// writes, and MPI need not run.
template <class T>
void write_checkpoint(World const* world, std::string const& path, CheckpointHeader const& header,
                      std::vector<CheckpointBuffer<T>> const& buffers, int files = 1);

/// Checkpoints of a folder by descending step; empty where there is no such folder.
std::vector<std::string> list_checkpoints(std::string const& folder);
/// The checkpoint that `latest` names, or the one of highest step where `latest` is absent or names
/// a file that is gone.
std::optional<std::string> find_latest(std::string const& folder);

/// A tensor as it lies in a checkpoint.
struct StoredTensor {
  std::string name;
  std::vector<index_t> shape;  ///< in storage order
  bool transposed = false;     ///< storage is the transpose of the outside convention
  index_t elements = 0;
};

/// A part file of a checkpoint.
struct StoredPart {
  std::string file;  ///< relative to the folder of the checkpoint
  std::int64_t bytes = 0;
  int first_rank = 0;  ///< of those that wrote it
  int last_rank = 0;
};

/// What opening a checkpoint tells.
struct CheckpointInfo {
  std::string path;
  int version = 0;
  std::string written_by;  ///< version and commit of the program
  CheckpointHeader header;
  bool is_double = false;
  std::vector<StoredTensor> tensors;  ///< sorted, numbers inside names by value
  std::vector<std::string> moments;   ///< groups under "optimizer", such as "optimizer/exp_avg"
  index_t parameters = 0;
  index_t statistics = 0;         ///< elements of running statistics, which are no parameters
  std::vector<StoredPart> parts;  ///< empty where the checkpoint is one file
  std::int64_t bytes = 0;         ///< of all files
};

/// Reads a checkpoint; rank-local, with no MPI in it: every rank that needs tensors opens the file
/// and reads the spans that it holds. Agree on errors by World::collectively(). What is read is
/// verified against the checksums first, whole blocks of 65,536 elements at a time. Throws
/// DataError that names file and dataset: not an sdp checkpoint, written by a newer version,
/// truncated, damaged, a dataset missing or of another shape, a part file missing or of another
/// checkpoint.
class CheckpointReader {
 public:
  explicit CheckpointReader(std::string const& path);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;

  CheckpointInfo const& info() const { return m_info; }
  /// The tensor of that name, nullptr where there is none.
  StoredTensor const* find(std::string const& name) const;
  bool has_group(std::string const& group) const;

  /// Checks that the model of the checkpoint has exactly these tensors, with these shapes.
  void check_tensors(std::vector<TensorSpec> const& tensors) const;

  /// Elements [begin, begin + count) of a tensor in storage order, converted to T (float or
  /// double).
  template <class T>
  void read_elements(std::string const& group, std::string const& tensor, index_t begin,
                     index_t count, T* out) const;

  /// Fills the flat buffer of a table: all that it holds, the given ranges (see flat_pieces()), or
  /// the given pieces. T is float, double or bf16, to which values are rounded by way of float.
  template <class T>
  void read(std::string const& group, ParameterTable const& table, View1<T> const& flat) const {
    read(group, table, flat_pieces(table), flat);
  }
  template <class T>
  void read(std::string const& group, ParameterTable const& table,
            std::vector<IndexRange> const& ranges, bool packed, View1<T> const& flat) const {
    read(group, table, flat_pieces(table, ranges, packed), flat);
  }
  template <class T>
  void read(std::string const& group, ParameterTable const& table,
            std::vector<FlatPiece> const& pieces, View1<T> const& flat) const {
    fill_flat(pieces, flat, [&](int tensor, index_t begin, index_t count, auto* out) {
      check_tensor(table.tensors()[tensor]);
      read_elements(group, table.tensors()[tensor].name, begin, count, out);
    });
  }

 private:
  struct Impl;

  void check_tensor(TensorSpec const& tensor) const;

  std::unique_ptr<Impl> m_impl;
  CheckpointInfo m_info;
};

}  // namespace sdp
