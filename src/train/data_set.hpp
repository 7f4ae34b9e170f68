// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "data/image_set.hpp"
#include "data/token_dataset.hpp"

namespace sdp {

/// The samples that a run trains or is evaluated on: of tokens or of images.
class DataSet {
 public:
  explicit DataSet(TokenDataset tokens)
      : m_tokens(std::make_unique<TokenDataset>(std::move(tokens))) {}
  /// Images are normalised by the constants of the training set.
  DataSet(ImageSet images, Normalization normalization)
      : m_images(std::make_unique<ImageSet>(std::move(images))),
        m_normalization(std::move(normalization)) {}

  bool has_tokens() const { return m_tokens != nullptr; }
  TokenDataset& tokens() const { return *m_tokens; }
  ImageSet& images() const { return *m_images; }
  Normalization const& normalization() const { return m_normalization; }

  index_t num_samples() const {
    return has_tokens() ? m_tokens->num_samples() : m_images->num_samples();
  }
  /// Targets of a sample: its tokens, or one label.
  index_t targets_per_sample() const { return has_tokens() ? m_tokens->seq_len() : 1; }
  /// What a checkpoint keeps of the size of the data: tokens, or images.
  index_t recorded_size() const {
    return has_tokens() ? m_tokens->num_tokens() : m_images->num_samples();
  }

 private:
  std::unique_ptr<TokenDataset> m_tokens;
  std::unique_ptr<ImageSet> m_images;
  Normalization m_normalization;
};

}  // namespace sdp
