// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sdp::file_io {

/// A file descriptor; closed at the end of its life.
class File {
 public:
  /// For reading; ConfigError where the file cannot be opened or is no regular file.
  static File open(std::string const& path);
  /// New and empty, for reading and writing; DataError.
  static File create(std::string const& path);

  /// An existing file, to write into; DataError.
  static File open_to_write(std::string const& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(File const&) = delete;
  File& operator=(File const&) = delete;
  ~File();

  std::string const& path() const { return m_path; }
  std::int64_t size() const { return m_size; }  ///< when opened

  /// Exactly `bytes` bytes at `offset`; DataError naming file and offset, also at the end of file.
  void read(std::int64_t offset, void* out, std::int64_t bytes) const;
  /// Asks the system to read ahead; a hint.
  void prefetch(std::int64_t offset, std::int64_t bytes) const;
  /// DataError naming file, offset and the reason.
  void write(std::int64_t offset, void const* data, std::int64_t bytes);
  /// Sets the size, and reserves the disk space where the file system can; DataError where there is
  /// not enough, or where the process may not write files of that size.
  void reserve(std::int64_t bytes);
  /// To the disk; DataError.
  void sync();

 private:
  File(std::string path, int descriptor, std::int64_t size);

  std::string m_path;
  int m_descriptor = -1;
  std::int64_t m_size = 0;
};

/// An empty file in memory (/dev/shm; the folder for temporary files where that is missing) that
/// libraries can open by name. Only what is written to it takes space.
class ScratchFile {
 public:
  /// DataError naming `purpose`.
  explicit ScratchFile(std::string const& purpose);
  ~ScratchFile();
  ScratchFile(ScratchFile const&) = delete;
  ScratchFile& operator=(ScratchFile const&) = delete;

  std::string const& path() const { return m_path; }
  /// Removes the name; the file lives on until all that opened it are done.
  void unlink();
  std::int64_t size() const;
  /// Writes its contents, holes left out, to the same places of a file; DataError.
  void copy_to(File& file) const;

 private:
  std::string m_path;
  int m_descriptor = -1;
};

/// Throws DataError where this process may not write a file of that size (ulimit -f).
void check_size_limit(std::string const& path, std::int64_t bytes);

/// Whole text of a file of at most `limit` bytes; ConfigError.
std::string read_text(std::string const& path, std::int64_t limit);
/// Temporary name, flush to the disk, rename, flush the folder; DataError.
void write_text(std::string const& path, std::string const& text);

/// Flushes a closed file to the disk; DataError.
void sync_file(std::string const& path);
/// Makes the names in a folder lasting; DataError.
void sync_folder(std::string const& path);
/// Renames and flushes the folder of `to`, so that the new name survives a power cut; DataError.
void publish(std::string const& from, std::string const& to);
/// Removes a file, silently where that fails.
void remove_quietly(std::string const& path) noexcept;

/// Creates a folder and those above it; DataError.
void make_folder(std::string const& path);

/// Text from a file, fit for an error message: in quotes, shortened, control bytes escaped.
std::string in_quotes(std::string_view text);
/// "[2, 3]"
template <class Extents>
std::string shape_text(Extents const& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace sdp::file_io
