// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <vector>

namespace sdp {

struct MinMeanMax {
  double min = 0.0;
  double mean = 0.0;
  double max = 0.0;
};

/// Of a list, summed in its order; all 0 for an empty one.
inline MinMeanMax min_mean_max(std::vector<double> const& values) {
  if (values.empty()) return {};
  MinMeanMax result{values[0], 0.0, values[0]};
  for (const double value : values) {
    result.min = std::min(result.min, value);
    result.max = std::max(result.max, value);
    result.mean += value;
  }
  result.mean /= static_cast<double>(values.size());
  return result;
}

}  // namespace sdp
