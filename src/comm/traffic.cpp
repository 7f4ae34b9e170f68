// SPDX-License-Identifier: Apache-2.0
#include "comm/traffic.hpp"

#include <algorithm>

#include "comm/contribution_sum.hpp"
#include "comm/exchange.hpp"
#include "comm/exchange_legs.hpp"

namespace sdp {

namespace {

/// What the buckets of a worker need in an exchange.
struct Staging {
  index_t slot_bytes = 0;
  index_t users = 0;
  index_t spans = 0;
  index_t sums = 0;  ///< bytes of the lists
};

}  // namespace

std::vector<WorkerTraffic> exchange_traffic(ExchangeLayout const& layout,
                                            std::vector<IndexRange> const& buckets,
                                            std::vector<int> const& workers,
                                            GradientReturn gradient_return, int ranks_per_node,
                                            index_t gradient_bytes, index_t weight_bytes,
                                            bool converted, bool node_memory) {
  std::vector<WorkerTraffic> result;
  for (int worker : workers) result.push_back({worker, {}, 0, 0});
  std::vector<Staging> staging(workers.size());
  ExchangeSchedule one_bucket;
  one_bucket.buckets.resize(1);
  visit_buckets(layout, buckets, workers, gradient_return, ranks_per_node,
                [&](std::size_t i, BucketSchedule const& bucket, index_t owned) {
                  count_messages(bucket, workers[i], ranks_per_node, result[i].traffic);
                  result[i].owned += owned;
                  one_bucket.buckets[0] = bucket;
                  const int node = workers[i] / ranks_per_node;
                  const ExchangeLegs legs(
                      one_bucket, gradient_bytes, weight_bytes, false, converted,
                      [&](int peer) { return node_memory && peer / ranks_per_node == node; });
                  staging[i].slot_bytes = std::max(staging[i].slot_bytes, legs.slot_bytes());
                  staging[i].users += legs.slot_users();
                  staging[i].sums += sum_list_bytes(bucket);
                  staging[i].spans += static_cast<index_t>(legs.spans().size());
                });
  const index_t slots = ExchangeOptions{}.staging_slots;
  const bool addresses = node_memory && ranks_per_node > 1 && layout.workers() > 1;
  const auto peers = addresses ? layout.workers() * static_cast<index_t>(sizeof(void*)) : 0;
  for (std::size_t i = 0; i < workers.size(); ++i)
    result[i].exchange_bytes = std::min(staging[i].users, slots) * staging[i].slot_bytes +
                               staging[i].spans * static_cast<index_t>(sizeof(kernels::CopySpan)) +
                               staging[i].sums + peers;
  return result;
}

}  // namespace sdp
