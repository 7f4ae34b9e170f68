// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/types.hpp"

namespace sdp {

struct TextOptions {
  /// Field of a JSONL object that holds the text; "" means "text".
  std::string jsonl_field;
  /// A longer document comes in pieces of about this many bytes.
  index_t piece_bytes = index_t{1} << 20;
};

/// Part of a document. All pieces of a document come one after another, `starts_document` on the
/// first; a cut lies before a newline wherever the text has one.
struct TextPiece {
  std::string text;  ///< valid UTF-8
  bool starts_document = true;
};

/// Documents from files and folders, streamed: memory is bounded by the piece size, and by the
/// longest line for JSONL.
///
/// - A file named *.jsonl or *.ndjson (and *.json when `jsonl_field` is given) has one JSON object
/// a
///   line, the text in the named field; any other file is one document.
/// - Either may be compressed with gzip or zstd (recognised by content, several frames allowed).
/// - A folder stands for all files below it in byte order of their paths; names that start with a
///   dot are left out, and so are files with a NUL byte at their start (binary), with a warning.
/// - A byte order mark at the start of a file is dropped; bytes that are not UTF-8 become U+FFFD,
///   counted and reported once. Documents without text are skipped and counted.
class TextSource {
 public:
  /// ConfigError where an input is missing or unreadable, or a folder has no file.
  TextSource(std::vector<std::string> const& inputs, TextOptions options = {});
  ~TextSource();
  TextSource(TextSource&&) noexcept;

  /// The next piece, false at the end. DataError naming file and line or offset for a malformed or
  /// truncated file.
  bool next(TextPiece& piece);

  std::vector<std::string> const& files() const;  ///< in reading order
  index_t documents() const;                      ///< started so far
  index_t empty_documents() const;
  index_t bytes() const;           ///< of text returned so far
  index_t replaced_bytes() const;  ///< that were not UTF-8
  /// Logs one warning for each kind of thing that was skipped or replaced.
  void report() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> m_impl;
};

}  // namespace sdp
