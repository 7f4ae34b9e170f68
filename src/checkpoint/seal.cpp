// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/seal.hpp"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.hpp"
#include "checkpoint/file_io.hpp"

namespace sdp::seal {

namespace {

constexpr std::int64_t k_mark_bytes = sizeof(k_mark) - 1;
static_assert(k_mark_bytes + 4 == k_bytes);

std::uint32_t crc_of(file_io::File const& file, std::int64_t bytes) {
  std::vector<unsigned char> buffer(std::size_t{1} << 20);
  auto crc = crc32_z(0, nullptr, 0);
  for (std::int64_t at = 0; at < bytes;) {
    const std::int64_t count = std::min(bytes - at, static_cast<std::int64_t>(buffer.size()));
    file.read(at, buffer.data(), count);
    crc = crc32_z(crc, buffer.data(), static_cast<z_size_t>(count));
    at += count;
  }
  return static_cast<std::uint32_t>(crc);
}

}  // namespace

void append(std::string const& path) {
  char text[k_bytes];
  std::memcpy(text, k_mark, k_mark_bytes);
  const file_io::File written = file_io::File::open(path);
  const std::uint32_t crc = crc_of(written, written.size());
  std::memcpy(text + k_mark_bytes, &crc, sizeof(crc));
  file_io::File file = file_io::File::open_to_write(path);
  file.write(written.size(), text, k_bytes);
  file.sync();
}

void check(std::string const& path) {
  const file_io::File file = file_io::File::open(path);
  char text[k_bytes] = {};
  const std::int64_t begin = file.size() - k_bytes;
  if (begin > 0) file.read(begin, text, k_bytes);
  if (std::memcmp(text, k_mark, k_mark_bytes) != 0)
    throw DataError(path +
                    " is damaged or incomplete: it does not end with the checksum of its bytes");
  std::uint32_t crc = 0;
  std::memcpy(&crc, text + k_mark_bytes, sizeof(crc));
  if (crc != crc_of(file, begin))
    throw DataError(path + " is damaged: the checksum of its bytes does not match");
}

}  // namespace sdp::seal
