// SPDX-License-Identifier: Apache-2.0
#include "data/token_writer.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.hpp"
#include "data/token_shard.hpp"

namespace sdp {

namespace {
constexpr std::size_t k_buffer_bytes = std::size_t{1} << 20;
std::string temporary(std::string const& name) {
  return name + ".tmp";
}
}  // namespace

std::string shard_name(std::string const& stem, index_t index) {
  return fmt::format("{}_{:06d}.bin", stem, index);
}

TokenWriter::TokenWriter(std::string stem, int token_bytes, index_t shard_tokens)
    : m_stem(std::move(stem)), m_token_bytes(token_bytes), m_shard_tokens(shard_tokens) {}

TokenWriter::~TokenWriter() {
  close();
  if (m_published) return;
  for (Shard const& shard : m_shards) ::unlink(temporary(shard.name).c_str());
}

void TokenWriter::open(std::string const& name, int flags) {
  m_file = ::open(temporary(name).c_str(), flags | O_CLOEXEC, 0666);
  if (m_file < 0)
    throw DataError(temporary(name) + ": cannot be opened to write: " + std::strerror(errno));
}

void TokenWriter::close() {
  if (m_file >= 0) ::close(m_file);
  m_file = -1;
}

void TokenWriter::write_at(std::string const& name, void const* from, index_t bytes,
                           index_t offset) {
  index_t done = 0;
  while (done < bytes) {
    const auto put = ::pwrite(m_file, static_cast<char const*>(from) + done,
                              static_cast<std::size_t>(bytes - done), offset + done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0)
      throw DataError(temporary(name) + ": writing " + std::to_string(bytes - done) +
                      " bytes at offset " + std::to_string(offset + done) +
                      " failed: " + std::strerror(put < 0 ? errno : ENOSPC));
    done += put;
  }
}

void TokenWriter::write_header(Shard const& shard) {
  std::array<std::int32_t, k_shard_header_bytes / 4> header{};
  header[0] = m_token_bytes == 2 ? k_gpt2_magic : k_llama3_magic;
  header[1] = m_token_bytes == 2 ? k_gpt2_version : k_llama3_version;
  header[2] = static_cast<std::int32_t>(shard.num_tokens);
  write_at(shard.name, header.data(), k_shard_header_bytes, 0);
}

void TokenWriter::start_shard() {
  finish();
  m_shards.push_back({shard_name(m_stem, static_cast<index_t>(m_shards.size())), 0});
  open(m_shards.back().name, O_RDWR | O_CREAT | O_TRUNC);
}

void TokenWriter::flush() {
  if (m_buffer.empty()) return;
  Shard const& shard = m_shards.back();
  const auto bytes = static_cast<index_t>(m_buffer.size());
  write_at(shard.name, m_buffer.data(), bytes,
           k_shard_header_bytes + shard.num_tokens * m_token_bytes - bytes);
  m_buffer.clear();
}

void TokenWriter::append(std::int32_t const* tokens, index_t count) {
  while (count > 0) {
    if (m_shards.empty() || m_shards.back().num_tokens == m_shard_tokens) start_shard();
    Shard& shard = m_shards.back();
    const index_t part = std::min(count, m_shard_tokens - shard.num_tokens);
    const std::size_t before = m_buffer.size();
    m_buffer.resize(before + static_cast<std::size_t>(part * m_token_bytes));
    char* to = m_buffer.data() + before;
    for (index_t i = 0; i < part; ++i, to += m_token_bytes)  // the low bytes: little-endian
      std::memcpy(to, tokens + i, static_cast<std::size_t>(m_token_bytes));
    shard.num_tokens += part;
    m_num_tokens += part;
    tokens += part;
    count -= part;
    if (m_buffer.size() >= k_buffer_bytes) flush();
  }
}

void TokenWriter::finish() {
  if (m_file < 0) return;
  flush();
  write_header(m_shards.back());
  if (::fsync(m_file) != 0)
    throw DataError(temporary(m_shards.back().name) +
                    ": the disk did not take the file: " + std::strerror(errno));
  close();
}

void TokenWriter::move_tail(index_t count, TokenWriter& other) {
  finish();
  index_t first = m_num_tokens - count;  // becomes the first token to move, within its shard
  std::size_t at = 0;
  while (at < m_shards.size() && first >= m_shards[at].num_tokens)
    first -= m_shards[at++].num_tokens;
  const std::size_t cut_shard = at;
  const index_t cut = first;
  std::vector<std::int32_t> tokens;
  for (; at < m_shards.size(); ++at, first = 0) {
    TokenShard source(temporary(m_shards[at].name), TokenFormat::llmc);
    while (first < source.num_tokens()) {
      tokens.resize(static_cast<std::size_t>(
          std::min<index_t>(source.num_tokens() - first, k_buffer_bytes / 4)));
      const auto part = static_cast<index_t>(tokens.size());
      source.read(first, part, tokens.data());
      other.append(tokens.data(), part);
      first += part;
    }
  }
  // Only now that the tokens are elsewhere.
  while (m_shards.size() > cut_shard + (cut > 0 ? 1 : 0)) {
    ::unlink(temporary(m_shards.back().name).c_str());
    m_shards.pop_back();
  }
  m_num_tokens -= count;
  if (cut == 0) return;
  Shard& shard = m_shards.back();
  shard.num_tokens = cut;
  open(shard.name, O_RDWR);
  if (::ftruncate(m_file, k_shard_header_bytes + cut * m_token_bytes) != 0)
    throw DataError(temporary(shard.name) + ": cannot be cut: " + std::strerror(errno));
}

std::vector<std::string> TokenWriter::publish() {
  std::vector<std::string> names;
  for (Shard const& shard : m_shards) {
    if (std::rename(temporary(shard.name).c_str(), shard.name.c_str()) != 0) {
      std::string const reason = std::strerror(errno);
      for (std::string const& name : names) ::unlink(name.c_str());
      throw DataError(shard.name + ": cannot be given its name: " + reason);
    }
    names.push_back(shard.name);
  }
  m_published = true;
  return names;
}

}  // namespace sdp
