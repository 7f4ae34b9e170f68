// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "config/config.hpp"
#include "train/data_set.hpp"

namespace sdp {

/// "LLaMA (V 512, D 128, L 4, H 4/4, F 344)" or "ResNet-18 (width 64, 10 classes)".
std::string model_title(ModelConfig const& model);

/// "1.20M tokens in 3 shards, 9375 samples" or "60000 images".
std::string describe_data(DataSet const& data);

}  // namespace sdp
