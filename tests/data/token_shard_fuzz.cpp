// SPDX-License-Identifier: Apache-2.0
// Fuzz entry point of the shard reader: any bytes either make a shard that can be read from end to
// end or are refused with one of the project's errors. Anything else leaves this function.
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "data/token_shard.hpp"

namespace {

void read_everything(std::string const& path, sdp::TokenFormat format) {
  try {
    sdp::TokenShard shard(path, format);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(shard.num_tokens()));
    shard.read(0, shard.num_tokens(), tokens.data());
  } catch (sdp::Error const& error) {
    if (std::string(error.what()).find(path) == std::string::npos) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  static std::string const path = [] {
    std::string name = (std::filesystem::temp_directory_path() / "sdp-fuzz-shard-XXXXXX").string();
    ::close(::mkstemp(name.data()));
    return name;
  }();
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const bool written = ::write(file, bytes, size) == static_cast<ssize_t>(size);
  ::close(file);
  if (!written) std::abort();
  read_everything(path, sdp::TokenFormat::automatic);
  read_everything(path, sdp::TokenFormat::nanogpt_u16);
  ::unlink(path.c_str());
  return 0;
}
