// SPDX-License-Identifier: Apache-2.0
#include "data/token_shard.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "base/error.hpp"

namespace sdp {

static_assert(std::endian::native == std::endian::little, "token shards are little-endian");

namespace {

struct File {
  int descriptor;
  ~File() { ::close(descriptor); }
};

/// Bytes read at `offset`: fewer than `bytes` at the end of the file, -1 on an error (errno).
index_t read_at(int file, void* to, index_t bytes, index_t offset) {
  index_t done = 0;
  while (done < bytes) {
    const auto got = ::pread(file, static_cast<char*>(to) + done,
                             static_cast<std::size_t>(bytes - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += got;
  }
  return done;
}

// A named pipe would block an open for reading until somebody writes.
int open_to_read(std::string const& path) {
  return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

[[noreturn]] void refuse(std::string const& path, std::string const& what) {
  throw ConfigError(path + ": " + what);
}

struct Header {
  std::array<std::int32_t, 3> words{};  ///< magic, version, count
  index_t bytes = 0;                    ///< that the file has of them
  index_t file_size = 0;
};

bool has_known_magic(Header const& header) {
  return header.bytes >= 4 &&
         (header.words[0] == k_gpt2_magic || header.words[0] == k_llama3_magic);
}

struct Layout {
  index_t num_tokens;
  index_t data_offset;
  int token_bytes;
};

Layout check_llmc(std::string const& path, Header const& header) {
  const bool gpt2 = header.words[0] == k_gpt2_magic;
  const std::int32_t version = gpt2 ? k_gpt2_version : k_llama3_version;
  const int token_bytes = gpt2 ? 2 : 4;
  std::string const kind = gpt2 ? "llm.c GPT-2 shard" : "llm.c Llama-3 shard";
  if (header.file_size < k_shard_header_bytes)
    refuse(path, "truncated " + kind + ": the file has " + std::to_string(header.file_size) +
                     " bytes, its header alone takes " + std::to_string(k_shard_header_bytes));
  if (header.words[1] != version)
    refuse(path, kind + " with version " + std::to_string(header.words[1]) + ", expected " +
                     std::to_string(version));
  const index_t count = header.words[2];
  const index_t expected = k_shard_header_bytes + count * token_bytes;
  if (count < 0 || header.file_size != expected)
    refuse(path, kind + " whose header counts " + std::to_string(count) + " tokens (" +
                     (count < 0 ? "a negative number" : std::to_string(expected) + " bytes") +
                     ") but the file has " + std::to_string(header.file_size) + " bytes" +
                     (header.file_size < expected ? "; it is truncated" : ""));
  if (count == 0) refuse(path, kind + " without a token");
  return {count, k_shard_header_bytes, token_bytes};
}

Layout check_nanogpt(std::string const& path, Header const& header) {
  if (header.bytes >= 8 && has_known_magic(header) &&
      (header.words[1] == k_gpt2_version || header.words[1] == k_llama3_version))
    refuse(
        path,
        "starts with the header of an llm.c shard, but data.format is \"nanogpt-u16\"; set it to "
        "\"auto\"");
  if (header.file_size % 2 != 0)
    refuse(path, "has " + std::to_string(header.file_size) +
                     " bytes, expected an even number for uint16 tokens (nanogpt-u16)");
  return {header.file_size / 2, 0, 2};
}

}  // namespace

TokenShard::TokenShard(std::string path, TokenFormat format) : m_path(std::move(path)) {
  const int descriptor = open_to_read(m_path);
  if (descriptor < 0)
    refuse(m_path, std::string("cannot be opened as a token shard: ") + std::strerror(errno));
  const File file{descriptor};
  struct stat status {};
  if (::fstat(file.descriptor, &status) != 0)
    refuse(m_path, std::string("cannot be examined: ") + std::strerror(errno));
  if (S_ISDIR(status.st_mode)) refuse(m_path, "is a folder, expected a token shard");
  if (!S_ISREG(status.st_mode)) refuse(m_path, "is not a regular file, expected a token shard");
  Header header;
  header.file_size = status.st_size;
  if (header.file_size == 0) refuse(m_path, "is empty, expected a token shard");
  header.bytes = read_at(file.descriptor, header.words.data(), sizeof(header.words), 0);
  if (header.bytes < 0) refuse(m_path, std::string("cannot be read: ") + std::strerror(errno));

  Layout layout{};
  if (format == TokenFormat::nanogpt_u16) {
    layout = check_nanogpt(m_path, header);
  } else {
    if (!has_known_magic(header))
      refuse(m_path, (header.bytes < 4 ? "has only " + std::to_string(header.bytes) + " bytes"
                                       : "starts with " + std::to_string(header.words[0])) +
                         ", expected the magic number of an llm.c shard (" +
                         std::to_string(k_gpt2_magic) + " or " + std::to_string(k_llama3_magic) +
                         "); for headerless uint16 tokens set data.format = \"nanogpt-u16\"");
    layout = check_llmc(m_path, header);
  }
  m_num_tokens = layout.num_tokens;
  m_data_offset = layout.data_offset;
  m_token_bytes = layout.token_bytes;
}

TokenShard::TokenShard(TokenShard&& other) noexcept
    : m_path(std::move(other.m_path)),
      m_num_tokens(other.m_num_tokens),
      m_data_offset(other.m_data_offset),
      m_token_bytes(other.m_token_bytes),
      m_file(std::exchange(other.m_file, -1)) {}

void TokenShard::close() {
  if (m_file >= 0) ::close(m_file);
  m_file = -1;
}

void TokenShard::read(index_t first, index_t count, std::int32_t* tokens) {
  if (first < 0 || count < 0 || first > m_num_tokens - count)
    throw std::out_of_range("TokenShard::read: " + std::to_string(count) + " tokens from token " +
                            std::to_string(first) + " of " + std::to_string(m_num_tokens) + " in " +
                            m_path);
  if (m_file < 0) m_file = open_to_read(m_path);
  if (m_file < 0) throw DataError(m_path + ": cannot be opened any more: " + std::strerror(errno));
  // uint16 tokens land in the second half of the result and are widened from the front.
  const index_t bytes = count * m_token_bytes;
  char* const raw = reinterpret_cast<char*>(tokens) + (count * 4 - bytes);
  const index_t got = read_at(m_file, raw, bytes, offset(first));
  if (got < 0)
    throw DataError(m_path + ": reading " + std::to_string(bytes) + " bytes at offset " +
                    std::to_string(offset(first)) + " failed: " + std::strerror(errno));
  if (got < bytes)
    throw DataError(m_path + ": ends at byte " + std::to_string(offset(first) + got) +
                    ", expected " + std::to_string(offset(m_num_tokens)) +
                    " bytes as when the run started");
  if (m_token_bytes == 2)
    for (index_t i = 0; i < count; ++i) {
      std::uint16_t token = 0;
      std::memcpy(&token, raw + i * 2, 2);
      tokens[i] = token;
    }
}

}  // namespace sdp
