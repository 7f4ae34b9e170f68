// SPDX-License-Identifier: Apache-2.0
#include "data/tokenize.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "base/error.hpp"
#include "base/timer.hpp"
#include "data/text_source.hpp"
#include "data/token_writer.hpp"
#include "data/tokenizer.hpp"

namespace sdp {

namespace {

namespace fs = std::filesystem;

void check(TokenizeOptions const& options) {
  if (!(options.val_fraction >= 0 && options.val_fraction < 1))
    throw ConfigError("--val-fraction is " + std::to_string(options.val_fraction) +
                      ", expected at least 0 and less than 1");
  // The header counts tokens in 32 bits.
  if (options.shard_tokens < 1 || options.shard_tokens > std::numeric_limits<std::int32_t>::max())
    throw ConfigError("a shard of " + std::to_string(options.shard_tokens) +
                      " tokens was asked for, expected 1 to 2147483647");
}

/// Refuses an output that exists or cannot be created. Shards of an earlier call with more of them
/// would be taken for part of this one, so that any is refused.
void check_output(std::string const& prefix) {
  fs::path const path(prefix);
  if (path.filename().empty())
    throw ConfigError("--out \"" + prefix +
                      "\" names no file, expected a prefix such as data/text");
  fs::path const folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::error_code error;
  if (!fs::is_directory(folder, error))
    throw ConfigError("--out " + prefix + ": the folder " + folder.string() + " does not exist");
  if (::access(folder.c_str(), W_OK) != 0)
    throw ConfigError("--out " + prefix + ": cannot write in the folder " + folder.string() + ": " +
                      std::strerror(errno));
  std::string const stem = path.filename().string();
  for (auto const& entry : fs::directory_iterator(folder, error)) {
    std::string const name = entry.path().filename().string();
    for (std::string const& part : {stem + "_train_", stem + "_val_"})
      if (name.starts_with(part) && name.ends_with(".bin"))
        throw ConfigError("--out " + prefix + ": " + entry.path().string() +
                          " exists already; remove it or choose another prefix");
  }
}

/// Whether document i (from 0) is validation. The small term keeps 10 * 0.1 and its like whole.
bool is_validation(index_t i, double fraction) {
  auto before = [&](index_t n) { return std::floor(static_cast<double>(n) * fraction + 1e-9); };
  return before(i + 1) > before(i);
}

}  // namespace

TokenizeSummary tokenize(TokenizeOptions const& options) {
  Timer timer;
  check(options);
  Tokenizer tokenizer(options.model_file);
  const std::int32_t bos = tokenizer.bos_id();
  if (bos < 0)
    throw ConfigError(options.model_file +
                      ": the tokenizer has no BOS id, expected one to start "
                      "every document with");
  check_output(options.out_prefix);
  TextSource source(options.inputs, {options.jsonl_field, index_t{1} << 20});

  const int token_bytes = tokenizer.vocab_size() <= 65536 ? 2 : 4;
  TokenWriter train(options.out_prefix + "_train", token_bytes, options.shard_tokens);
  TokenWriter val(options.out_prefix + "_val", token_bytes, options.shard_tokens);
  TokenizeSummary summary;
  TokenWriter* writer = &train;
  std::vector<std::int32_t> ids;
  for (TextPiece piece; source.next(piece);) {
    ids.clear();
    if (piece.starts_document) {
      const bool validation = is_validation(source.documents() - 1, options.val_fraction);
      summary.val_documents += validation ? 1 : 0;
      writer = validation ? &val : &train;
      ids.push_back(bos);
    }
    tokenizer.encode(piece.text, !piece.starts_document, ids);
    writer->append(ids.data(), static_cast<index_t>(ids.size()));
  }
  source.report();
  if (train.num_tokens() == 0)
    throw ConfigError(options.inputs.front() + (options.inputs.size() > 1 ? " and the other" : "") +
                      " inputs hold no text to tokenize");
  if (options.val_fraction > 0 && val.num_tokens() == 0) {
    const auto tail = static_cast<index_t>(
        std::lround(options.val_fraction * static_cast<double>(train.num_tokens())));
    val.append(&bos, 1);
    train.move_tail(std::clamp<index_t>(tail, 1, train.num_tokens() - 1), val);
  }
  train.finish();
  val.finish();
  summary.train_tokens = train.num_tokens();
  summary.val_tokens = val.num_tokens();
  summary.documents = source.documents();
  summary.bytes = source.bytes();
  summary.files = train.publish();
  try {
    for (std::string& name : val.publish()) summary.files.push_back(std::move(name));
  } catch (DataError const&) {
    for (std::string const& name : summary.files) ::unlink(name.c_str());
    throw;
  }
  summary.seconds = timer.seconds();
  return summary;
}

}  // namespace sdp
