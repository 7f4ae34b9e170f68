// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"

namespace sdp::kernels {

/// A stretch of the flat parameter buffers whose elements share a learning-rate factor and a weight
/// decay. One team updates one block, so one launch updates everything that a worker holds.
struct UpdateBlock {
  index_t offset;
  index_t count;
  double lr_factor;
  double weight_decay;
};

/// Elements in a block: small enough to share a tensor among all cores, large enough that the
/// launch of a team is lost in it.
inline constexpr index_t k_update_block_size = 16384;

/// Cuts [offset, offset + count) into blocks and appends them; for the host, once per layout.
inline void append_update_blocks(std::vector<UpdateBlock>& blocks, index_t offset, index_t count,
                                 double lr_factor, double weight_decay) {
  for (index_t done = 0; done < count; done += k_update_block_size)
    blocks.push_back(
        {offset + done, std::min(k_update_block_size, count - done), lr_factor, weight_decay});
}

namespace Details {
/// Checks the arguments that every optimizer kernel has. The blocks live on the device, so that
/// they lie inside the buffers is the caller's word.
template <class Blocks, class Grad, class Weight>
void check_update(char const* name, Blocks const&, Grad const& grad, Weight const& weight) {
  static_assert(std::is_same_v<value_t<Blocks>, UpdateBlock>,
                "blocks must be a View of UpdateBlock");
  require_same_shape(name, "grad", grad, "weight", weight);
}
}  // namespace Details

}  // namespace sdp::kernels
