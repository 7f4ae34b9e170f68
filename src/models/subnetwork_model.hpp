// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/parameter_table.hpp"

namespace sdp {

/// What one worker holds of a model. Under forward masking both tables are the same; under backward
/// masking the weights are complete and the gradients a part of them.
struct ModelSubnetwork {
  ParameterTable weights;
  ParameterTable gradients;  ///< rows that get a gradient, all of them rows of `weights`
  /// Factors on what the residual branches add to the residual stream, from the input on: attention
  /// and MLP of each layer of a LLaMA, each block of a ResNet. Empty: all 1.
  std::vector<double> branch_scales;
};

/// FLOPs of one training sample on one worker, by the part of the step that spends them. A
/// multiplication and an addition count as two.
struct SampleFlops {
  std::int64_t forward = 0;
  std::int64_t activation_gradient = 0;
  std::int64_t weight_gradient = 0;
  std::int64_t total() const { return forward + activation_gradient + weight_gradient; }
};

}  // namespace sdp
