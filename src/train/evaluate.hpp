// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "comm/world.hpp"
#include "data/batch_reader.hpp"
#include "models/llama.hpp"

namespace sdp {

struct EvalResult {
  double val_loss = 0;  ///< mean negative log-likelihood in nats over the evaluated targets
  std::int64_t samples = 0;
  std::int64_t targets = 0;
};

/// Mean loss of the model over the first eval_batches * global_batch samples of `data` in file
/// order (all when 0). Losses are summed per sample in double, then over samples in file order,
/// whichever rank computed them. Collective; a fault of the data is the same DataError on every
/// rank.
template <class V>
EvalResult evaluate(World const& world, ExecSpace const& exec, Llama<V>& model,
                    View1<V> const& weights, TokenDataset& data, index_t global_batch,
                    index_t micro_batch, index_t eval_batches);

extern template EvalResult evaluate<float>(World const&, ExecSpace const&, Llama<float>&,
                                           View1<float> const&, TokenDataset&, index_t, index_t,
                                           index_t);
extern template EvalResult evaluate<double>(World const&, ExecSpace const&, Llama<double>&,
                                            View1<double> const&, TokenDataset&, index_t, index_t,
                                            index_t);

}  // namespace sdp
