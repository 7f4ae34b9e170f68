// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.hpp"

namespace sdp {

/// A sentencepiece model.
class Tokenizer {
 public:
  /// ConfigError when the file is missing or is not a sentencepiece model.
  explicit Tokenizer(std::string const& file);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  std::string const& file() const;
  index_t vocab_size() const;
  std::int32_t bos_id() const;  ///< -1 where the model has none
  std::int32_t eos_id() const;  ///< -1 where the model has none

  /// The ids of `text` (UTF-8), no BOS added: exactly what sentencepiece gives for the whole text,
  /// but cut where no piece of the model can cross, so that time grows with the length alone.
  std::vector<std::int32_t> encode(std::string_view text);
  /// Appends to `ids`. `continues`: `text` follows text encoded before, so that the space that
  /// sentencepiece may put before a text is left out; exact when `text` starts with a newline.
  void encode(std::string_view text, bool continues, std::vector<std::int32_t>& ids);

  /// The text of `ids`; control ids such as BOS have none. DataError for an id outside the model.
  std::string decode(std::vector<std::int32_t> const& ids) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> m_impl;
};

struct TrainTokenizerOptions {
  std::string model_file;  ///< written; the name as it is
  index_t vocab_size = 0;  ///< byte pieces and <unk>, <s>, </s> included
  std::vector<std::string> inputs;
  std::string jsonl_field;
  double character_coverage = 0.9995;  ///< of the characters; the rest falls back to bytes
  /// Lines are sampled evenly down to about this many bytes of text, which bounds memory and time.
  index_t max_bytes = index_t{200} << 20;
};

struct TrainTokenizerSummary {
  index_t vocab_size = 0;
  index_t documents = 0;
  index_t bytes = 0;       ///< of text read
  index_t used_bytes = 0;  ///< of text trained on
  double seconds = 0;
};

/// Trains a byte-pair model like LLaMA's: byte fallback, digits apart, no normalisation, ids 0
/// <unk>, 1 <s>, 2 </s>, then 256 bytes. Deterministic. Written under a temporary name and renamed.
/// ConfigError where the vocabulary size does not fit the text; DataError where writing fails.
TrainTokenizerSummary train_tokenizer(TrainTokenizerOptions const& options);

}  // namespace sdp
