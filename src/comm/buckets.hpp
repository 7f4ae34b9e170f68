// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/index_range.hpp"
#include "base/parameter_table.hpp"
#include "base/types.hpp"

namespace sdp {

// Logical index: position of an element in all logical tensors laid end to end in table order, the
// same on every worker. Flat index: position in one worker's gradient (or weight) buffer.

/// Consecutive ranges of logical indices that cover the model. A bucket is closed before the tensor
/// that would make it larger than `bucket_bytes`; a tensor larger than that is divided into equal
/// parts at row boundaries. Only a row that is larger by itself makes a larger bucket.
std::vector<IndexRange> make_buckets(ParameterTable const& table, index_t bucket_bytes,
                                     index_t bytes_per_element);

}  // namespace sdp
