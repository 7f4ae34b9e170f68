// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "data/batch_order.hpp"
#include "data/image_set.hpp"

namespace sdp {

/// Micro-batches of images for training, in the order of TrainOrder, each image augmented by
/// random_crop() of (seed, sample, epoch).
///
/// Crops bytes on the calling thread into memory of the caller, who copies them to the device and
/// normalises them there (kernels/nn/normalize_images.hpp). (B,C,32,32): B micro-batch, C channels.
class ImageTrainReader {
 public:
  /// `data` outlives the reader. ConfigError as TrainOrder. Without `augment` every image is whole.
  ImageTrainReader(ImageSet const& data, std::uint64_t seed, bool augment, BatchPlan const& plan);

  BatchPlan const& plan() const { return m_order.plan(); }
  /// images (B,C,32,32) and labels (B), overwritten, for update `update` and micro-step
  /// `micro_step`, both from 0.
  void read(index_t update, index_t micro_step, std::uint8_t* images, std::int32_t* labels) const;

 private:
  ImageSet const& m_data;
  std::uint64_t m_seed;
  bool m_augment;
  TrainOrder m_order;
};

/// Micro-batches of whole images for evaluation, in the order of EvalOrder.
class ImageEvalReader {
 public:
  /// `eval_batches` 0: the whole data set. `data` outlives the reader.
  ImageEvalReader(ImageSet const& data, BatchPlan const& plan, index_t eval_batches);

  index_t num_samples() const { return m_order.num_samples(); }  ///< over all ranks
  index_t steps() const { return m_order.steps(); }              ///< the same on every rank
  /// Images that micro-step `step` fills on this rank, 0 to B.
  index_t rows(index_t step) const { return m_order.rows(step); }
  /// images (rows,C,32,32) and labels (rows), overwritten; later rows are left alone. Returns rows.
  index_t read(index_t step, std::uint8_t* images, std::int32_t* labels) const;

 private:
  ImageSet const& m_data;
  EvalOrder m_order;
};

}  // namespace sdp
