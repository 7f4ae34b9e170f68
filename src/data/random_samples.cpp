// SPDX-License-Identifier: Apache-2.0
#include "data/random_samples.hpp"

#include "data/image_files.hpp"

namespace sdp {

namespace {

/// SplitMix64 (Steele, Lea, Flood 2014), begun at a point that belongs to one micro-batch.
class Stream {
 public:
  Stream(std::uint64_t seed, BatchPlan const& plan, index_t update, index_t micro_step) {
    const index_t place = (update * plan.ranks + plan.rank) * plan.accumulation() + micro_step;
    m_state = mix(seed + mix(static_cast<std::uint64_t>(place)));
  }
  std::uint64_t next() { return mix(m_state += 0x9E3779B97F4A7C15u); }
  /// Uniform in [0, bound) to within bound / 2^32; bound is at most 2^31.
  std::int32_t below(index_t bound) {
    return static_cast<std::int32_t>((next() >> 32) * static_cast<std::uint64_t>(bound) >> 32);
  }

 private:
  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  std::uint64_t m_state = 0;
};

}  // namespace

RandomSamples RandomSamples::tokens(std::uint64_t seed, index_t seq_len, index_t vocab_size) {
  RandomSamples samples;
  samples.m_seed = seed;
  samples.m_seq_len = seq_len;
  samples.m_values = vocab_size;
  return samples;
}

RandomSamples RandomSamples::images(std::uint64_t seed, index_t channels, index_t classes) {
  RandomSamples samples;
  samples.m_seed = seed;
  samples.m_channels = channels;
  samples.m_values = classes;
  return samples;
}

void RandomSamples::read(BatchPlan const& plan, index_t update, index_t micro_step,
                         std::int32_t* inputs, std::int32_t* targets) const {
  Stream stream(m_seed, plan, update, micro_step);
  for (index_t row = 0; row < plan.micro_batch; ++row) {
    std::int32_t token = stream.below(m_values);
    for (index_t t = 0; t < m_seq_len; ++t) {
      *inputs++ = token;
      token = stream.below(m_values);
      *targets++ = token;
    }
  }
}

void RandomSamples::read(BatchPlan const& plan, index_t update, index_t micro_step,
                         std::uint8_t* images, std::int32_t* labels) const {
  Stream stream(m_seed, plan, update, micro_step);
  const index_t pixels = plan.micro_batch * m_channels * k_image_side * k_image_side;
  for (index_t i = 0; i < pixels; ++i) images[i] = static_cast<std::uint8_t>(stream.next() >> 56);
  for (index_t i = 0; i < plan.micro_batch; ++i) labels[i] = stream.below(m_values);
}

}  // namespace sdp
