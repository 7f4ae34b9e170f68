// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.hpp"

namespace sdp {

/// Losses (N) of hidden states (N,D) under the head (V,D) against targets (N), nats per token; a
/// negative target has loss 0. `logits` is a workspace; its rows are the tokens taken at a time.
template <class V>
void llama_head_loss(ExecSpace const& exec, Window2<V> const& hidden, Window2<V> const& head,
                     Window1<std::int32_t const> const& targets, Window2<V> const& logits,
                     Window1<kernels::accum_t<V>> const& losses);

extern template void llama_head_loss<float>(ExecSpace const&, Window2<float> const&,
                                            Window2<float> const&,
                                            Window1<std::int32_t const> const&,
                                            Window2<float> const&, Window1<float> const&);
extern template void llama_head_loss<double>(ExecSpace const&, Window2<double> const&,
                                             Window2<double> const&,
                                             Window1<std::int32_t const> const&,
                                             Window2<double> const&, Window1<double> const&);
extern template void llama_head_loss<kernels::bf16>(ExecSpace const&, Window2<kernels::bf16> const&,
                                                    Window2<kernels::bf16> const&,
                                                    Window1<std::int32_t const> const&,
                                                    Window2<kernels::bf16> const&,
                                                    Window1<float> const&);

}  // namespace sdp
