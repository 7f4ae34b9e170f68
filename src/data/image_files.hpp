// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "config/config.hpp"

namespace sdp {

/// Largest height and width of an image; smaller ones are padded to it when they are read.
inline constexpr index_t k_image_side = 32;

/// One file of images, known by its size or header. Bytes are in planes: (C,H,W).
struct ImageFile {
  std::string path;
  std::string labels;  ///< file of the labels (IDX); empty where they lie beside the pixels (CIFAR)
  index_t count = 0;   ///< images, at least 1
  index_t channels = 0;
  index_t height = 0;
  index_t width = 0;

  index_t image_bytes() const { return channels * height * width; }
};

/// Examines the files of a data set without reading pixels: sizes, magic numbers, extents, and for
/// IDX the label files. The result is in the order of `files`.
///
/// CIFAR-10: records of a label and 3072 bytes; CIFAR-100: of a coarse label, a fine label and 3072
/// bytes. IDX: images (n,h,w) or (n,c,h,w), plain or compressed. The labels of an IDX file of
/// images lie beside it, under its name with "images" replaced by "labels" and "idx3" or "idx4" by
/// "idx1", with or without ".gz". Label files among `files` are passed over, so that "train-*"
/// works as well as "train-images*".
///
/// `key` is the deck's ("data.train"). ConfigError for a file that is empty, too short, too long or
/// of another format, for images larger than 32 x 32, for another number of channels than
/// model.in_channels, for labels that are missing or are not as many as the images.
std::vector<ImageFile> examine_images(std::string const& key, DataKind kind,
                                      std::vector<std::string> const& files, index_t channels);

/// Reads a file: pixels (count, C, H, W) and labels (count), overwritten; the fine label of
/// CIFAR-100. DataError naming file and byte for a label that is not in [0, classes), for
/// compressed data that is damaged or ends early, and where the file is no longer what it was.
void read_images(ImageFile const& file, DataKind kind, index_t classes, std::uint8_t* pixels,
                 std::uint8_t* labels);

}  // namespace sdp
