// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "data/token_shard.hpp"

namespace sdp {

/// Samples of T inputs and T targets from a list of token shards.
///
/// Sample i of a shard is its tokens [i*T, i*T + T], so a shard of `count` tokens has
/// floor((count - 1) / T) samples and none crosses into the next shard. File order is the order of
/// `files`. Memory does not grow with the size of the files; at most k_max_open are open at a time.
class TokenDataset {
 public:
  static constexpr int k_max_open = 64;

  /// Checks every header. A shard that is too short for one sample is skipped with a warning;
  /// ConfigError naming `key` when no file has one. `vocab_size` bounds the tokens.
  TokenDataset(std::string key, std::vector<std::string> const& files, TokenFormat format,
               index_t seq_len, index_t vocab_size);

  std::string const& key() const { return m_key; }
  index_t seq_len() const { return m_seq_len; }
  index_t num_samples() const { return m_first_sample.back(); }
  index_t num_tokens() const { return m_num_tokens; }  ///< of all files, sampled or not
  index_t num_shards() const { return static_cast<index_t>(m_shards.size()); }

  /// tokens[0..T] = the T + 1 tokens of sample `sample` in file order, overwritten. DataError
  /// naming file and byte offset when a token is not in [0, vocab_size) or cannot be read. One
  /// thread at a time.
  void read(index_t sample, std::int32_t* tokens);

 private:
  TokenShard& opened(index_t shard);

  std::string m_key;
  std::vector<TokenShard> m_shards;
  std::vector<index_t> m_first_sample;  ///< (shards + 1): running sum of samples per shard
  std::vector<index_t> m_open;          ///< open shards, the least recently read first
  index_t m_seq_len;
  index_t m_vocab_size;
  index_t m_num_tokens = 0;
};

}  // namespace sdp
