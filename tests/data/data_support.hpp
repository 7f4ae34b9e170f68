// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"
#include "data/token_shard.hpp"

namespace sdp::test {

/// A folder of the test's own, removed at its end.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sdp-data-XXXXXX").string();
    m_path = ::mkdtemp(pattern.data());
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(m_path, ignored);
  }
  Folder(Folder const&) = delete;
  Folder& operator=(Folder const&) = delete;
  std::string operator/(std::string const& name) const { return m_path + "/" + name; }
  std::string const& path() const { return m_path; }
  /// Names of the files in the folder, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (auto const& entry : std::filesystem::directory_iterator(m_path))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string m_path;
};

inline std::string write_file(std::string const& path, std::string const& content) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

inline std::string read_file(std::string const& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

template <class Token>
std::string bytes_of(std::vector<std::int32_t> const& tokens) {
  std::string bytes;
  for (std::int32_t token : tokens) {
    const auto narrow = static_cast<Token>(token);
    bytes.append(reinterpret_cast<char const*>(&narrow), sizeof(narrow));
  }
  return bytes;
}

inline std::string llmc_header(std::int32_t magic, std::int32_t version, std::int32_t count) {
  std::string header(1024, '\0');
  const std::int32_t words[] = {magic, version, count};
  std::memcpy(header.data(), words, sizeof(words));
  return header;
}

inline std::string gpt2_shard(std::vector<std::int32_t> const& tokens) {
  return llmc_header(20240520, 1, static_cast<std::int32_t>(tokens.size())) +
         bytes_of<std::uint16_t>(tokens);
}
inline std::string llama3_shard(std::vector<std::int32_t> const& tokens) {
  return llmc_header(20240801, 7, static_cast<std::int32_t>(tokens.size())) +
         bytes_of<std::uint32_t>(tokens);
}

/// first, first + 1, ...
inline std::vector<std::int32_t> counting(index_t count, std::int32_t first = 0) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = first + static_cast<std::int32_t>(i);
  return tokens;
}

inline std::vector<std::int32_t> all_tokens(std::string const& path,
                                            TokenFormat format = TokenFormat::automatic) {
  TokenShard shard(path, format);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(shard.num_tokens()), -1);
  shard.read(0, shard.num_tokens(), tokens.data());
  return tokens;
}

/// Runs `body` and checks the type and a part of the text of what it throws.
template <class Exception>
void expect_error(std::function<void()> const& body, std::vector<std::string> const& parts) {
  try {
    body();
    ADD_FAILURE() << "no exception; expected one with \"" << parts.front() << "\"";
  } catch (Exception const& error) {
    for (std::string const& part : parts) EXPECT_THAT(error.what(), ::testing::HasSubstr(part));
  }
}

}  // namespace sdp::test
