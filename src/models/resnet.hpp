// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "config/config.hpp"
#include "kernels/nn/batch_norm.hpp"
#include "models/backward_observer.hpp"
#include "models/forward_observer.hpp"
#include "models/model.hpp"
#include "models/resnet_plan.hpp"
#include "models/resnet_tensors.hpp"
#include "models/subnetwork_model.hpp"

namespace sdp {

// Shapes in this file: B images, S = 32 pixels a side, channels last; P pixels of the images of a
// batch at some depth, C channels there, W width, F = 8*W features, K classes.

/// The CIFAR ResNet-18 for training: forward, loss and backward over flat weight and gradient
/// buffers, batch norm included.
///
/// The model is what its parameter table holds: inner channels of a block are read off the held
/// rows, and a block without its second batch norm has only its skip path. It knows shapes, never
/// ranks. In training a batch is normalised by its own statistics, and what it contributes to the
/// running statistics is written as the "gradient" of the stored ones, which are read in inference
/// alone: the exponential average of the batches of an update, started at zero, to which
/// statistics_kept() of the stored average is to be added. All buffers are allocated by the
/// constructor; a step allocates nothing and does not wait for the device. V is float, double or
/// bf16; gradients of weights, statistics and losses are in the accumulation type of V.
template <class V>
class Resnet : public Model<V> {
 public:
  using Accum = kernels::accum_t<V>;
  using Batch = ModelBatch<V>;
  using Images = Kokkos::View<V const****, Kokkos::LayoutRight, MemSpace>;          // (B,S,S,C)
  using Labels = Kokkos::View<std::int32_t const*, Kokkos::LayoutRight, MemSpace>;  // (B)

  /// Buffers for batches of up to max_batch images. With `with_backward` false only inference and
  /// recalibration are possible. Throws std::invalid_argument when a gradient row is not among the
  /// weights.
  Resnet(ResnetConfig const& config, ModelSubnetwork const& subnetwork, index_t max_batch,
         bool with_backward);

  /// Inference: features of the images with the running statistics among the weights. The observer,
  /// when given, hears which weights are read next, here and in the losses below.
  void forward(ExecSpace const& exec, View1<V> const& weights, Images const& images,
               ForwardObserver* observer = nullptr);

  /// Training: keeps what backward needs, and writes what the batches of the update so far
  /// contribute to the running statistics to their rows of grads. `accumulate`: this is not the
  /// first of them.
  void forward_training(ExecSpace const& exec, View1<V> const& weights, Images const& images,
                        bool accumulate, View1<Accum> const& grads,
                        ForwardObserver* observer = nullptr);

  /// Losses (B) of the last forward pass against labels, in nats.
  void loss(ExecSpace const& exec, View1<V> const& weights, Labels const& labels,
            View1<Accum> const& losses, ForwardObserver* observer = nullptr);

  /// As loss(), and starts backward: gradients of grad_scale * sum of losses for the classifier,
  /// and for the features below it. `accumulate` adds to the gradients instead of overwriting them.
  void loss_backward(ExecSpace const& exec, View1<V> const& weights, Labels const& labels,
                     double grad_scale, bool accumulate, View1<Accum> const& grads,
                     View1<Accum> const& losses, double label_smoothing = 0.0);

  /// The rest of backward, after loss_backward. `images` are those of forward_training. Every
  /// element of the gradient table but the statistics is written. The observer, when given, hears
  /// how much of the gradient buffer is final.
  void backward(ExecSpace const& exec, View1<V> const& weights, Images const& images,
                bool accumulate, View1<Accum> const& grads, BackwardObserver* observer);

  /// Logits (B,K) of the last forward pass or loss.
  void logits(ExecSpace const& exec, View1<V> const& weights, View2<V> const& logits);

  /// A forward pass as in training over batch `number` (from 1) of several, whose statistics
  /// average cumulatively: those of each batch count the same (PyTorch's momentum = None).
  void recalibrate(ExecSpace const& exec, View1<V> const& weights, Images const& images,
                   std::int64_t number);
  /// Overwrites the running statistics among the weights by those of recalibrate(), rounded to V.
  void take_statistics(ExecSpace const& exec, View1<V> const& weights) const;

  // The same for a batch of any model.
  void infer(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
             ForwardObserver* observer) override {
    forward(exec, weights, batch.images, observer);
  }
  void forward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch, bool accumulate,
               View1<Accum> const& grads, ForwardObserver* observer) override {
    forward_training(exec, weights, batch.images, accumulate, grads, observer);
  }
  void loss(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
            View1<Accum> const& losses, ForwardObserver* observer) override {
    loss(exec, weights, labels_of(batch), losses, observer);
  }
  void loss_backward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch,
                     double grad_scale, bool accumulate, View1<Accum> const& grads,
                     View1<Accum> const& losses, double label_smoothing) override {
    loss_backward(exec, weights, labels_of(batch), grad_scale, accumulate, grads, losses,
                  label_smoothing);
  }
  void backward(ExecSpace const& exec, View1<V> const& weights, Batch const& batch, bool accumulate,
                View1<Accum> const& grads, BackwardObserver* observer) override {
    backward(exec, weights, batch.images, accumulate, grads, observer);
  }
  bool correct(ExecSpace const& exec, Batch const& batch,
               View1<std::int32_t> const& correct) override;

  double statistics_kept(index_t batches) const override {
    return std::pow(1.0 - k_momentum, static_cast<double>(batches));
  }

  ResnetConfig const& config() const { return m_config; }
  ParameterTable const& table() const { return m_subnetwork.weights; }
  ParameterTable const& gradient_table() const { return m_subnetwork.gradients; }

 private:
  static constexpr double k_momentum = 0.1;  ///< of the running statistics

  /// What normalises one activation.
  struct Norm {
    View1<Accum> mean;          // (C)
    View1<Accum> rstd;          // (C)
    View1<Accum> running_mean;  // (C) over the batches since the last update, started at zero
    View1<Accum> running_var;   // (C) the same
  };
  struct Block {
    View1<V> inner;      // (P,C) output of conv1
    View1<V> branch;     // (P,C) output of conv2
    View1<V> projected;  // (P,C) output of the projection
    View1<V> out;        // (P,C) residual stream after the block
    View1<V> in;         // (P,C) the stream before it: another block's `out`, or the stem's
    Norm inner_norm, branch_norm, projection_norm;
  };
  /// How a pass normalises.
  struct Pass {
    ExecSpace const& exec;
    View1<V> const& weights;
    bool training = false;
    bool accumulate = false;
    View1<Accum> grads;  ///< empty: statistics stay in the model
    double momentum = k_momentum;
  };

  static Labels labels_of(Batch const& batch) {
    return Labels(batch.targets.data(), batch.targets.extent(0));
  }
  Norm make_norm(index_t channels) const;
  void run(Pass const& pass, Images const& images, ForwardObserver* observer);
  View1<V> run_block(Pass const& pass, std::size_t b, View1<V> const& in);
  void prepare_norm(Pass const& pass, Window2<V> const& x, BatchNormTensors const& t,
                    HeldChannels const& held, Norm const& norm);
  void classify(ExecSpace const& exec, View1<V> const& weights);
  void start_gradients(ExecSpace const& exec, View1<Accum> const& grads);
  void backward_block(ExecSpace const& exec, View1<V> const& weights, View1<Accum> const& grads,
                      std::size_t b, View1<V>& d_stream, View1<V>& d_other);
  void backward_norm(ExecSpace const& exec, View1<V> const& weights, View1<Accum> const& grads,
                     kernels::Activation activation, BatchNormTensors const& t,
                     HeldChannels const& held, Norm const& norm, double factor,
                     Window2<V> const& d_out, Window2<V> const& out, Window2<V> const& x,
                     Window2<V> const& d_x);
  template <class F>
  void with_channels(HeldChannels const& held, F&& f) const;
  Window1<kernels::ColumnRun> runs_of(HeldChannels const& held) const;
  /// The scale and shift of a batch norm times a factor on its output, rounded to V.
  std::pair<Window1<V>, Window1<V>> affine(ExecSpace const& exec, View1<V> const& weights,
                                           BatchNormTensors const& t, double factor);
  double branch_scale(std::size_t block) const {
    return m_subnetwork.branch_scales.empty() ? 1.0 : m_subnetwork.branch_scales[block];
  }
  Window2<V> rows(View1<V> const& buffer, ResnetBlock const& block, index_t channels) const {
    return Window2<V>(buffer.data(), m_batch * block.size * block.size, channels);
  }
  Window4<V> images(View1<V> const& buffer, index_t size, index_t channels) const {
    return Window4<V>(buffer.data(), m_batch, size, size, channels);
  }
  /// A convolution's weight, or its gradient, as a table holds it.
  template <class T>
  Window4<T> kernel(ParameterTable const& table, View1<T> const& flat, int tensor) const;

  ResnetConfig m_config;
  ModelSubnetwork m_subnetwork;
  ResnetTensors m_where;
  ResnetPlan m_plan;
  index_t m_max_batch = 0;
  index_t m_batch = 0;  // B of the last forward pass
  bool m_with_backward = true;

  View1<V> m_stem;      // (P,W) output of the stem's convolution
  View1<V> m_stem_out;  // (P,W)
  Norm m_stem_norm;
  std::vector<Block> m_blocks;
  View1<V> m_features;    // (B,F)
  View1<V> m_logits;      // (B,K), then their gradient
  View1<V> m_d_features;  // (B,F)

  View1<V> m_work;          // of the convolutions
  View1<V> m_inner_out;     // (P,C) normalised inner activation
  View1<V> m_d_inner;       // (P,C)
  View1<V> m_d_stream[2];   // (P,C) gradients of the residual stream, before and after a block
  View1<V> m_affine;        // (2C) scaled scale and shift
  View1<Accum> m_d_affine;  // (2C) their gradients
  View1<Accum> m_partials;  // (chunks,2C)
  View1<Accum> m_sums;      // (2,C)
  View1<kernels::ColumnRun> m_runs;
};

extern template class Resnet<float>;
extern template class Resnet<double>;
extern template class Resnet<kernels::bf16>;

}  // namespace sdp
