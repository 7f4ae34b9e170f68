// SPDX-License-Identifier: Apache-2.0
#include <sentencepiece_trainer.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/timer.hpp"
#include "data/text_file.hpp"
#include "data/text_source.hpp"
#include "data/tokenizer.hpp"

namespace sdp {

namespace {

namespace fs = std::filesystem;

/// Longer lines are cut; the library would leave them out.
constexpr index_t k_longest_line = 4096;

/// Lines of a stream of documents. When they exceed a number of bytes every other one is dropped,
/// and from then on only every second, fourth, ... line is taken: an even sample of bounded size
/// that depends on nothing but the text.
class LineSample {
 public:
  explicit LineSample(index_t max_bytes) : m_max_bytes(max_bytes) {}

  void add(std::string_view text) {
    while (!text.empty()) {
      const std::size_t newline = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, newline);
      text.remove_prefix(std::min(newline + 1, text.size()));
      while (!line.empty()) {
        const auto cut = static_cast<index_t>(line.size()) > k_longest_line
                             ? static_cast<std::size_t>(cut_text(line, k_longest_line))
                             : line.size();
        if (m_seen++ % m_stride == 0) keep(line.substr(0, cut));
        line.remove_prefix(cut);
      }
    }
  }

  std::vector<std::string>& lines() { return m_lines; }
  index_t bytes() const { return m_bytes; }

 private:
  void keep(std::string_view line) {
    m_lines.emplace_back(line);
    m_bytes += static_cast<index_t>(line.size());
    if (m_bytes <= m_max_bytes) return;
    m_stride *= 2;
    m_bytes = 0;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < m_lines.size(); i += 2) {
      m_bytes += static_cast<index_t>(m_lines[i].size());
      if (i != kept) m_lines[kept] = std::move(m_lines[i]);
      ++kept;
    }
    m_lines.resize(kept);
  }

  index_t m_max_bytes;
  index_t m_bytes = 0;
  index_t m_seen = 0;
  index_t m_stride = 1;
  std::vector<std::string> m_lines;
};

class LineIterator : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(std::vector<std::string>& lines) : m_lines(lines) {}
  bool done() const override { return m_at == m_lines.size(); }
  void Next() override { std::string().swap(m_lines[m_at++]); }  // the library has its copy
  std::string const& value() const override { return m_lines[m_at]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string>& m_lines;
  std::size_t m_at = 0;
};

/// The number that follows `mark` in the library's message, "" where there is none.
std::string number_after(std::string const& message, std::string const& mark) {
  const auto at = message.find(mark);
  if (at == std::string::npos) return "";
  const auto begin = at + mark.size();
  return message.substr(begin, message.find_first_not_of("0123456789", begin) - begin);
}

void check(TrainTokenizerOptions const& options) {
  if (options.vocab_size < 260)
    throw ConfigError("--vocab-size is " + std::to_string(options.vocab_size) +
                      ", expected at least 260: 256 bytes, <unk>, <s>, </s> and a character");
  if (options.vocab_size > 10'000'000)
    throw ConfigError("--vocab-size is " + std::to_string(options.vocab_size) +
                      ", expected at most 10000000");
  std::error_code ignored;
  const fs::path folder = fs::path(options.model_file).parent_path();
  if (options.model_file.empty()) throw ConfigError("--train-model names no file");
  if (!folder.empty() && !fs::is_directory(folder, ignored))
    throw ConfigError(options.model_file + ": the folder " + folder.string() + " does not exist");
  if (fs::is_directory(options.model_file, ignored))
    throw ConfigError(options.model_file + ": is a folder, expected the name of a file");
}

void write_whole(std::string const& file, std::string const& content) {
  std::string const temporary = file + ".tmp";
  errno = 0;
  std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
  stream.write(content.data(), static_cast<std::streamsize>(content.size()));
  stream.close();
  if (stream.good() && std::rename(temporary.c_str(), file.c_str()) == 0) return;
  std::string const reason = std::strerror(errno);
  std::error_code ignored;
  fs::remove(temporary, ignored);
  throw DataError(file + ": writing " + std::to_string(content.size()) +
                  " bytes failed: " + reason);
}

}  // namespace

TrainTokenizerSummary train_tokenizer(TrainTokenizerOptions const& options) {
  Timer timer;
  check(options);
  TrainTokenizerSummary summary;
  TextSource source(options.inputs, {options.jsonl_field, index_t{1} << 20});
  LineSample sample(options.max_bytes);
  for (TextPiece piece; source.next(piece);) sample.add(piece.text);
  source.report();
  summary.documents = source.documents();
  summary.bytes = source.bytes();
  summary.used_bytes = sample.bytes();
  if (summary.used_bytes == 0)
    throw ConfigError(options.inputs.front() + (options.inputs.size() > 1 ? " and the other" : "") +
                      " inputs hold no text to train a tokenizer on");

  LineIterator lines(sample.lines());
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"model_type", "bpe"},
       {"vocab_size", std::to_string(options.vocab_size)},
       {"character_coverage", std::to_string(options.character_coverage)},
       {"byte_fallback", "true"},
       {"split_digits", "true"},
       {"allow_whitespace_only_pieces", "true"},
       {"normalization_rule_name", "identity"},
       {"remove_extra_whitespaces", "false"},
       {"max_sentence_length", std::to_string(2 * k_longest_line)},
       {"num_threads", "1"},  // recorded in the model, which must not depend on the machine
       {"minloglevel", "2"}},
      &lines, &model);
  if (!status.ok()) {
    std::string const message = status.ToString();
    std::string const most = number_after(message, "set it to a value <= ");
    std::string const least =
        number_after(message, "required_chars. " + std::to_string(options.vocab_size) + " vs ");
    std::string const asked = "--vocab-size is " + std::to_string(options.vocab_size);
    if (!most.empty())
      throw ConfigError(asked + ", but the text has pieces for at most " + most + " ids");
    if (!least.empty())
      throw ConfigError(asked + ", but the bytes and characters of the text alone take " + least);
    throw DataError("training the tokenizer failed: " + message);
  }
  write_whole(options.model_file, model);
  summary.vocab_size = options.vocab_size;
  summary.seconds = timer.seconds();
  return summary;
}

}  // namespace sdp
