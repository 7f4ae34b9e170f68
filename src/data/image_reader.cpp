// SPDX-License-Identifier: Apache-2.0
#include "data/image_reader.hpp"

#include <string>

namespace sdp {

ImageTrainReader::ImageTrainReader(ImageSet const& data, std::uint64_t seed, bool augment,
                                   BatchPlan const& plan)
    : m_data(data),
      m_seed(seed),
      m_augment(augment),
      m_order(seed, data.num_samples(), plan,
              data.key() + " has " + std::to_string(data.num_samples()) + " images") {}

void ImageTrainReader::read(index_t update, index_t micro_step, std::uint8_t* images,
                            std::int32_t* labels) const {
  for (index_t row = 0; row < plan().micro_batch; ++row) {
    const TrainOrder::Place place = m_order.at(update, micro_step, row);
    const Crop crop = m_augment ? random_crop(m_seed, place.sample, place.epoch) : Crop{};
    m_data.read(place.sample, crop, images + row * m_data.image_bytes());
    labels[row] = m_data.label(place.sample);
  }
}

ImageEvalReader::ImageEvalReader(ImageSet const& data, BatchPlan const& plan, index_t eval_batches)
    : m_data(data), m_order(data.num_samples(), plan, eval_batches) {}

index_t ImageEvalReader::read(index_t step, std::uint8_t* images, std::int32_t* labels) const {
  const index_t count = rows(step);
  for (index_t row = 0; row < count; ++row) {
    const index_t sample = m_order.first(step) + row;
    m_data.read(sample, Crop{}, images + row * m_data.image_bytes());
    labels[row] = m_data.label(sample);
  }
  return count;
}

}  // namespace sdp
