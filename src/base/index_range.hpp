// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.hpp"

namespace sdp {

/// Half-open range [begin, end) of elements, of a flat buffer or of all logical tensors laid end to
/// end in table order.
struct IndexRange {
  index_t begin = 0;
  index_t end = 0;
  index_t size() const { return end - begin; }
  friend bool operator==(IndexRange const&, IndexRange const&) = default;
};

}  // namespace sdp
