// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "comm/stream.hpp"
#include "data/batch_reader.hpp"
#include "data/image_reader.hpp"
#include "kernels/core/compat.hpp"
#include "models/model.hpp"
#include "train/data_set.hpp"

namespace sdp {

/// Room for one micro-batch of tokens or images, on the host and on the device.
template <class V>
class BatchBuffers {
 public:
  /// For `rows` samples of such data.
  BatchBuffers(DataSet const& data, index_t rows);

  /// Where the next micro-batch is to be written. open() first: it waits until the copy that was
  /// queued from there has taken place.
  void open();
  std::int32_t* tokens() { return side().tokens.data(); }    ///< (rows,T)
  std::uint8_t* images() { return side().bytes.data(); }     ///< (rows,C,S,S)
  std::int32_t* targets() { return side().targets.data(); }  ///< (rows,T) or (rows,1)

  /// Copies the first `rows` samples to the device, images normalised on the way; valid until the
  /// next call. Only queues work.
  ModelBatch<V> upload(ExecSpace const& exec, index_t rows);

 private:
  template <class T>
  using Mirror =
      std::conditional_t<k_host_memory, T,
                         Kokkos::View<typename T::data_type, Kokkos::LayoutRight, PinnedSpace>>;
  /// Two on devices, so that one is filled while the other is still to be copied.
  struct Side {
    Mirror<View2<std::int32_t>> tokens, targets;
    Mirror<View4<std::uint8_t>> bytes;
    StreamEvent copied;
  };

  Side& side() { return m_sides[m_side]; }

  View2<std::int32_t> m_tokens, m_targets;
  View4<std::uint8_t> m_bytes;
  View4<V> m_images;
  View1<kernels::accum_t<V>> m_mean, m_deviation;  // (C)
  std::array<Side, k_host_memory ? 1 : 2> m_sides;
  std::size_t m_side = 0;
};

/// Micro-batches for training, in the order of TrainOrder; random ones where the data are random.
template <class V>
class TrainBatches {
 public:
  /// `data` outlives it. ConfigError as TrainOrder.
  TrainBatches(DataSet& data, Config const& config, BatchPlan const& plan);

  BatchPlan const& plan() const { return m_plan; }
  /// Reads micro-step `micro_step` of update `update`, both from 0. Rank-local; DataError.
  void read(index_t update, index_t micro_step);
  ModelBatch<V> upload(ExecSpace const& exec) { return m_buffers.upload(exec, m_plan.micro_batch); }

 private:
  BatchPlan m_plan;
  std::optional<RandomSamples> m_random;
  std::optional<TrainReader> m_tokens;
  std::optional<ImageTrainReader> m_images;
  BatchBuffers<V> m_buffers;
};

/// Micro-batches for evaluation, in the order of EvalOrder.
template <class V>
class EvalBatches {
 public:
  /// `data` outlives it; eval_batches 0: all of it.
  EvalBatches(DataSet& data, BatchPlan const& plan, index_t eval_batches);

  index_t num_samples() const;  ///< over all ranks
  index_t steps() const;        ///< the same on every rank
  /// Reads micro-step `step` and says how many samples it has on this rank. Rank-local; DataError.
  index_t read(index_t step);
  ModelBatch<V> upload(ExecSpace const& exec, index_t rows) { return m_buffers.upload(exec, rows); }

 private:
  std::optional<EvalReader> m_tokens;
  std::optional<ImageEvalReader> m_images;
  BatchBuffers<V> m_buffers;
};

extern template class BatchBuffers<float>;
extern template class BatchBuffers<double>;
extern template class BatchBuffers<kernels::bf16>;
extern template class TrainBatches<float>;
extern template class TrainBatches<double>;
extern template class TrainBatches<kernels::bf16>;
extern template class EvalBatches<float>;
extern template class EvalBatches<double>;
extern template class EvalBatches<kernels::bf16>;

}  // namespace sdp
