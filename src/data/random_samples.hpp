// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "data/batch_order.hpp"

namespace sdp {

/// Samples that no file holds, for measurements: every token, pixel and label is drawn uniformly by
/// its place in the batch, the same on every machine. Tokens and images have the layouts of
/// TrainReader and ImageTrainReader.
class RandomSamples {
 public:
  static RandomSamples tokens(std::uint64_t seed, index_t seq_len, index_t vocab_size);
  static RandomSamples images(std::uint64_t seed, index_t channels, index_t classes);

  bool has_tokens() const { return m_seq_len > 0; }
  index_t seq_len() const { return m_seq_len; }    ///< T, 0 for images
  index_t channels() const { return m_channels; }  ///< C, 0 for tokens

  /// inputs (B,T) and targets (B,T), overwritten.
  void read(BatchPlan const& plan, index_t update, index_t micro_step, std::int32_t* inputs,
            std::int32_t* targets) const;
  /// images (B,C,32,32) and labels (B), overwritten.
  void read(BatchPlan const& plan, index_t update, index_t micro_step, std::uint8_t* images,
            std::int32_t* labels) const;

 private:
  RandomSamples() = default;

  std::uint64_t m_seed = 0;
  index_t m_seq_len = 0;
  index_t m_channels = 0;
  index_t m_values = 0;  ///< tokens or labels are in [0, m_values)
};

}  // namespace sdp
