// SPDX-License-Identifier: Apache-2.0
#include "comm/buckets.hpp"

#include <algorithm>

namespace sdp {

std::vector<IndexRange> make_buckets(ParameterTable const& table, index_t bucket_bytes,
                                     index_t bytes_per_element) {
  const index_t limit = std::max<index_t>(1, bucket_bytes / bytes_per_element);
  std::vector<IndexRange> buckets;
  IndexRange open;
  auto close = [&] {
    if (open.size() > 0) buckets.push_back(open);
    open.begin = open.end;
  };
  for (TensorSpec const& tensor : table.tensors()) {
    const index_t size = tensor.size();
    if (open.size() + size > limit) close();
    const index_t parts = std::min(tensor.rows, (size + limit - 1) / limit);
    const index_t begin = open.end;
    for (index_t part = 1; part < parts; ++part) {
      open.end = begin + tensor.rows * part / parts * tensor.cols;
      close();
    }
    open.end = begin + size;
  }
  close();
  return buckets;
}

}  // namespace sdp
