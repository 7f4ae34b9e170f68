// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "config/config.hpp"
#include "data/image_files.hpp"

namespace sdp {

/// Zeros around an image that a random crop may reach into.
inline constexpr int k_crop_padding = 4;

/// Where a 32 x 32 crop starts in the image padded by k_crop_padding, and whether its columns are
/// reversed. The default is the image itself.
struct Crop {
  int row = k_crop_padding;  ///< 0 to 2 * k_crop_padding
  int col = k_crop_padding;
  bool flip = false;

  bool operator==(Crop const&) const = default;
};

/// The augmentation of a sample in an epoch: row and column uniform over 0..8, a flip with
/// probability 1/2. A pure function, so the same on every rank count and after a resume; changing
/// it breaks every resumed run.
Crop random_crop(std::uint64_t seed, index_t sample, index_t epoch);

/// Per channel: a byte b becomes (b / 255 - mean) / deviation.
struct Normalization {
  std::vector<double> mean;
  std::vector<double> deviation;
};

/// Images and labels of a data set, held as bytes in host memory (counted as data in the ledger).
class ImageSet {
 public:
  /// Reads all files. ConfigError and DataError as examine_images() and read_images(), and
  /// ConfigError where a CIFAR set has more classes than `classes` (model.num_classes).
  ImageSet(std::string key, DataKind kind, std::vector<std::string> const& files, index_t channels,
           index_t classes);

  std::string const& key() const { return m_key; }
  index_t num_samples() const { return static_cast<index_t>(m_labels.extent(0)); }
  index_t channels() const { return m_channels; }
  /// Bytes of one image as read() gives it: (C,32,32).
  index_t image_bytes() const { return m_channels * k_image_side * k_image_side; }

  std::int32_t label(index_t sample) const { return m_labels(sample); }
  /// image (C,32,32) = the crop of sample `sample`, overwritten. Smaller images lie in the middle
  /// of the 32 x 32, zeros around them. Any number of threads at a time.
  void read(index_t sample, Crop const& crop, std::uint8_t* image) const;

  /// The constants published for CIFAR-10 and CIFAR-100. For IDX, mean and standard deviation of
  /// all pixels of this set as the files hold them, so of the training set; sums in integers, the
  /// same on every machine. A channel without variation has deviation 1.
  Normalization normalization() const;

 private:
  /// Images of one file, which have one size.
  struct Part {
    index_t first;   ///< sample
    index_t offset;  ///< byte in m_pixels
    index_t height;
    index_t width;
  };
  Part const& part_of(index_t sample) const;

  std::string m_key;
  DataKind m_kind;
  index_t m_channels;
  std::vector<Part> m_parts;
  HostView1<std::uint8_t> m_pixels;
  HostView1<std::uint8_t> m_labels;
};

}  // namespace sdp
