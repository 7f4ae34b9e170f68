// SPDX-License-Identifier: Apache-2.0
#include "data/text_source.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "data/text_file.hpp"

namespace sdp {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t k_longest_line = std::size_t{1} << 30;
constexpr std::size_t k_binary_probe = 8 << 10;

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

/// Files below a folder in byte order of their paths; names that start with a dot are left out.
std::vector<std::string> files_below(std::string const& folder) {
  std::vector<std::string> files;
  try {
    for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::end(entry); ++entry) {
      const bool hidden = entry->path().filename().native().front() == '.';
      if (hidden && entry->is_directory()) entry.disable_recursion_pending();
      std::error_code ignored;
      if (!hidden && entry->is_regular_file(ignored)) files.push_back(entry->path().string());
    }
  } catch (fs::filesystem_error const& error) {
    throw ConfigError(folder + ": a folder cannot be read: " + error.code().message());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) throw ConfigError(folder + ": the folder has no file");
  return files;
}

bool is_jsonl(std::string const& path, bool field_given) {
  fs::path name = fs::path(path).filename();
  std::string extension = name.extension().string();
  if (extension == ".gz" || extension == ".zst" || extension == ".zstd")
    extension = name.stem().extension().string();
  return extension == ".jsonl" || extension == ".ndjson" || (field_given && extension == ".json");
}

/// The library's message without its internal prefix.
std::string reason(nlohmann::json::exception const& error) {
  std::string text = error.what();
  const auto end = text.find("] ");
  return end == std::string::npos ? text : text.substr(end + 2);
}

}  // namespace

struct TextSource::Impl {
  TextOptions options;
  std::vector<std::string> files;
  std::vector<bool> from_folder;

  std::size_t next_file = 0;
  std::optional<TextFile> file;
  bool jsonl = false;
  bool file_ended = false;
  std::string raw;       ///< read and not yet given
  std::size_t used = 0;  ///< of raw, by next_line
  index_t line = 0;

  std::string document;      ///< the rest of a JSONL document
  std::size_t position = 0;  ///< used part of `document`
  bool in_document = false;  ///< the next piece continues the last one

  index_t documents = 0;
  index_t empty_documents = 0;
  index_t bytes = 0;
  index_t replaced = 0;
  std::string replaced_name;
  index_t binary_files = 0;
  std::string binary_name;

  bool more() {
    if (!file_ended && !file->append(raw)) file_ended = true;
    return !file_ended;
  }

  /// Opens the next file that is not a binary one in a folder; false when there is none.
  bool open_next() {
    while (next_file < files.size()) {
      const std::size_t at = next_file++;
      file.emplace(files[at]);
      jsonl = is_jsonl(files[at], !options.jsonl_field.empty());
      file_ended = in_document = false;
      line = 0;
      raw.clear();
      used = 0;
      while (raw.size() < k_binary_probe && more()) {
      }
      const std::size_t zero = std::string_view(raw).substr(0, k_binary_probe).find('\0');
      if (zero != std::string_view::npos) {
        if (!from_folder[at])
          throw DataError(files[at] + ": byte " + std::to_string(zero) +
                          " of the content is zero, expected UTF-8 text, JSONL, or gzip or zstd of "
                          "them");
        if (binary_files++ == 0) binary_name = files[at];
        continue;
      }
      if (raw.starts_with("\xEF\xBB\xBF")) raw.erase(0, 3);
      return true;
    }
    return false;
  }

  void clean(std::string_view from, std::string& to) {
    to.clear();
    const index_t count = append_utf8(from, to);
    if (count > 0 && replaced == 0) replaced_name = file->path();
    replaced += count;
  }

  void give(TextPiece& piece) {
    piece.starts_document = !in_document;
    documents += piece.starts_document ? 1 : 0;
    bytes += static_cast<index_t>(piece.text.size());
  }

  /// The next piece of a plain text file, false at its end.
  bool next_plain(TextPiece& piece) {
    const auto limit = static_cast<std::size_t>(options.piece_bytes);
    while (raw.size() <= limit && more()) {
    }
    if (raw.empty() || (!in_document && file_ended && raw.size() <= limit && is_blank(raw))) {
      empty_documents += in_document ? 0 : 1;
      return false;
    }
    const std::size_t end = raw.size() <= limit
                                ? raw.size()
                                : static_cast<std::size_t>(cut_text(raw, options.piece_bytes));
    clean(std::string_view(raw).substr(0, end), piece.text);
    raw.erase(0, end);
    give(piece);
    in_document = true;
    return true;
  }

  /// The next line of a JSONL file, checked and cleaned, without its newline; false at the end.
  bool next_line(std::string& text) {
    std::size_t searched = 0;  // from `used`
    std::size_t end = 0;
    while ((end = raw.find('\n', used + searched)) == std::string::npos) {
      searched = raw.size() - used;
      if (searched > k_longest_line)
        throw DataError(file->path() + ":" + std::to_string(line + 1) +
                        ": the line is longer than 1 GiB, expected one JSON object a line");
      raw.erase(0, std::exchange(used, 0));
      if (more()) continue;
      if (raw.empty()) return false;
      end = raw.size();
      break;
    }
    ++line;
    clean(std::string_view(raw).substr(used, end - used), text);
    used = std::min(end + 1, raw.size());
    return true;
  }

  /// The text of the object in `text`, put in its place.
  void extract(std::string& text) const {
    std::string const& field = options.jsonl_field.empty() ? "text" : options.jsonl_field;
    std::string const where = file->path() + ":" + std::to_string(line) + ": ";
    nlohmann::json object;
    try {
      object = nlohmann::json::parse(text);
    } catch (nlohmann::json::exception const& error) {
      throw DataError(where + "the line is not JSON (" + reason(error) +
                      "), expected one object a line");
    }
    if (!object.is_object())
      throw DataError(where + "the line holds a JSON " + object.type_name() +
                      ", expected an object with the text in its field \"" + field + "\"");
    const auto found = object.find(field);
    if (found == object.end()) {
      std::string names;
      for (auto const& entry : object.items()) names += (names.empty() ? "" : ", ") + entry.key();
      throw DataError(where + "the object has no field \"" + field + "\"; it has " +
                      (names.empty() ? "none" : names));
    }
    if (!found->is_string())
      throw DataError(where + "the field \"" + field + "\" holds a " + found->type_name() +
                      ", expected a string");
    text = std::move(found->get_ref<std::string&>());
  }

  /// The next piece of a JSONL file, false at its end.
  bool next_object(TextPiece& piece) {
    if (position == document.size()) {
      position = 0;
      in_document = false;
      do {
        if (!next_line(document)) {
          document.clear();
          return false;
        }
        if (is_blank(document)) continue;  // an empty line, not an empty document
        extract(document);
        if (is_blank(document)) ++empty_documents;
      } while (is_blank(document));
    }
    const std::string_view rest = std::string_view(document).substr(position);
    const std::size_t size = rest.size() <= static_cast<std::size_t>(options.piece_bytes)
                                 ? rest.size()
                                 : static_cast<std::size_t>(cut_text(rest, options.piece_bytes));
    piece.text.assign(rest.substr(0, size));
    position += size;
    give(piece);
    in_document = true;
    return true;
  }
};

TextSource::TextSource(std::vector<std::string> const& inputs, TextOptions options)
    : m_impl(std::make_unique<Impl>()) {
  m_impl->options = std::move(options);
  m_impl->options.piece_bytes = std::max<index_t>(m_impl->options.piece_bytes, 64);
  if (inputs.empty()) throw ConfigError("no input is given, expected text files or folders");
  for (std::string const& input : inputs) {
    std::error_code error;
    const bool folder = fs::is_directory(input, error);
    if (folder) {
      for (std::string& file : files_below(input)) m_impl->files.push_back(std::move(file));
    } else if (::access(input.c_str(), R_OK) == 0) {
      m_impl->files.push_back(input);
    } else {
      throw ConfigError(input + ": cannot be read as text: " + std::strerror(errno));
    }
    m_impl->from_folder.resize(m_impl->files.size(), folder);
  }
}
TextSource::~TextSource() = default;
TextSource::TextSource(TextSource&&) noexcept = default;

bool TextSource::next(TextPiece& piece) {
  Impl& impl = *m_impl;
  for (;;) {
    if (impl.file && (impl.jsonl ? impl.next_object(piece) : impl.next_plain(piece))) return true;
    if (!impl.open_next()) {
      impl.file.reset();
      return false;
    }
  }
}

std::vector<std::string> const& TextSource::files() const {
  return m_impl->files;
}
index_t TextSource::documents() const {
  return m_impl->documents;
}
index_t TextSource::empty_documents() const {
  return m_impl->empty_documents;
}
index_t TextSource::bytes() const {
  return m_impl->bytes;
}
index_t TextSource::replaced_bytes() const {
  return m_impl->replaced;
}

void TextSource::report() const {
  Impl const& impl = *m_impl;
  if (impl.binary_files > 0)
    log::warning(std::to_string(impl.binary_files) + " binary file(s) left out; the first is " +
                 impl.binary_name);
  if (impl.empty_documents > 0)
    log::warning(std::to_string(impl.empty_documents) + " document(s) without text left out");
  if (impl.replaced > 0)
    log::warning(std::to_string(impl.replaced) +
                 " byte(s) that are not UTF-8 were replaced by U+FFFD; the first are in " +
                 impl.replaced_name);
}

}  // namespace sdp
