// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "base/types.hpp"
#include "config/config.hpp"
#include "kernels/core/concepts.hpp"
#include "models/backward_observer.hpp"
#include "models/forward_observer.hpp"
#include "models/subnetwork_model.hpp"

namespace sdp {

/// One micro-batch on the device: B sequences of T tokens, or B images of S x S pixels and C
/// channels. What the kind of model does not read stays empty.
template <class V>
struct ModelBatch {
  using Integers = Kokkos::View<std::int32_t const**, Kokkos::LayoutRight, MemSpace>;
  using Images = Kokkos::View<V const****, Kokkos::LayoutRight, MemSpace>;

  Integers tokens;   // (B,T)
  Images images;     // (B,S,S,C)
  Integers targets;  // (B,T) next tokens, or (B,1) labels
};

/// What training and evaluation ask of a model, whatever its kind. Calls come in the order of a
/// step: forward, loss_backward, backward; or infer, loss. None allocates or waits for the device.
/// Losses (B*T) are in nats, one per target; see Llama and Resnet.
///
/// V: storage type of weights and activations. Gradients of weights, like losses, have the type in
/// which V is summed: float for bf16, V itself otherwise.
template <class V>
class Model {
 public:
  using Accum = kernels::accum_t<V>;
  using Batch = ModelBatch<V>;

  virtual ~Model() = default;

  /// Inference; an evaluation is made of these.
  virtual void infer(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
                     ForwardObserver* observer) = 0;
  /// Forward pass of a training step. What the batches of this update contribute to running
  /// statistics is written to their rows of grads; `accumulate`: this is not the first one.
  virtual void forward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
                       bool accumulate, View1<Accum> const& grads, ForwardObserver* observer) = 0;
  /// The share of stored running statistics that stays in an update of so many micro-batches.
  virtual double statistics_kept(index_t /*batches*/) const { return 0.0; }
  virtual void loss(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
                    View1<Accum> const& losses, ForwardObserver* observer) = 0;
  virtual void loss_backward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
                             double grad_scale, bool accumulate, View1<Accum> const& grads,
                             View1<Accum> const& losses, double label_smoothing) = 0;
  virtual void backward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
                        bool accumulate, View1<Accum> const& grads, BackwardObserver* observer) = 0;
  /// correct (B) = 1 where the class of the largest logit of the last loss() is the target, else 0.
  /// False, and nothing written, for a model that does not classify.
  virtual bool correct(ExecSpace const& /*exec*/, Batch const& /*batch*/,
                       View1<std::int32_t> const& /*correct*/) {
    return false;
  }
};

/// A model with buffers for batches of up to max_batch samples (of up to max_seq_len tokens each).
/// `deterministic`: a step gives the same bits every time. V is float, double or bf16.
template <class V>
std::unique_ptr<Model<V>> make_model(ModelConfig const& config, ModelSubnetwork const& subnetwork,
                                     index_t max_batch, index_t max_seq_len, bool with_backward,
                                     bool deterministic = true);

extern template std::unique_ptr<Model<float>> make_model<float>(ModelConfig const&,
                                                                ModelSubnetwork const&, index_t,
                                                                index_t, bool, bool);
extern template std::unique_ptr<Model<double>> make_model<double>(ModelConfig const&,
                                                                  ModelSubnetwork const&, index_t,
                                                                  index_t, bool, bool);
extern template std::unique_ptr<Model<kernels::bf16>> make_model<kernels::bf16>(
    ModelConfig const&, ModelSubnetwork const&, index_t, index_t, bool, bool);

}  // namespace sdp
