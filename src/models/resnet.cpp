// SPDX-License-Identifier: Apache-2.0
#include "models/resnet.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/device_pool.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/checks.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/nn/batch_norm_backward.hpp"
#include "kernels/nn/bias.hpp"
#include "kernels/nn/convolution.hpp"
#include "kernels/nn/cross_entropy.hpp"
#include "kernels/nn/elementwise.hpp"
#include "kernels/nn/linear.hpp"
#include "kernels/nn/pack_columns.hpp"
#include "kernels/nn/pooling.hpp"
#include "kernels/nn/top1.hpp"

namespace sdp {

namespace {

using kernels::Activation;
using kernels::ColumnRun;
using kernels::WeightLayout;

constexpr double k_eps = 1e-5;

template <class T>
View1<T> allocate(char const* label, index_t size) {
  return sdp::allocate<View1<T>>(std::string("sdp::models::") + label, size);
}

View1<ColumnRun> upload_runs(ResnetPlan const& plan) {
  auto runs = allocate<ColumnRun>("column_runs", plan.runs);
  auto host = Kokkos::create_mirror_view(runs);
  index_t next = 0;
  for (ResnetBlockPlan const& block : plan.blocks)
    for (auto const* held : {&block.inner_held, &block.branch_held})
      for (ColumnRun const& run : held->runs) host(next++) = run;
  Kokkos::deep_copy(runs, host);
  return runs;
}

template <class View>
auto as_row(View const& vector) {
  return Kokkos::View<typename View::value_type**, Kokkos::LayoutRight, MemSpace,
                      Kokkos::MemoryTraits<Kokkos::Unmanaged>>(vector.data(), 1, vector.size());
}

}  // namespace

template <class V>
Resnet<V>::Resnet(ResnetConfig const& config, ModelSubnetwork const& subnetwork, index_t max_batch,
                  bool with_backward)
    : m_config(config),
      m_subnetwork(subnetwork),
      m_where(resnet_tensor_indices(config)),
      m_plan(resnet_plan(config, subnetwork.weights, subnetwork.gradients)),
      m_max_batch(max_batch),
      m_with_backward(with_backward) {
  MemoryScope scope(MemoryCategory::activations);
  const ResnetSizes size = resnet_sizes(config, m_plan, max_batch);
  m_work = allocate<V>("convolution_work", resnet_workspace<V>(config, m_plan, max_batch));
  m_stem_out = allocate<V>("stem_out", size.stem);
  m_stem = with_backward ? allocate<V>("stem", size.stem) : m_stem_out;
  m_stem_norm = make_norm(config.width);
  // Nothing outlives a block in a model for inference, and the stream stays in one place.
  const View1<V> shared = with_backward ? View1<V>() : allocate<V>("block", size.block);
  m_inner_out = allocate<V>("inner_out", size.inner);
  for (ResnetBlockPlan const& part : m_plan.blocks) {
    const ResnetBlockSizes need = resnet_block_sizes(part, max_batch);
    Block block;
    if (with_backward) {
      block.inner = allocate<V>("inner", need.inner);
      block.branch = allocate<V>("branch", need.branch);
      block.projected = allocate<V>("projected", need.projected);
      block.out = allocate<V>("out", need.out);
    } else {
      const auto window = [&](index_t begin, index_t count) {
        return Kokkos::subview(shared, std::make_pair(begin, begin + count));
      };
      block.inner = window(0, need.inner);
      block.branch = window(need.inner, need.branch);
      block.projected = window(need.inner + need.branch, need.projected);
      block.out = m_stem_out;
    }
    if (part.has_branch) {
      block.inner_norm = make_norm(part.inner);
      block.branch_norm = make_norm(part.block.channels);
    }
    if (part.block.projects()) block.projection_norm = make_norm(part.block.channels);
    m_blocks.push_back(std::move(block));
  }
  m_features = allocate<V>("features", size.features);
  m_logits = allocate<V>("logits", max_batch * config.num_classes);
  m_affine = allocate<V>("affine", 2 * m_plan.max_channels);
  m_partials = allocate<Accum>("batch_norm_partials", size.partials);
  if (!with_backward) return;
  m_d_features = allocate<V>("d_features", size.features);
  m_d_inner = allocate<V>("d_inner", size.inner);
  for (View1<V>& stream : m_d_stream) stream = allocate<V>("d_stream", size.stem);
  m_d_affine = allocate<Accum>("d_affine", 2 * m_plan.max_channels);
  m_sums = allocate<Accum>("batch_norm_sums", 2 * m_plan.max_channels);
  m_runs = upload_runs(m_plan);
}

template <class V>
typename Resnet<V>::Norm Resnet<V>::make_norm(index_t channels) const {
  Norm norm;
  norm.mean = allocate<Accum>("batch_mean", channels);
  norm.rstd = allocate<Accum>("batch_rstd", channels);
  norm.running_mean = allocate<Accum>("running_mean", channels);
  norm.running_var = allocate<Accum>("running_var", channels);
  return norm;
}

template <class V>
template <class T>
Window4<T> Resnet<V>::kernel(ParameterTable const& table, View1<T> const& flat, int tensor) const {
  auto const& shape = table.tensors()[tensor].shape;
  return Window4<T>(flat.data() + table.offset(tensor), table.held_rows(tensor), shape[1], shape[2],
                    shape[3]);
}

template <class V>
Window1<ColumnRun> Resnet<V>::runs_of(HeldChannels const& held) const {
  return Window1<ColumnRun>(m_runs.data() + held.first_run, held.runs.size());
}

/// f(kernels::AllChannels) or f(runs), for the channels that get a gradient.
template <class V>
template <class F>
void Resnet<V>::with_channels(HeldChannels const& held, F&& f) const {
  if (held.all)
    f(kernels::AllChannels{});
  else
    f(runs_of(held));
}

template <class V>
std::pair<Window1<V>, Window1<V>> Resnet<V>::affine(ExecSpace const& exec, View1<V> const& weights,
                                                    BatchNormTensors const& t, double factor) {
  ParameterTable const& table = m_subnetwork.weights;
  const Window1<V> scale = table.vector(weights, t.scale), shift = table.vector(weights, t.shift);
  if (factor == 1.0) return {scale, shift};
  const auto channels = static_cast<index_t>(scale.extent(0));
  const Window1<V> scaled(m_affine.data(), channels);
  const Window1<V> shifted(m_affine.data() + channels, channels);
  Kokkos::deep_copy(exec, scaled, scale);
  Kokkos::deep_copy(exec, shifted, shift);
  kernels::scale(exec, factor, Window1<V>(m_affine.data(), 2 * channels));
  return {scaled, shifted};
}

/// Sets mean and rstd of a norm: from the batch x in training, from the weights in inference.
template <class V>
void Resnet<V>::prepare_norm(Pass const& pass, Window2<V> const& x, BatchNormTensors const& t,
                             HeldChannels const& held, Norm const& norm) {
  ParameterTable const& table = m_subnetwork.weights;
  if (!pass.training) {
    kernels::convert(pass.exec, table.vector(pass.weights, t.running_mean), norm.mean);
    kernels::batch_norm_inference_rstd(pass.exec, table.vector(pass.weights, t.running_var), k_eps,
                                       norm.rstd);
    return;
  }
  if (!pass.accumulate) {
    Kokkos::deep_copy(pass.exec, norm.running_mean, Accum(0));
    Kokkos::deep_copy(pass.exec, norm.running_var, Accum(0));
  }
  const Window2<Accum> partials(m_partials.data(),
                                kernels::batch_norm_chunks(static_cast<index_t>(x.extent(0))),
                                2 * x.extent(1));
  kernels::batch_norm_statistics(pass.exec, x, k_eps, pass.momentum, partials, norm.mean, norm.rstd,
                                 norm.running_mean, norm.running_var);
  if (pass.grads.data() == nullptr) return;
  for (auto const& [tensor, running] :
       {std::pair{t.running_mean, norm.running_mean}, std::pair{t.running_var, norm.running_var}}) {
    const auto target = m_subnetwork.gradients.vector(pass.grads, tensor);
    if (held.all)
      Kokkos::deep_copy(pass.exec, target, running);
    else if (!held.runs.empty())
      kernels::pack_columns(pass.exec, runs_of(held), as_row(running), as_row(target));
  }
}

template <class V>
void Resnet<V>::forward(ExecSpace const& exec, View1<V> const& weights, Images const& images,
                        ForwardObserver* observer) {
  Region region("sdp::models::resnet_forward");
  Pass pass{exec, weights, false, false, {}};
  run(pass, images, observer);
}

template <class V>
void Resnet<V>::forward_training(ExecSpace const& exec, View1<V> const& weights,
                                 Images const& images, bool accumulate, View1<Accum> const& grads,
                                 ForwardObserver* observer) {
  Region region("sdp::models::resnet_forward_training");
  if (!m_with_backward)
    throw std::logic_error("Resnet::forward_training: the model was built for inference only");
  Pass pass{exec, weights, true, accumulate, grads};
  run(pass, images, observer);
}

template <class V>
void Resnet<V>::recalibrate(ExecSpace const& exec, View1<V> const& weights, Images const& images,
                            std::int64_t number) {
  Region region("sdp::models::resnet_recalibrate");
  Pass pass{exec, weights, true, number > 1, {}};
  pass.momentum = 1.0 / static_cast<double>(number);
  run(pass, images, nullptr);
}

template <class V>
void Resnet<V>::take_statistics(ExecSpace const& exec, View1<V> const& weights) const {
  ParameterTable const& table = m_subnetwork.weights;
  const auto take = [&](BatchNormTensors const& t, Norm const& norm) {
    if (norm.running_mean.extent(0) == 0) return;
    kernels::convert(exec, norm.running_mean, table.vector(weights, t.running_mean));
    kernels::convert(exec, norm.running_var, table.vector(weights, t.running_var));
  };
  take(m_where.stem_bn, m_stem_norm);
  for (std::size_t b = 0; b < m_blocks.size(); ++b) {
    take(m_where.blocks[b].bn1, m_blocks[b].inner_norm);
    take(m_where.blocks[b].bn2, m_blocks[b].branch_norm);
    take(m_where.blocks[b].projection_bn, m_blocks[b].projection_norm);
  }
}

template <class V>
bool Resnet<V>::correct(ExecSpace const& exec, Batch const& batch,
                        View1<std::int32_t> const& correct) {
  kernels::top1_correct(exec, Window2<V>(m_logits.data(), m_batch, m_config.num_classes),
                        labels_of(batch), Window1<std::int32_t>(correct.data(), m_batch));
  return true;
}

template <class V>
void Resnet<V>::run(Pass const& pass, Images const& images, ForwardObserver* observer) {
  m_batch = static_cast<index_t>(images.extent(0));
  const auto is = [&](int axis, index_t extent) {
    return static_cast<index_t>(images.extent(axis)) == extent;
  };
  if (m_batch > m_max_batch || !is(1, k_resnet_image_size) || !is(2, k_resnet_image_size) ||
      !is(3, m_config.in_channels))
    throw std::invalid_argument(
        "Resnet::forward: images " + kernels::shape_string(images) + " do not fit (" +
        std::to_string(m_max_batch) + "," + std::to_string(k_resnet_image_size) + "," +
        std::to_string(k_resnet_image_size) + "," + std::to_string(m_config.in_channels) + ")");
  ParameterTable const& table = m_subnetwork.weights;
  // A tensor is read with all that lies behind it in the buffer.
  const auto need = [&](int tensor) {
    if (observer == nullptr) return;
    observer->weights_needed(table.offset(tensor));
    observer->progress();
  };
  need(m_where.stem_bn.scale);
  const Window4<V> stem = this->images(m_stem, k_resnet_image_size, m_config.width);
  kernels::convolution_forward(pass.exec, WeightLayout::out_in, 1, images,
                               kernel(table, pass.weights, m_where.stem), m_work, stem);
  const Window2<V> x(m_stem.data(), m_batch * k_resnet_image_size * k_resnet_image_size,
                     m_config.width);
  prepare_norm(pass, x, m_where.stem_bn, {}, m_stem_norm);
  const auto [scale, shift] = affine(pass.exec, pass.weights, m_where.stem_bn, 1.0);
  kernels::batch_norm_forward(pass.exec, Activation::relu, x, m_stem_norm.mean, m_stem_norm.rstd,
                              scale, shift,
                              Window2<V>(m_stem_out.data(), x.extent(0), x.extent(1)));
  View1<V> stream = m_stem_out;
  for (std::size_t b = 0; b < m_blocks.size(); ++b) {
    need(m_where.blocks[b].bn2.scale);
    m_blocks[b].in = stream;
    stream = run_block(pass, b, stream);
  }
  ResnetBlock const& last = m_plan.blocks.back().block;
  kernels::average_pool_forward(pass.exec, this->images(stream, last.size, last.channels),
                                Window2<V>(m_features.data(), m_batch, last.channels));
}

/// Runs a block on the residual stream and says where the stream is then.
template <class V>
View1<V> Resnet<V>::run_block(Pass const& pass, std::size_t b, View1<V> const& in) {
  ResnetBlockPlan const& part = m_plan.blocks[b];
  ResnetBlock const& shape = part.block;
  ResnetBlockTensors const& t = m_where.blocks[b];
  Block& block = m_blocks[b];
  ParameterTable const& table = m_subnetwork.weights;
  ExecSpace const& exec = pass.exec;
  const int stride = static_cast<int>(shape.stride);
  const Window4<V> x = images(in, shape.size * shape.stride, shape.in_channels);
  const Window2<V> out = rows(block.out, shape, shape.channels);
  // Dropped beside an identity: the stream is not negative already, so ReLU leaves it as it is.
  if (!part.has_branch && !shape.projects()) return in;
  if (part.has_branch) {
    const Window4<V> branch = images(block.branch, shape.size, shape.channels);
    if (part.inner > 0) {
      kernels::convolution_forward(exec, WeightLayout::out_in, stride, x,
                                   kernel(table, pass.weights, t.conv1), m_work,
                                   images(block.inner, shape.size, part.inner));
      const Window2<V> inner = rows(block.inner, shape, part.inner);
      prepare_norm(pass, inner, t.bn1, part.inner_held, block.inner_norm);
      const auto [scale, shift] = affine(exec, pass.weights, t.bn1, 1.0);
      kernels::batch_norm_forward(exec, Activation::relu, inner, block.inner_norm.mean,
                                  block.inner_norm.rstd, scale, shift,
                                  rows(m_inner_out, shape, part.inner));
      kernels::convolution_forward(exec, WeightLayout::in_out, 1,
                                   images(m_inner_out, shape.size, part.inner),
                                   kernel(table, pass.weights, t.conv2), m_work, branch);
    } else {
      kernels::fill(exec, 0.0, rows(block.branch, shape, shape.channels));
    }
    prepare_norm(pass, rows(block.branch, shape, shape.channels), t.bn2, part.branch_held,
                 block.branch_norm);
  }
  if (shape.projects()) {
    kernels::convolution_forward(exec, WeightLayout::out_in, stride, x,
                                 kernel(table, pass.weights, t.projection), m_work,
                                 images(block.projected, shape.size, shape.channels));
    const Window2<V> projected = rows(block.projected, shape, shape.channels);
    prepare_norm(pass, projected, t.projection_bn, {}, block.projection_norm);
    const auto [scale, shift] = affine(exec, pass.weights, t.projection_bn, 1.0);
    kernels::batch_norm_forward(exec, part.has_branch ? Activation::none : Activation::relu,
                                projected, block.projection_norm.mean, block.projection_norm.rstd,
                                scale, shift, out);
  }
  if (part.has_branch) {
    const auto [scale, shift] = affine(exec, pass.weights, t.bn2, branch_scale(b));
    kernels::batch_norm_add_forward(exec, Activation::relu,
                                    rows(block.branch, shape, shape.channels),
                                    block.branch_norm.mean, block.branch_norm.rstd, scale, shift,
                                    shape.projects() ? out : rows(in, shape, shape.channels), out);
  }
  return block.out;
}

template <class V>
void Resnet<V>::classify(ExecSpace const& exec, View1<V> const& weights) {
  ParameterTable const& table = m_subnetwork.weights;
  const auto classifier = table.matrix(weights, m_where.classifier);
  const Window2<V> logits(m_logits.data(), m_batch, m_config.num_classes);
  kernels::linear_forward(exec, WeightLayout::out_in,
                          Window2<V>(m_features.data(), m_batch, classifier.extent(1)), classifier,
                          logits);
  kernels::bias_forward(exec, table.vector(weights, m_where.classifier_bias), logits);
}

template <class V>
void Resnet<V>::logits(ExecSpace const& exec, View1<V> const& weights, View2<V> const& out) {
  classify(exec, weights);
  Kokkos::deep_copy(exec, out, Window2<V>(m_logits.data(), m_batch, m_config.num_classes));
}

template <class V>
void Resnet<V>::loss(ExecSpace const& exec, View1<V> const& weights, Labels const& labels,
                     View1<Accum> const& losses, ForwardObserver* observer) {
  Region region("sdp::models::resnet_loss");
  if (observer) observer->weights_needed(0);
  classify(exec, weights);
  kernels::cross_entropy_forward(exec, Window2<V>(m_logits.data(), m_batch, m_config.num_classes),
                                 Window1<std::int32_t const>(labels.data(), m_batch),
                                 Window1<Accum>(losses.data(), m_batch));
}

template <class V>
void Resnet<V>::loss_backward(ExecSpace const& exec, View1<V> const& weights, Labels const& labels,
                              double grad_scale, bool accumulate, View1<Accum> const& grads,
                              View1<Accum> const& losses, double label_smoothing) {
  Region region("sdp::models::resnet_loss_backward");
  classify(exec, weights);
  const auto classifier = m_subnetwork.weights.matrix(weights, m_where.classifier);
  const Window2<V> d_logits(m_logits.data(), m_batch, m_config.num_classes);
  const Window2<V> features(m_features.data(), m_batch, classifier.extent(1));
  kernels::cross_entropy_forward_backward(
      exec, d_logits, Window1<std::int32_t const>(labels.data(), m_batch), grad_scale,
      Window1<Accum>(losses.data(), m_batch), label_smoothing);
  ParameterTable const& table = m_subnetwork.gradients;
  const auto d_bias = table.vector(grads, m_where.classifier_bias);
  if (!accumulate) Kokkos::deep_copy(exec, d_bias, Accum(0));
  kernels::bias_backward(exec, d_logits, d_bias);
  kernels::linear_backward_weight(exec, WeightLayout::out_in, features, d_logits,
                                  table.matrix(grads, m_where.classifier), accumulate ? 1.0 : 0.0);
  kernels::linear_backward_input(exec, WeightLayout::out_in, d_logits, classifier,
                                 Window2<V>(m_d_features.data(), m_batch, classifier.extent(1)));
}

/// Everything below the classifier accumulates and starts at zero; statistics are written by
/// forward.
template <class V>
void Resnet<V>::start_gradients(ExecSpace const& exec, View1<Accum> const& grads) {
  ParameterTable const& table = m_subnetwork.gradients;
  for (std::size_t i = 0; i < table.tensors().size(); ++i) {
    const int tensor = static_cast<int>(i);
    if (table.tensors()[i].statistic || table.held_rows(tensor) == 0 ||
        tensor == m_where.classifier || tensor == m_where.classifier_bias)
      continue;
    Kokkos::deep_copy(exec, table.vector(grads, tensor), Accum(0));
  }
}

/// Backward through a batch norm whose output was multiplied by `factor`.
template <class V>
void Resnet<V>::backward_norm(ExecSpace const& exec, View1<V> const& weights,
                              View1<Accum> const& grads, Activation activation,
                              BatchNormTensors const& t, HeldChannels const& held, Norm const& norm,
                              double factor, Window2<V> const& d_out, Window2<V> const& out,
                              Window2<V> const& x, Window2<V> const& d_x) {
  const auto channels = static_cast<index_t>(x.extent(1));
  const Window2<Accum> partials(m_partials.data(),
                                kernels::batch_norm_chunks(static_cast<index_t>(x.extent(0))),
                                2 * channels);
  const Window2<Accum> sums(m_sums.data(), 2, channels);
  const auto scale = affine(exec, weights, t, factor).first;
  Window1<Accum> d_scale = m_subnetwork.gradients.vector(grads, t.scale);
  Window1<Accum> d_shift = m_subnetwork.gradients.vector(grads, t.shift);
  const Window1<Accum> sum_scale = d_scale, sum_shift = d_shift;
  const auto count = static_cast<index_t>(d_scale.extent(0));
  const bool scaled = factor != 1.0 && count > 0;
  if (scaled) {
    d_scale = Window1<Accum>(m_d_affine.data(), count);
    d_shift = Window1<Accum>(m_d_affine.data() + count, count);
    Kokkos::deep_copy(exec, Window1<Accum>(m_d_affine.data(), 2 * count), Accum(0));
  }
  with_channels(held, [&](auto const& named) {
    kernels::batch_norm_backward(exec, activation, d_out, out, x, norm.mean, norm.rstd, scale,
                                 named, partials, sums, d_x, d_scale, d_shift);
  });
  if (!scaled) return;
  kernels::accumulate(exec, factor, d_scale, sum_scale);
  kernels::accumulate(exec, factor, d_shift, sum_shift);
}

/// Turns the gradient of the stream after a block into that of the stream before it; `d_stream`
/// names the buffer that has it.
template <class V>
void Resnet<V>::backward_block(ExecSpace const& exec, View1<V> const& weights,
                               View1<Accum> const& grads, std::size_t b, View1<V>& d_stream,
                               View1<V>& d_other) {
  ResnetBlockPlan const& part = m_plan.blocks[b];
  ResnetBlock const& shape = part.block;
  if (!part.has_branch && !shape.projects()) return;
  ResnetBlockTensors const& t = m_where.blocks[b];
  Block const& block = m_blocks[b];
  ParameterTable const& table = m_subnetwork.weights;
  ParameterTable const& held = m_subnetwork.gradients;
  const int stride = static_cast<int>(shape.stride);
  const index_t in_size = shape.size * shape.stride;
  const Window4<V> in = images(block.in, in_size, shape.in_channels);
  View1<V> const& target = shape.projects() ? d_other : d_stream;
  const Window4<V> d_in = images(target, in_size, shape.in_channels);
  const Window2<V> d_out = rows(d_stream, shape, shape.channels);
  const Window2<V> out = rows(block.out, shape, shape.channels);
  // What the skip path adds to d_in later finds the branch's part there, or nothing.
  double beta = shape.projects() ? 0.0 : 1.0;
  if (part.has_branch) {
    const Window2<V> branch = rows(block.branch, shape, shape.channels);
    backward_norm(exec, weights, grads, Activation::relu, t.bn2, part.branch_held,
                  block.branch_norm, branch_scale(b), d_out, out, branch, branch);
  }
  if (part.has_branch && part.inner > 0) {
    const Window4<V> d_branch = images(block.branch, shape.size, shape.channels);
    const Window2<V> inner = rows(block.inner, shape, part.inner);
    const Window2<V> inner_out = rows(m_inner_out, shape, part.inner);
    const Window2<V> d_inner = rows(m_d_inner, shape, part.inner);
    const auto [scale, shift] = affine(exec, weights, t.bn1, 1.0);
    kernels::batch_norm_forward(exec, Activation::relu, inner, block.inner_norm.mean,
                                block.inner_norm.rstd, scale, shift, inner_out);
    with_channels(part.inner_held, [&](auto const& named) {
      kernels::convolution_backward(
          exec, WeightLayout::in_out, 1, images(m_inner_out, shape.size, part.inner), d_branch,
          kernel(table, weights, t.conv2), named, m_work, kernel(held, grads, t.conv2),
          images(m_d_inner, shape.size, part.inner));
    });
    backward_norm(exec, weights, grads, Activation::relu, t.bn1, part.inner_held, block.inner_norm,
                  1.0, d_inner, inner_out, inner, d_inner);
    with_channels(part.inner_held, [&](auto const& named) {
      kernels::convolution_backward(
          exec, WeightLayout::out_in, stride, in, images(m_d_inner, shape.size, part.inner),
          kernel(table, weights, t.conv1), named, m_work, kernel(held, grads, t.conv1), d_in, beta);
    });
    beta = 1.0;
  }
  if (!shape.projects()) return;
  const Window2<V> projected = rows(block.projected, shape, shape.channels);
  backward_norm(exec, weights, grads, part.has_branch ? Activation::none : Activation::relu,
                t.projection_bn, {}, block.projection_norm, 1.0, d_out, out, projected, projected);
  const Window4<V> d_projected = images(block.projected, shape.size, shape.channels);
  kernels::convolution_backward(exec, WeightLayout::out_in, stride, in, d_projected,
                                kernel(table, weights, t.projection), kernels::AllChannels{},
                                m_work, kernel(held, grads, t.projection), d_in, beta);
  std::swap(d_stream, d_other);
}

template <class V>
void Resnet<V>::backward(ExecSpace const& exec, View1<V> const& weights, Images const& images,
                         bool accumulate, View1<Accum> const& grads, BackwardObserver* observer) {
  Region region("sdp::models::resnet_backward");
  if (!m_with_backward)
    throw std::logic_error("Resnet::backward: the model was built for inference only");
  ParameterTable const& table = m_subnetwork.gradients;
  const auto report = [&](int tensor) {
    if (observer == nullptr) return;
    observer->gradients_ready(table.offset(tensor) + table.held_size(tensor));
    observer->progress();
  };
  if (!accumulate) start_gradients(exec, grads);
  report(m_where.classifier_bias);
  View1<V> d_stream = m_d_stream[0], d_other = m_d_stream[1];
  ResnetBlock const& last = m_plan.blocks.back().block;
  kernels::average_pool_backward(exec, Window2<V>(m_d_features.data(), m_batch, last.channels),
                                 this->images(d_stream, last.size, last.channels));
  for (std::size_t b = m_blocks.size(); b-- > 0;) {
    backward_block(exec, weights, grads, b, d_stream, d_other);
    ResnetBlockTensors const& t = m_where.blocks[b];
    report(t.projection >= 0 ? t.projection : t.conv1);
  }
  const index_t pixels = m_batch * k_resnet_image_size * k_resnet_image_size;
  const Window2<V> stem(m_stem.data(), pixels, m_config.width);
  backward_norm(exec, weights, grads, Activation::relu, m_where.stem_bn, {}, m_stem_norm, 1.0,
                Window2<V>(d_stream.data(), pixels, m_config.width),
                Window2<V>(m_stem_out.data(), pixels, m_config.width), stem, stem);
  kernels::convolution_backward_weight(exec, WeightLayout::out_in, 1, images,
                                       this->images(m_stem, k_resnet_image_size, m_config.width),
                                       m_work, kernel(table, grads, m_where.stem));
  report(m_where.stem);
}

template class Resnet<float>;
template class Resnet<double>;
template class Resnet<kernels::bf16>;

}  // namespace sdp
