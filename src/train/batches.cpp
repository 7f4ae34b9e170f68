// SPDX-License-Identifier: Apache-2.0
#include "train/batches.hpp"

#include <thread>

#include "base/memory_ledger.hpp"
#include "kernels/nn/normalize_images.hpp"

namespace sdp {

namespace {

template <class A>
View1<A> constants(char const* label, std::vector<double> const& values) {
  View1<A> view(Kokkos::view_alloc(Kokkos::WithoutInitializing, std::string(label)), values.size());
  auto host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < values.size(); ++i) host(i) = static_cast<A>(values[i]);
  Kokkos::deep_copy(view, host);
  return view;
}

/// A View like it in pinned host memory; the View itself where the host can reach it.
template <class T>
auto mirror(T const& view) {
  if constexpr (k_host_memory)
    return view;
  else
    return Kokkos::create_mirror(PinnedSpace(), view);
}

}  // namespace

template <class V>
BatchBuffers<V>::BatchBuffers(DataSet const& data, index_t rows) {
  const MemoryScope scope(MemoryCategory::data);
  const index_t t = data.targets_per_sample();
  m_targets = View2<std::int32_t>("sdp::train::targets", rows, t);
  for (Side& side : m_sides) side.targets = mirror(m_targets);
  if (data.has_tokens()) {
    m_tokens = View2<std::int32_t>("sdp::train::inputs", rows, t);
    for (Side& side : m_sides) side.tokens = mirror(m_tokens);
    return;
  }
  const index_t channels = data.channels();
  m_bytes =
      View4<std::uint8_t>("sdp::train::image_bytes", rows, channels, k_image_side, k_image_side);
  m_images = View4<V>("sdp::train::images", rows, k_image_side, k_image_side, channels);
  for (Side& side : m_sides) side.bytes = mirror(m_bytes);
  using Accum = kernels::accum_t<V>;
  m_mean = constants<Accum>("sdp::train::image_mean", data.normalization().mean);
  m_deviation = constants<Accum>("sdp::train::image_deviation", data.normalization().deviation);
}

template <class V>
void BatchBuffers<V>::open() {
  while (!side().copied.come()) std::this_thread::yield();
}

template <class V>
ModelBatch<V> BatchBuffers<V>::upload(ExecSpace const& exec, index_t rows) {
  using Integers = typename ModelBatch<V>::Integers;
  ModelBatch<V> batch;
  Side& from = side();
  m_side = (m_side + 1) % m_sides.size();
  Kokkos::deep_copy(exec, m_targets, from.targets);
  batch.targets = Integers(m_targets.data(), rows, m_targets.extent(1));
  if (m_tokens.data() != nullptr) {
    Kokkos::deep_copy(exec, m_tokens, from.tokens);
    from.copied.mark(exec);
    batch.tokens = Integers(m_tokens.data(), rows, m_tokens.extent(1));
    return batch;
  }
  Kokkos::deep_copy(exec, m_bytes, from.bytes);
  from.copied.mark(exec);
  const Window4<std::uint8_t> bytes(m_bytes.data(), rows, m_bytes.extent(1), m_bytes.extent(2),
                                    m_bytes.extent(3));
  const Window4<V> images(m_images.data(), rows, m_images.extent(1), m_images.extent(2),
                          m_images.extent(3));
  kernels::normalize_images(exec, bytes, m_mean, m_deviation, images);
  batch.images = images;
  return batch;
}

template <class V>
TrainBatches<V>::TrainBatches(DataSet& data, Config const& config, BatchPlan const& plan)
    : m_plan(plan), m_random(data.random()), m_buffers(data, plan.micro_batch) {
  if (m_random) return;
  if (data.has_tokens())
    m_tokens.emplace(data.tokens(), config.run.seed, plan);
  else
    m_images.emplace(data.images(), config.run.seed, config.data.augment, plan);
}

template <class V>
void TrainBatches<V>::read(index_t update, index_t micro_step) {
  m_buffers.open();
  if (m_random && m_random->has_tokens())
    m_random->read(m_plan, update, micro_step, m_buffers.tokens(), m_buffers.targets());
  else if (m_random)
    m_random->read(m_plan, update, micro_step, m_buffers.images(), m_buffers.targets());
  else if (m_tokens)
    m_tokens->read(update, micro_step, m_buffers.tokens(), m_buffers.targets());
  else
    m_images->read(update, micro_step, m_buffers.images(), m_buffers.targets());
}

template <class V>
EvalBatches<V>::EvalBatches(DataSet& data, BatchPlan const& plan, index_t eval_batches)
    : m_buffers(data, plan.micro_batch) {
  if (data.has_tokens())
    m_tokens.emplace(data.tokens(), plan, eval_batches);
  else
    m_images.emplace(data.images(), plan, eval_batches);
}

template <class V>
index_t EvalBatches<V>::num_samples() const {
  return m_tokens ? m_tokens->num_samples() : m_images->num_samples();
}
template <class V>
index_t EvalBatches<V>::steps() const {
  return m_tokens ? m_tokens->steps() : m_images->steps();
}
template <class V>
index_t EvalBatches<V>::read(index_t step) {
  m_buffers.open();
  return m_tokens ? m_tokens->read(step, m_buffers.tokens(), m_buffers.targets())
                  : m_images->read(step, m_buffers.images(), m_buffers.targets());
}

template class BatchBuffers<float>;
template class BatchBuffers<double>;
template class BatchBuffers<kernels::bf16>;
template class TrainBatches<float>;
template class TrainBatches<double>;
template class TrainBatches<kernels::bf16>;
template class EvalBatches<float>;
template class EvalBatches<double>;
template class EvalBatches<kernels::bf16>;

}  // namespace sdp
