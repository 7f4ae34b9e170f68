// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "comm/world.hpp"
#include "data/batch_reader.hpp"
#include "models/llama.hpp"
#include "train/sample_losses.hpp"

namespace sdp {

/// Called on every rank now and then during an evaluation; the Error that it throws on any of them
/// ends the evaluation, with the same Error on all. Empty: nothing.
using EvalCheck = std::function<void()>;

/// Losses of this rank's samples, over `steps` micro-steps of the reader (those past its last have
/// no samples). Collective, with the same number of steps on every rank; a fault of the data is the
/// same DataError on every rank.
template <class V>
SampleLosses sample_losses(World const& world, ExecSpace const& exec, Llama<V>& model,
                           View1<V> const& weights, EvalReader& reader, index_t steps,
                           index_t micro_batch, index_t seq_len, EvalCheck const& check = {});

/// Mean loss of the model over the first eval_batches * global_batch samples of `data` in file
/// order (all when 0). Losses are summed per sample in double, then over samples in file order,
/// whichever rank computed them. Collective; a fault of the data is the same DataError on every
/// rank.
template <class V>
EvalResult evaluate(World const& world, ExecSpace const& exec, Llama<V>& model,
                    View1<V> const& weights, TokenDataset& data, index_t global_batch,
                    index_t micro_batch, index_t eval_batches, EvalCheck const& check = {});

extern template SampleLosses sample_losses<float>(World const&, ExecSpace const&, Llama<float>&,
                                                  View1<float> const&, EvalReader&, index_t,
                                                  index_t, index_t, EvalCheck const&);
extern template SampleLosses sample_losses<double>(World const&, ExecSpace const&, Llama<double>&,
                                                   View1<double> const&, EvalReader&, index_t,
                                                   index_t, index_t, EvalCheck const&);
extern template EvalResult evaluate<float>(World const&, ExecSpace const&, Llama<float>&,
                                           View1<float> const&, TokenDataset&, index_t, index_t,
                                           index_t, EvalCheck const&);
extern template EvalResult evaluate<double>(World const&, ExecSpace const&, Llama<double>&,
                                            View1<double> const&, TokenDataset&, index_t, index_t,
                                            index_t, EvalCheck const&);

}  // namespace sdp
