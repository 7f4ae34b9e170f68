// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "data/image_set.hpp"
#include "data/random_samples.hpp"
#include "data/token_dataset.hpp"

namespace sdp {

/// The samples that a run trains or is evaluated on, of tokens or of images: from files, or drawn
/// at random where only time and memory are of interest.
class DataSet {
 public:
  explicit DataSet(TokenDataset tokens)
      : m_tokens(std::make_unique<TokenDataset>(std::move(tokens))) {}
  /// Images are normalised by the constants of the training set.
  DataSet(ImageSet images, Normalization normalization)
      : m_images(std::make_unique<ImageSet>(std::move(images))),
        m_normalization(std::move(normalization)) {}
  explicit DataSet(RandomSamples samples) : m_random(std::move(samples)) {
    const auto channels = static_cast<std::size_t>(m_random->channels());
    m_normalization = {std::vector<double>(channels, 0.5), std::vector<double>(channels, 0.25)};
  }

  bool has_tokens() const { return m_random ? m_random->has_tokens() : m_tokens != nullptr; }
  /// The samples where they are random, else nothing.
  std::optional<RandomSamples> const& random() const { return m_random; }
  TokenDataset& tokens() const { return *m_tokens; }
  ImageSet& images() const { return *m_images; }
  Normalization const& normalization() const { return m_normalization; }
  /// Of images.
  index_t channels() const { return m_random ? m_random->channels() : m_images->channels(); }

  index_t num_samples() const {
    if (m_random) return std::numeric_limits<index_t>::max();
    return has_tokens() ? m_tokens->num_samples() : m_images->num_samples();
  }
  /// Targets of a sample: its tokens, or one label.
  index_t targets_per_sample() const {
    if (!has_tokens()) return 1;
    return m_random ? m_random->seq_len() : m_tokens->seq_len();
  }
  /// What a checkpoint keeps of the size of the data in files: tokens, or images.
  index_t recorded_size() const {
    return has_tokens() ? m_tokens->num_tokens() : m_images->num_samples();
  }

 private:
  std::unique_ptr<TokenDataset> m_tokens;
  std::unique_ptr<ImageSet> m_images;
  std::optional<RandomSamples> m_random;
  Normalization m_normalization;
};

}  // namespace sdp
