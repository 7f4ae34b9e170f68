// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/types.hpp"

namespace sdp {

/// Writes tokens as a series of llm.c shards `<stem>_%06d.bin`, each of at most `shard_tokens`.
///
/// Shards are written as `<name>.tmp` and get their names by publish(); what was not published is
/// removed by the destructor. Every fault is a DataError naming file and offset.
class TokenWriter {
 public:
  /// `token_bytes` 2: GPT-2 layout; 4: Llama-3 layout.
  TokenWriter(std::string stem, int token_bytes, index_t shard_tokens);
  ~TokenWriter();
  TokenWriter(TokenWriter const&) = delete;
  TokenWriter& operator=(TokenWriter const&) = delete;

  void append(std::int32_t const* tokens, index_t count);
  index_t num_tokens() const { return m_num_tokens; }

  /// Takes the last `count` tokens off and appends them to `other`.
  void move_tail(index_t count, TokenWriter& other);

  /// Completes headers and bytes on the disk; no append after it.
  void finish();
  /// Gives the finished files their names, and returns these.
  std::vector<std::string> publish();

 private:
  struct Shard {
    std::string name;
    index_t num_tokens;
  };
  void start_shard();
  void flush();
  void write_header(Shard const& shard);
  void write_at(std::string const& name, void const* from, index_t bytes, index_t offset);
  void open(std::string const& name, int flags);
  void close();

  std::string m_stem;
  int m_token_bytes;
  index_t m_shard_tokens;
  index_t m_num_tokens = 0;
  std::vector<Shard> m_shards;
  std::vector<char> m_buffer;  ///< tokens of the last shard that are not in its file yet
  int m_file = -1;             ///< of the last shard
  bool m_published = false;
};

/// "<stem>_%06d.bin"
std::string shard_name(std::string const& stem, index_t index);

}  // namespace sdp
