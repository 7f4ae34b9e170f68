// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.hpp"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <unordered_map>

#include "base/error.hpp"

namespace sdp {

namespace {

constexpr std::string_view k_space_mark = "\xE2\x96\x81";  // U+2581: a space inside a piece
constexpr std::size_t k_longest_word = 48;
constexpr std::size_t k_cached_words = std::size_t{1} << 19;

struct WordHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view word) const {
    return std::hash<std::string_view>{}(word);
  }
};

/// The first word of `text`: a newline, or spaces and the characters up to the next space or
/// newline.
std::string_view first_word(std::string_view text) {
  if (text.front() == '\n') return text.substr(0, 1);
  const std::size_t begin = std::min(text.find_first_not_of(' '), text.size());
  std::size_t end = begin;
  while (end < text.size() && text[end] != ' ' && text[end] != '\n') ++end;
  return text.substr(0, end);
}

}  // namespace

/// Encoding a word at a time gives the same ids as encoding the text at once when no piece of the
/// model reaches across the end of a word: none holds a newline, none a space behind another
/// character, and unknown characters on both sides do not fuse. The constructor establishes this
/// from the vocabulary, and from probes for what the vocabulary does not tell (normalisation,
/// unknown spaces and newlines); a failed probe turns it off. Then most words come from a cache.
struct Tokenizer::Impl {
  std::string file;
  sentencepiece::SentencePieceProcessor processor;
  bool by_word = false;
  std::size_t newline_ids = 0;  ///< ids that a leading newline adds to what follows it

  struct Slot {
    std::uint32_t begin;
    std::uint32_t count;
  };
  std::unordered_map<std::string, Slot, WordHash, std::equal_to<>> words;
  std::vector<std::int32_t> word_ids;
  std::string scratch;
  std::vector<int> found;

  void whole(std::string_view text, std::size_t skip, std::vector<std::int32_t>& ids) {
    const auto status = processor.Encode(absl::string_view(text.data(), text.size()), &found);
    if (!status.ok()) throw DataError(file + ": the tokenizer failed: " + status.ToString());
    ids.insert(ids.end(), found.begin() + static_cast<std::ptrdiff_t>(std::min(skip, found.size())),
               found.end());
  }

  /// Ids of `text` as they are behind a newline, where no space is put before them.
  void inside(std::string_view text, std::vector<std::int32_t>& ids) {
    scratch.assign(1, '\n').append(text);
    whole(scratch, newline_ids, ids);
  }

  void word(std::string_view text, std::vector<std::int32_t>& ids) {
    const auto known = words.find(text);
    if (known != words.end()) {
      const auto begin = word_ids.begin() + known->second.begin;
      ids.insert(ids.end(), begin, begin + known->second.count);
      return;
    }
    const std::size_t before = ids.size();
    inside(text, ids);
    if (text.size() > k_longest_word || words.size() >= k_cached_words) return;
    words.emplace(text, Slot{static_cast<std::uint32_t>(word_ids.size()),
                             static_cast<std::uint32_t>(ids.size() - before)});
    word_ids.insert(word_ids.end(), ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end());
  }

  void split(std::string_view text, bool continues, std::vector<std::int32_t>& ids) {
    // U+2581 in a text is a space to the model and not to first_word.
    if (text.find(k_space_mark) != std::string_view::npos) {
      if (continues)
        inside(text, ids);
      else
        whole(text, 0, ids);
      return;
    }
    if (!continues && !text.empty()) {
      const std::string_view first = first_word(text);
      whole(first, 0, ids);
      text.remove_prefix(first.size());
    }
    while (!text.empty()) {
      const std::string_view next = first_word(text);
      word(next, ids);
      text.remove_prefix(next.size());
    }
  }

  bool pieces_end_with_words() const {
    for (int id = 0; id < processor.GetPieceSize(); ++id) {
      if (processor.IsControl(id) || processor.IsUnknown(id) || processor.IsByte(id)) continue;
      std::string_view piece = processor.IdToPiece(id);
      if (piece.find('\n') != std::string_view::npos) return false;
      while (piece.starts_with(k_space_mark)) piece.remove_prefix(k_space_mark.size());
      if (piece.find(k_space_mark) != std::string_view::npos) return false;
    }
    return true;
  }

  void find_word_mode() {
    std::vector<std::int32_t> newline;
    whole("\n", 0, newline);  // none where the model turns a leading newline into nothing
    newline_ids = newline.size();
    by_word = true;
    // U+E000 and U+E001 are unknown to nearly every model.
    static constexpr std::array<std::string_view, 13> k_probes = {
        "a",
        "\n",
        "a\n",
        "\na",
        "a b",
        " a \n  b\n",
        "x\n\n\ny",
        "x\n\ty",
        "a  b   c ",
        "12 3\n4.5",
        "\r\n\tThe end.\r\n",
        "\xEE\x80\x80 \xEE\x80\x81  \xEE\x80\x80",
        "\xC3\xA9\n\n \xEE\x80\x80\xEE\x80\x81\n\xEE\x80\x80"};
    for (std::string_view probe : k_probes) {
      std::vector<std::int32_t> expected, split_ids;
      whole(probe, 0, expected);
      split(probe, false, split_ids);
      by_word = by_word && expected == split_ids;
    }
    by_word = by_word && pieces_end_with_words();
    words.clear();
    word_ids.clear();
  }
};

Tokenizer::Tokenizer(std::string const& file) : m_impl(std::make_unique<Impl>()) {
  m_impl->file = file;
  std::error_code ignored;
  errno = 0;
  std::string content;
  if (std::filesystem::is_directory(file, ignored)) {
    errno = EISDIR;
  } else {
    std::ifstream stream(file, std::ios::binary);
    content.assign(std::istreambuf_iterator<char>(stream), {});
  }
  if (content.empty())
    throw ConfigError(file + ": cannot be read as a sentencepiece model: " +
                      (errno != 0 ? std::strerror(errno) : "the file is empty"));
  const auto status = m_impl->processor.LoadFromSerializedProto(content);
  if (!status.ok() || m_impl->processor.GetPieceSize() == 0)
    throw ConfigError(file + ": is not a sentencepiece model (" + std::to_string(content.size()) +
                      " bytes)");
  m_impl->find_word_mode();
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

std::string const& Tokenizer::file() const {
  return m_impl->file;
}
index_t Tokenizer::vocab_size() const {
  return m_impl->processor.GetPieceSize();
}
std::int32_t Tokenizer::bos_id() const {
  return m_impl->processor.bos_id();
}
std::int32_t Tokenizer::eos_id() const {
  return m_impl->processor.eos_id();
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) {
  std::vector<std::int32_t> ids;
  encode(text, false, ids);
  return ids;
}

void Tokenizer::encode(std::string_view text, bool continues, std::vector<std::int32_t>& ids) {
  if (m_impl->by_word)
    m_impl->split(text, continues, ids);
  else
    m_impl->whole(text, 0, ids);
}

std::string Tokenizer::decode(std::vector<std::int32_t> const& ids) const {
  for (std::int32_t id : ids)
    if (id < 0 || id >= vocab_size())
      throw DataError(m_impl->file + ": token " + std::to_string(id) +
                      " is outside the tokenizer's " + std::to_string(vocab_size()) + " pieces");
  std::string text;
  const auto status = m_impl->processor.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  if (!status.ok()) throw DataError(m_impl->file + ": the tokenizer failed: " + status.ToString());
  return text;
}

}  // namespace sdp
