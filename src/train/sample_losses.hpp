// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.hpp"
#include "comm/world.hpp"

namespace sdp {

struct EvalResult {
  double val_loss = 0;  ///< mean negative log-likelihood in nats over the evaluated targets
  std::int64_t samples = 0;
  std::int64_t targets = 0;
};

/// The losses of the samples that this rank evaluates, each a sum over its tokens in double.
class SampleLosses {
 public:
  explicit SampleLosses(index_t seq_len) : m_seq_len(seq_len) {}

  /// Adds `rows` samples, whose losses (rows,T) lie on the host; samples come in file order.
  void add(HostView1<float> const& losses, index_t rows);
  void add(HostView1<double> const& losses, index_t rows);

  /// Sum of this rank's samples, in their order.
  double sum() const;

  /// Mean over all `samples` of the world, of which rank r of R has [floor(rN/R), floor((r+1)N/R)),
  /// summed in file order whichever rank has them. Collective.
  EvalResult mean(World const& world, index_t samples) const;

 private:
  index_t m_seq_len;
  std::vector<double> m_samples;
};

}  // namespace sdp
