// SPDX-License-Identifier: Apache-2.0
#include "data/image_set.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "base/error.hpp"
#include "base/memory_ledger.hpp"
#include "kernels/random/philox.hpp"

namespace sdp {

namespace {

constexpr index_t k_cifar10_classes = 10;
constexpr index_t k_cifar100_classes = 100;

/// [0, n) from 32 uniform bits; n is small, so the bias is below n / 2^32.
int below(std::uint32_t bits, std::uint32_t n) {
  return static_cast<int>(std::uint64_t{bits} * n >> 32);
}

}  // namespace

Crop random_crop(std::uint64_t seed, index_t sample, index_t epoch) {
  constexpr std::uint64_t k_stream = kernels::stream_key("sdp::data::random_crop");
  const kernels::PhiloxBlock bits = kernels::stream_bits(
      seed, k_stream + static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(sample));
  constexpr std::uint32_t k_offsets = 2 * k_crop_padding + 1;
  return {below(bits[0], k_offsets), below(bits[1], k_offsets), bits[2] >> 31 != 0};
}

ImageSet::ImageSet(std::string key, DataKind kind, std::vector<std::string> const& files,
                   index_t channels, index_t classes)
    : m_key(std::move(key)), m_kind(kind), m_channels(channels) {
  const index_t needed = kind == DataKind::cifar10    ? k_cifar10_classes
                         : kind == DataKind::cifar100 ? k_cifar100_classes
                                                      : 1;
  if (classes < needed)
    throw ConfigError("model.num_classes is " + std::to_string(classes) + ", but the images of " +
                      m_key + " are of " + std::to_string(needed) + " classes");
  const std::vector<ImageFile> parts = examine_images(m_key, kind, files, channels);
  index_t samples = 0;
  index_t bytes = 0;
  for (ImageFile const& file : parts) {
    m_parts.push_back({samples, bytes, file.height, file.width});
    samples += file.count;
    bytes += file.count * file.image_bytes();
  }
  const MemoryScope scope(MemoryCategory::data);
  const auto allocate = [](std::string const& label, index_t size) {
    return HostView1<std::uint8_t>(Kokkos::view_alloc(label, Kokkos::WithoutInitializing),
                                   static_cast<std::size_t>(size));
  };
  m_pixels = allocate("sdp::data::image_pixels", bytes);
  m_labels = allocate("sdp::data::image_labels", samples);
  for (std::size_t i = 0; i < parts.size(); ++i)
    read_images(parts[i], kind, classes, m_pixels.data() + m_parts[i].offset,
                m_labels.data() + m_parts[i].first);
}

ImageSet::Part const& ImageSet::part_of(index_t sample) const {
  return *(std::upper_bound(m_parts.begin(), m_parts.end(), sample,
                            [](index_t s, Part const& part) { return s < part.first; }) -
           1);
}

void ImageSet::read(index_t sample, Crop const& crop, std::uint8_t* image) const {
  if (sample < 0 || sample >= num_samples())
    throw std::out_of_range("ImageSet::read: sample " + std::to_string(sample) + " of " +
                            std::to_string(num_samples()));
  Part const& part = part_of(sample);
  std::uint8_t const* source =
      m_pixels.data() + part.offset + (sample - part.first) * m_channels * part.height * part.width;
  // Row y of the crop is row y + top of the image; columns [begin, end) of it are inside.
  const index_t top = crop.row - k_crop_padding - (k_image_side - part.height) / 2;
  const index_t left = crop.col - k_crop_padding - (k_image_side - part.width) / 2;
  const index_t begin = std::clamp(-left, index_t{0}, k_image_side);
  const index_t end = std::clamp(part.width - left, begin, k_image_side);
  std::memset(image, 0, static_cast<std::size_t>(image_bytes()));
  for (index_t c = 0; c < m_channels; ++c) {
    for (index_t y = 0; y < k_image_side; ++y) {
      if (y + top < 0 || y + top >= part.height) continue;
      std::uint8_t const* from = source + (c * part.height + y + top) * part.width + begin + left;
      std::uint8_t* to = image + (c * k_image_side + y) * k_image_side;
      if (crop.flip)
        std::reverse_copy(from, from + (end - begin), to + (k_image_side - end));
      else
        std::copy_n(from, end - begin, to + begin);
    }
  }
}

Normalization ImageSet::normalization() const {
  if (m_kind == DataKind::cifar10) return {{.4914, .4822, .4465}, {.2023, .1994, .2010}};
  if (m_kind == DataKind::cifar100) return {{.5071, .4865, .4409}, {.2673, .2564, .2762}};
  // Sums over at most 2^63 / 255^2 pixels are exact.
  const auto channels = static_cast<std::size_t>(m_channels);
  std::vector<std::uint64_t> sum(channels, 0);
  std::vector<std::uint64_t> squares(channels, 0);
  std::uint64_t count = 0;
  for (std::size_t p = 0; p < m_parts.size(); ++p) {
    Part const& part = m_parts[p];
    const index_t plane = part.height * part.width;
    const index_t images =
        (p + 1 < m_parts.size() ? m_parts[p + 1].first : num_samples()) - part.first;
    std::uint8_t const* at = m_pixels.data() + part.offset;
    for (index_t i = 0; i < images; ++i) {
      for (std::size_t c = 0; c < channels; ++c, at += plane) {
        std::uint64_t plane_sum = 0;
        std::uint64_t plane_squares = 0;
        for (index_t j = 0; j < plane; ++j) {
          plane_sum += at[j];
          plane_squares += std::uint64_t{at[j]} * at[j];
        }
        sum[c] += plane_sum;
        squares[c] += plane_squares;
      }
    }
    count += static_cast<std::uint64_t>(images * plane);
  }
  Normalization result;
  for (std::size_t c = 0; c < channels; ++c) {
    const double n = static_cast<double>(count);
    const double mean = static_cast<double>(sum[c]) / n;
    const double variance = static_cast<double>(squares[c]) / n - mean * mean;
    result.mean.push_back(mean / 255.0);
    result.deviation.push_back(variance > 0.0 ? std::sqrt(variance) / 255.0 : 1.0);
  }
  return result;
}

}  // namespace sdp
