// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/types.hpp"
#include "config/config.hpp"

namespace sdp {

/// The first int32 words of an llm.c shard: magic, version, token count; 256 words in all, then the
/// tokens. Source: karpathy/llm.c, dev/data and llmc/dataloader.h.
inline constexpr std::int32_t k_gpt2_magic = 20240520;
inline constexpr std::int32_t k_gpt2_version = 1;
inline constexpr std::int32_t k_llama3_magic = 20240801;
inline constexpr std::int32_t k_llama3_version = 7;
inline constexpr index_t k_shard_header_bytes = 1024;

/// One file of tokens: an llm.c GPT-2 shard (uint16), an llm.c Llama-3 shard (uint32) or a nanoGPT
/// `.bin` (headerless uint16), all little-endian.
///
/// Tokens are read with positioned reads, not mapped: a mapping's pages count as resident memory of
/// the process, and a file that shrinks or a disk that fails would end it with a signal instead of
/// a sentence. Offsets are 64-bit.
class TokenShard {
 public:
  /// Reads and checks the header against the size of the file, and closes it again.
  /// `automatic` accepts the llm.c layouts only: a damaged header must not turn into tokens.
  /// ConfigError for a file that is missing, unreadable, not a regular file, empty, truncated, too
  /// long, or whose magic, version, count or size is wrong.
  TokenShard(std::string path, TokenFormat format);
  ~TokenShard() { close(); }
  TokenShard(TokenShard&& other) noexcept;
  TokenShard& operator=(TokenShard&&) = delete;

  std::string const& path() const { return m_path; }
  index_t num_tokens() const { return m_num_tokens; }
  int token_bytes() const { return m_token_bytes; }
  /// Byte at which token `index` starts.
  index_t offset(index_t index) const { return m_data_offset + index * m_token_bytes; }

  /// tokens[0..count) = tokens [first, first + count) of the shard, overwritten. Opens the file
  /// when it is closed. DataError, naming file and offset, when the bytes cannot be read any more.
  /// One thread at a time.
  void read(index_t first, index_t count, std::int32_t* tokens);
  bool is_open() const { return m_file >= 0; }
  void close();

 private:
  std::string m_path;
  index_t m_num_tokens = 0;
  index_t m_data_offset = 0;
  int m_token_bytes = 2;
  int m_file = -1;
};

}  // namespace sdp
