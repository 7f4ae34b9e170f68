// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/types.hpp"
#include "comm/world.hpp"

namespace sdp {

struct EvalResult {
  double val_loss = 0;  ///< mean negative log-likelihood in nats over the evaluated targets
  std::int64_t samples = 0;
  std::int64_t targets = 0;
  std::optional<double> accuracy;  ///< share of samples whose class was found; of classifiers
};

/// The losses of the samples that this rank evaluates, each a sum over its tokens in double.
class SampleLosses {
 public:
  /// All ranks together have `num_samples` of `targets` targets each.
  SampleLosses(index_t targets, index_t num_samples)
      : m_targets(targets), m_num_samples(num_samples) {}

  index_t num_samples() const { return m_num_samples; }
  /// Adds `rows` samples, whose losses (rows,T) lie on the host; samples come in file order.
  void add(HostView1<float> const& losses, index_t rows);
  void add(HostView1<double> const& losses, index_t rows);

  /// Adds what is known of `rows` samples' classes: 1 where right, 0 where wrong.
  void add_correct(HostView1<std::int32_t> const& correct, index_t rows);

  /// Sum of this rank's samples, in their order.
  double sum() const;

  /// Mean over all N samples of the world, of which rank r of R has [floor(rN/R), floor((r+1)N/R)),
  /// summed in file order whichever rank has them. Collective.
  EvalResult mean(World const& world) const;

 private:
  index_t m_targets;
  index_t m_num_samples;
  std::vector<double> m_samples;
  std::int64_t m_correct = -1;  ///< of this rank; -1: nobody asked
};

}  // namespace sdp
