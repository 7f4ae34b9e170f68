// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "comm/world.hpp"
#include "data/batch_order.hpp"
#include "models/model.hpp"
#include "train/data_set.hpp"
#include "train/sample_losses.hpp"

namespace sdp {

/// Called on every rank now and then during an evaluation; the Error that it throws on any of them
/// ends the evaluation, with the same Error on all. Empty: nothing.
using EvalCheck = std::function<void()>;

/// What is evaluated on: the first eval_batches * global_batch samples of the data in file order
/// (all when 0).
struct EvalScope {
  DataSet& data;
  index_t global_batch;
  index_t micro_batch;
  index_t eval_batches;
};

/// Losses of the samples that place `place` of `places` has, sample by sample. Collective, with
/// other ranks perhaps at the same place of another count; a fault of the data is the same
/// DataError on every rank.
template <class V>
SampleLosses sample_losses(World const& world, ExecSpace const& exec, Model<V>& model,
                           View1<V> const& weights, EvalScope const& scope, int places, int place,
                           EvalCheck const& check = {});

/// Mean loss of the model, and its accuracy where it classifies. Losses are summed per sample in
/// double, then over samples in file order, whichever rank computed them. Collective; a fault of
/// the data is the same DataError on every rank.
template <class V>
EvalResult evaluate(World const& world, ExecSpace const& exec, Model<V>& model,
                    View1<V> const& weights, EvalScope const& scope, EvalCheck const& check = {});

/// Mean over the ranks of the losses of their subnetworks, each on all of the samples that
/// evaluate() takes: sum over subnetworks i of n_i / R * loss_i. The n_i ranks of a subnetwork
/// divide the samples. `model` is this rank's, with its output scales. Sums are formed in file
/// order within a rank, then in rank order. Collective; a fault of the data is the same DataError
/// on every rank.
template <class V>
double evaluate_ensemble(World const& world, ExecSpace const& exec, Model<V>& model,
                         View1<V> const& weights, std::vector<int> const& subnetwork_of_worker,
                         EvalScope const& scope, EvalCheck const& check = {});

extern template SampleLosses sample_losses<float>(World const&, ExecSpace const&, Model<float>&,
                                                  View1<float> const&, EvalScope const&, int, int,
                                                  EvalCheck const&);
extern template SampleLosses sample_losses<double>(World const&, ExecSpace const&, Model<double>&,
                                                   View1<double> const&, EvalScope const&, int, int,
                                                   EvalCheck const&);
extern template EvalResult evaluate<float>(World const&, ExecSpace const&, Model<float>&,
                                           View1<float> const&, EvalScope const&, EvalCheck const&);
extern template EvalResult evaluate<double>(World const&, ExecSpace const&, Model<double>&,
                                            View1<double> const&, EvalScope const&,
                                            EvalCheck const&);
extern template double evaluate_ensemble<float>(World const&, ExecSpace const&, Model<float>&,
                                                View1<float> const&, std::vector<int> const&,
                                                EvalScope const&, EvalCheck const&);
extern template double evaluate_ensemble<double>(World const&, ExecSpace const&, Model<double>&,
                                                 View1<double> const&, std::vector<int> const&,
                                                 EvalScope const&, EvalCheck const&);
extern template SampleLosses sample_losses<kernels::bf16>(World const&, ExecSpace const&,
                                                          Model<kernels::bf16>&,
                                                          View1<kernels::bf16> const&,
                                                          EvalScope const&, int, int,
                                                          EvalCheck const&);
extern template EvalResult evaluate<kernels::bf16>(World const&, ExecSpace const&,
                                                   Model<kernels::bf16>&,
                                                   View1<kernels::bf16> const&, EvalScope const&,
                                                   EvalCheck const&);
extern template double evaluate_ensemble<kernels::bf16>(World const&, ExecSpace const&,
                                                        Model<kernels::bf16>&,
                                                        View1<kernels::bf16> const&,
                                                        std::vector<int> const&, EvalScope const&,
                                                        EvalCheck const&);

}  // namespace sdp
