// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/types.hpp"

namespace sdp {

/// Element types that are read and written; `other` stands for the integer, boolean and 8-bit
/// types of the format, which are listed but refused on read.
enum class TensorType { f64, f32, f16, bf16, other };

/// One tensor of a safetensors file or of a set of shards.
struct SafetensorsTensor {
  std::string name;
  TensorType type = TensorType::other;
  std::string type_name;       ///< as in the file: "F32", "BF16", "I64", ...
  std::vector<index_t> shape;  ///< row-major; empty for a scalar
  index_t elements = 0;
  std::int64_t bytes = 0;

  index_t rows() const { return shape.empty() ? 1 : shape.front(); }
  /// Elements of one row: the product of all extents but the first.
  index_t cols() const { return rows() == 0 ? 0 : elements / rows(); }
};

/// Reads safetensors files (one, or the shards of a model) without loading them.
///
/// Construction checks every header completely: length, JSON, duplicate keys, element types,
/// shapes, and that the data of all tensors fill the file without holes or overlaps. Anything wrong
/// is a ConfigError that names the file, and the tensor where there is one. Reading throws
/// DataError with file and offset. Several readers of one file may live at once; one reader may be
/// used from one thread at a time.
class SafetensorsReader {
 public:
  /// The shards `files`; a tensor may appear in one of them only.
  explicit SafetensorsReader(std::vector<std::string> files);
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;

  /// Sorted by name.
  std::vector<SafetensorsTensor> const& tensors() const { return m_tensors; }
  /// nullptr where there is none of that name.
  SafetensorsTensor const* find(std::string const& name) const;
  /// The file that holds the tensor.
  std::string const& file_of(std::string const& name) const;

  /// Rows [row_begin, row_begin + rows) of a tensor, all columns, converted to T (float or double)
  /// into out[rows * cols]. Memory beyond `out` is bounded by 4 MB.
  template <class T>
  void read_rows(std::string const& name, index_t row_begin, index_t rows, T* out) const {
    read_block(name, row_begin, rows, 0, -1, out);
  }
  /// The same for columns [col_begin, col_begin + cols) of these rows, packed; cols = -1: to the
  /// end of the row.
  template <class T>
  void read_block(std::string const& name, index_t row_begin, index_t rows, index_t col_begin,
                  index_t cols, T* out) const;

 private:
  struct File;
  struct Place {
    std::size_t file;
    std::int64_t offset;
  };
  std::size_t index_of(std::string const& name) const;

  std::vector<std::unique_ptr<File>> m_files;
  std::vector<SafetensorsTensor> m_tensors;
  std::vector<Place> m_places;  ///< of each tensor
};

/// Opens a single safetensors file, a model.safetensors.index.json, or a folder with either. Every
/// shard that the index names must exist, hold exactly the tensors that the index gives it, and lie
/// in the folder of the index. Throws ConfigError.
SafetensorsReader open_safetensors(std::string const& path);

/// A tensor to be written.
struct SafetensorsOutput {
  std::string name;
  std::vector<index_t> shape;
  /// Set for a scalar of type I64 (shape {}): its value, which the constructor writes. Give such
  /// tensors first: there they are aligned.
  std::optional<std::int64_t> integer = std::nullopt;
};

/// Writes a model as model.safetensors, or as shards with an index where it is larger than
/// `max_shard_bytes` (one tensor is never split), tensors in the given order.
///
/// The files carry temporary names until finish(), which flushes them to the disk and then renames
/// them, the index last; a writer that dies before leaves nothing behind. All write functions may
/// be called in any order. I/O errors, a full disk among them, throw DataError.
class SafetensorsWriter {
 public:
  static constexpr std::int64_t k_default_shard_bytes = 5'000'000'000;

  /// `type` is f32 or bf16 (round to nearest even) for all but integers. The folder must exist.
  SafetensorsWriter(std::string folder, std::vector<SafetensorsOutput> const& tensors,
                    TensorType type, std::int64_t max_shard_bytes = k_default_shard_bytes);
  ~SafetensorsWriter();
  SafetensorsWriter(SafetensorsWriter const&) = delete;
  SafetensorsWriter& operator=(SafetensorsWriter const&) = delete;

  /// Rows [row_begin, row_begin + rows) of a tensor from values[rows * cols]; T is float or double.
  template <class T>
  void write_rows(std::string const& name, index_t row_begin, index_t rows, T const* values) {
    write_block(name, row_begin, rows, 0, -1, values);
  }
  /// The same for columns [col_begin, col_begin + cols) of these rows, packed; cols = -1: to the
  /// end of the row.
  template <class T>
  void write_block(std::string const& name, index_t row_begin, index_t rows, index_t col_begin,
                   index_t cols, T const* values);

  /// Publishes the files. DataError where fewer or more elements were written than the tensors
  /// have.
  void finish();

  /// Paths of everything that finish() publishes.
  std::vector<std::string> const& paths() const { return m_paths; }

 private:
  struct File;
  struct Place {
    std::size_t file;
    std::int64_t offset;
    index_t rows;
    index_t cols;
    index_t written;
  };

  std::string m_folder;
  TensorType m_type;
  std::int64_t m_width;
  std::vector<std::unique_ptr<File>> m_files;
  std::map<std::string, Place> m_places;
  std::vector<std::string> m_paths;
  std::string m_index;  ///< text of the index file, empty for a single file
  bool m_finished = false;
};

}  // namespace sdp
