// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "comm/delivery.hpp"
#include "comm/world.hpp"
#include "data/batch_reader.hpp"
#include "models/llama.hpp"
#include "train/evaluate.hpp"

namespace sdp {

/// What this rank holds of the model that all ranks together train, and who has the rest.
template <class V>
struct MergedModel {
  LlamaConfig const& config;
  ParameterTable const& table;   ///< of the weights on this rank; shared tensors are held whole
  View1<V> weights;              ///< (table.size())
  DeliverySource const& source;  ///< owned_source with BufferLayout::weights
};

/// As evaluate(), of the merged full model, of which no rank holds more than its own weights and
/// one layer at a time. Layers are the outer loop and micro-batches the inner one; each layer comes
/// from its owners once for a wave of micro-batches, whose residual streams lie in `streams`, a
/// buffer that is free between updates and is overwritten. A wave has as many micro-batches as fit
/// on every rank; where not one does, streams are kept in a buffer for one. The bits are those of
/// evaluate() with the complete model on every rank. Collective; a fault of the data is the same
/// DataError on every rank.
template <class V>
EvalResult evaluate_merged(World const& world, ExecSpace const& exec, Delivery<V>& delivery,
                           MergedModel<V> const& model, View1<V> const& streams,
                           EvalScope const& scope, EvalCheck const& check = {});

extern template EvalResult evaluate_merged<float>(World const&, ExecSpace const&, Delivery<float>&,
                                                  MergedModel<float> const&, View1<float> const&,
                                                  EvalScope const&, EvalCheck const&);
extern template EvalResult evaluate_merged<double>(World const&, ExecSpace const&,
                                                   Delivery<double>&, MergedModel<double> const&,
                                                   View1<double> const&, EvalScope const&,
                                                   EvalCheck const&);
extern template EvalResult evaluate_merged<kernels::bf16>(World const&, ExecSpace const&,
                                                          Delivery<kernels::bf16>&,
                                                          MergedModel<kernels::bf16> const&,
                                                          View1<kernels::bf16> const&,
                                                          EvalScope const&, EvalCheck const&);

}  // namespace sdp
