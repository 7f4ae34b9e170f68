// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"

namespace sdp::kernels {

/// A stretch of parameters whose elements share a learning-rate factor and a weight decay, and
/// where it begins in the buffers of gradients, moments and weights, which may be laid out
/// differently. One team updates one block, so one launch updates everything that a worker updates.
struct UpdateBlock {
  index_t gradient;
  index_t moment;
  index_t weight;
  index_t count;
  double lr_factor;
  double weight_decay;
};

/// Elements in a block: small enough to share a tensor among all cores, large enough that the
/// launch of a team is lost in it.
inline constexpr index_t k_update_block_size = 16384;

/// Cuts the elements of `all` into blocks and appends them; for the host, once per layout.
inline void append_update_blocks(std::vector<UpdateBlock>& blocks, UpdateBlock const& all) {
  for (index_t done = 0; done < all.count; done += k_update_block_size)
    blocks.push_back({all.gradient + done, all.moment + done, all.weight + done,
                      std::min(k_update_block_size, all.count - done), all.lr_factor,
                      all.weight_decay});
}

}  // namespace sdp::kernels
