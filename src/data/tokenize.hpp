// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/index.hpp"

namespace sdp {

struct TokenizeOptions {
  std::string model_file;  ///< sentencepiece model
  std::string out_prefix;  ///< of PREFIX_train_%06d.bin and PREFIX_val_%06d.bin
  std::vector<std::string> inputs;
  std::string jsonl_field;
  double val_fraction = 0;  ///< X in [0, 1)
  index_t shard_tokens = 100'000'000;
};

struct TokenizeSummary {
  index_t documents = 0;
  index_t val_documents = 0;
  index_t bytes = 0;  ///< of text
  index_t train_tokens = 0;
  index_t val_tokens = 0;
  std::vector<std::string> files;  ///< written, train first
  double seconds = 0;
};

/// Writes text as llm.c token shards, streaming: GPT-2 layout (uint16) when the vocabulary has at
/// most 65536 ids, else Llama-3 layout (uint32). Every document starts with the model's BOS id.
/// A shard ends after `shard_tokens` tokens, wherever that falls.
///
/// Document i (from 0, in reading order) is validation when floor((i+1)X) > floor(iX): the counts
/// are exact to a document and the choice depends on nothing else. When the input has too few
/// documents for that, the last X of all tokens becomes the validation part instead, a BOS before
/// it.
///
/// Files are written under temporary names and renamed when all are complete; nothing stays behind
/// on an error. ConfigError, before anything is written, for bad options, inputs or an output that
/// exists; DataError for a fault while reading or writing.
TokenizeSummary tokenize(TokenizeOptions const& options);

}  // namespace sdp
