// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <zlib.h>

#include "data/image_set.hpp"
#include "tests/data/data_support.hpp"

namespace sdp::test {

inline std::string idx_file(std::vector<std::uint32_t> const& extents, std::string const& data,
                            std::string magic = std::string("\0\0\x08", 3)) {
  magic += static_cast<char>(extents.size());
  for (std::uint32_t extent : extents)
    for (int shift = 24; shift >= 0; shift -= 8) magic += static_cast<char>(extent >> shift);
  return magic + data;
}

inline std::string gzip(std::string const& bytes) {
  z_stream stream{};
  deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

/// Bytes that tell image, place and file apart.
inline std::string pixels(index_t count, unsigned salt = 0) {
  std::string bytes(static_cast<std::size_t>(count), '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<char>((i * 2654435761u >> 7) + i / 251 + salt * 17);
  return bytes;
}

inline std::string labels(index_t count, index_t classes) {
  std::string bytes;
  for (index_t i = 0; i < count; ++i) bytes += static_cast<char>(i * 7 % classes);
  return bytes;
}

/// `count` records of CIFAR-10 (1 label byte) or CIFAR-100 (2).
inline std::string cifar_file(index_t count, int label_bytes, unsigned salt = 0) {
  const std::string planes = pixels(count * 3072, salt);
  std::string bytes;
  for (index_t i = 0; i < count; ++i) {
    if (label_bytes == 2) bytes += static_cast<char>(i % 20);
    bytes += static_cast<char>(i * 3 % (label_bytes == 2 ? 100 : 10));
    bytes += planes.substr(static_cast<std::size_t>(i) * 3072, 3072);
  }
  return bytes;
}

inline std::string image_of(ImageSet const& set, index_t sample, Crop const& crop = {}) {
  std::string image(static_cast<std::size_t>(set.image_bytes()), '\x55');
  set.read(sample, crop, reinterpret_cast<std::uint8_t*>(image.data()));
  return image;
}

/// Scalar reference: the pixel of a crop from planes (C,H,W) in the middle of the padded 32 x 32.
inline std::string cropped(std::string const& image, index_t channels, index_t height,
                           index_t width, Crop const& crop) {
  std::string out;
  for (index_t c = 0; c < channels; ++c)
    for (index_t y = 0; y < 32; ++y)
      for (index_t x = 0; x < 32; ++x) {
        const index_t row = y + crop.row - 4 - (32 - height) / 2;
        const index_t col = (crop.flip ? 31 - x : x) + crop.col - 4 - (32 - width) / 2;
        const bool inside = row >= 0 && row < height && col >= 0 && col < width;
        out += inside ? image[static_cast<std::size_t>((c * height + row) * width + col)] : '\0';
      }
  return out;
}

}  // namespace sdp::test
