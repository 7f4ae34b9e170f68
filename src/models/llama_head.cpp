// SPDX-License-Identifier: Apache-2.0
#include "models/llama_head.hpp"

#include <algorithm>

#include "kernels/nn/cross_entropy.hpp"
#include "kernels/nn/linear.hpp"

namespace sdp {

template <class V>
void llama_head_loss(ExecSpace const& exec, Window2<V> const& hidden, Window2<V> const& head,
                     Window1<std::int32_t const> const& targets, Window2<V> const& logits,
                     Window1<kernels::accum_t<V>> const& losses) {
  const auto tokens = static_cast<index_t>(hidden.extent(0));
  const auto chunk = static_cast<index_t>(logits.extent(0));
  for (index_t begin = 0; begin < tokens; begin += chunk) {
    const index_t rows = std::min(chunk, tokens - begin);
    const Window2<V> part(logits.data(), rows, head.extent(0));
    kernels::linear_forward(exec, kernels::WeightLayout::out_in,
                            Window2<V>(&hidden(begin, 0), rows, hidden.extent(1)), head, part);
    kernels::cross_entropy_forward(exec, part,
                                   Window1<std::int32_t const>(targets.data() + begin, rows),
                                   Window1<kernels::accum_t<V>>(losses.data() + begin, rows));
  }
}

template void llama_head_loss<float>(ExecSpace const&, Window2<float> const&, Window2<float> const&,
                                     Window1<std::int32_t const> const&, Window2<float> const&,
                                     Window1<float> const&);
template void llama_head_loss<double>(ExecSpace const&, Window2<double> const&,
                                      Window2<double> const&, Window1<std::int32_t const> const&,
                                      Window2<double> const&, Window1<double> const&);
template void llama_head_loss<kernels::bf16>(ExecSpace const&, Window2<kernels::bf16> const&,
                                             Window2<kernels::bf16> const&,
                                             Window1<std::int32_t const> const&,
                                             Window2<kernels::bf16> const&, Window1<float> const&);

}  // namespace sdp
