// SPDX-License-Identifier: Apache-2.0
#include "train/sample_losses.hpp"

#include <algorithm>

namespace sdp {

namespace {

template <class V>
void add_rows(HostView1<V> const& losses, index_t rows, index_t seq_len,
              std::vector<double>& samples) {
  for (index_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (index_t i = 0; i < seq_len; ++i) sum += static_cast<double>(losses(row * seq_len + i));
    samples.push_back(sum);
  }
}

}  // namespace

void SampleLosses::add(HostView1<float> const& losses, index_t rows) {
  add_rows(losses, rows, m_targets, m_samples);
}
void SampleLosses::add(HostView1<double> const& losses, index_t rows) {
  add_rows(losses, rows, m_targets, m_samples);
}

void SampleLosses::add_correct(HostView1<std::int32_t> const& correct, index_t rows) {
  m_correct = std::max<std::int64_t>(m_correct, 0);
  for (index_t row = 0; row < rows; ++row) m_correct += correct(row);
}

double SampleLosses::sum() const {
  double sum = 0;
  for (double sample : m_samples) sum += sample;
  return sum;
}

EvalResult SampleLosses::mean(World const& world) const {
  // Sample sums meet in waves, so that memory does not grow with the validation set.
  constexpr index_t k_wave = 65536;
  const index_t samples = m_num_samples;
  const index_t begin = samples * world.rank() / world.size();
  double total = 0;
  std::vector<double> wave;
  for (index_t first = 0; first < samples; first += k_wave) {
    const index_t count = std::min(k_wave, samples - first);
    wave.assign(static_cast<std::size_t>(count), 0.0);
    const index_t from = std::max(first, begin);
    const index_t to = std::min(first + count, begin + static_cast<index_t>(m_samples.size()));
    for (index_t i = from; i < to; ++i) wave[i - first] = m_samples[i - begin];
    world.sum_in_place(wave);
    for (double value : wave) total += value;
  }
  EvalResult result;
  result.samples = samples;
  result.targets = samples * m_targets;
  result.val_loss = total / static_cast<double>(result.targets);
  // A rank without samples does not know whether the model classifies.
  if (world.any(m_correct >= 0)) {
    std::vector<std::int64_t> correct{std::max<std::int64_t>(m_correct, 0)};
    world.sum_in_place(correct);
    result.accuracy = static_cast<double>(correct[0]) / static_cast<double>(samples);
  }
  return result;
}

}  // namespace sdp
