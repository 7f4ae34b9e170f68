// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "comm/delivery.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "train/evaluate.hpp"

namespace sdp {

/// The merged ResNet with its running statistics as training left them, averaged over holders that
/// saw other subnetworks, and recalibrated on the merged model itself.
struct RecalibratedResult {
  EvalResult before;
  EvalResult after;
};

/// As evaluate(), of the merged full ResNet. Every rank collects the complete weights (11 million
/// parameters at full width, less than the activations that training keeps, which must have been
/// freed) and then evaluates its part of the samples.
///
/// Recalibration: the first train.bn_batches global batches of the training order run through the
/// merged model as in training, in the micro-batches of the run; the mean over all micro-batches of
/// all ranks of the batch mean, and of the unbiased batch variance, replace the running statistics.
/// Collective; a fault of the data is the same DataError on every rank.
template <class V>
RecalibratedResult evaluate_merged_resnet(World const& world, ExecSpace const& exec,
                                          Delivery<V>& delivery, Config const& config,
                                          DeliverySource const& source, View1<V> const& weights,
                                          DataSet& training, EvalScope const& scope,
                                          EvalCheck const& check = {});

extern template RecalibratedResult evaluate_merged_resnet<float>(
    World const&, ExecSpace const&, Delivery<float>&, Config const&, DeliverySource const&,
    View1<float> const&, DataSet&, EvalScope const&, EvalCheck const&);
extern template RecalibratedResult evaluate_merged_resnet<double>(
    World const&, ExecSpace const&, Delivery<double>&, Config const&, DeliverySource const&,
    View1<double> const&, DataSet&, EvalScope const&, EvalCheck const&);
extern template RecalibratedResult evaluate_merged_resnet<kernels::bf16>(
    World const&, ExecSpace const&, Delivery<kernels::bf16>&, Config const&, DeliverySource const&,
    View1<kernels::bf16> const&, DataSet&, EvalScope const&, EvalCheck const&);

}  // namespace sdp
