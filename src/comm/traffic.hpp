// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "comm/schedule.hpp"

namespace sdp {

/// What a worker sends and receives in a step, how many elements it owns, and the bytes that an
/// Exchange with default options allocates for it (staging memory, lists of copies and sums).
struct WorkerTraffic {
  int worker = 0;
  ExchangeTraffic traffic;
  index_t owned = 0;
  index_t exchange_bytes = 0;
};

/// Exact, without making the schedules: for some of very many workers the price is that of dividing
/// the model among owners once, and a few hundred nanoseconds for each of them and each piece.
/// `gradient_bytes`, `weight_bytes`: of one element in a message; `converted`: gradients have
/// another type in the buffers, fp32; `node_memory`: workers of a node
/// address each other's gradients. Throws as make_schedule does.
std::vector<WorkerTraffic> exchange_traffic(ExchangeLayout const& layout,
                                            std::vector<IndexRange> const& buckets,
                                            std::vector<int> const& workers,
                                            GradientReturn gradient_return, int ranks_per_node,
                                            index_t gradient_bytes, index_t weight_bytes,
                                            bool converted = false, bool node_memory = false);

}  // namespace sdp
