// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/types.hpp"

namespace sdp {

/// The bytes of one file as a stream, decompressed when the content is gzip or zstd.
class TextFile {
 public:
  /// DataError when the file cannot be opened.
  explicit TextFile(std::string path);
  ~TextFile();
  TextFile(TextFile&&) noexcept;
  TextFile& operator=(TextFile&&) noexcept;

  std::string const& path() const;
  /// Appends up to about 64 KiB to `text`; false, and nothing appended, at the end. DataError
  /// naming file and offset for an unreadable, corrupt or truncated file.
  bool append(std::string& text);

 private:
  struct Impl;
  std::unique_ptr<Impl> m_impl;
};

/// Appends `bytes` to `text` with every maximal ill-formed part replaced by U+FFFD (the practice of
/// the Unicode standard, section 3.9). Returns the number of bytes that were replaced.
index_t append_utf8(std::string_view bytes, std::string& text);

/// The largest cut <= limit that does not split a UTF-8 character: before a newline, else before a
/// space, else before any character. 0 < cut; text.size() > limit > 3.
index_t cut_text(std::string_view text, index_t limit);

}  // namespace sdp
