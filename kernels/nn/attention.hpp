// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/nn/attention_backward.hpp"
#include "kernels/nn/attention_forward.hpp"
#include "kernels/nn/cudnn_attention.hpp"

// Legend: B batch, T positions, H query heads, K key/value heads (K divides H; key/value head j
// serves the H/K consecutive query heads from j*H/K), h head dimension.

namespace sdp::kernels {

namespace Details {

/// Checks what both directions share and collects the sizes.
template <AnyView QKV, AnyView Out, AnyView Lse>
AttentionShape attention_shape(char const* name, QKV const& qkv, index_t num_heads, Out const& out,
                               Lse const& lse) {
  using T = value_t<QKV>;
  static_assert(std::is_same_v<T, value_t<Out>>, "attention: qkv and out must share a value type");
  static_assert(std::is_same_v<accum_t<T>, value_t<Lse>>,
                "attention: lse must hold the accumulation type of qkv");
  static_assert(std::is_same_v<typename QKV::array_layout, Kokkos::LayoutRight> &&
                    std::is_same_v<typename Out::array_layout, Kokkos::LayoutRight> &&
                    std::is_same_v<typename Lse::array_layout, Kokkos::LayoutRight>,
                "attention: Views must be LayoutRight");
  const auto stored = static_cast<index_t>(qkv.extent(2));
  const index_t key_value_heads = (stored - num_heads) / 2;
  require(num_heads > 0 && key_value_heads > 0 && (stored - num_heads) % 2 == 0 &&
              num_heads % key_value_heads == 0,
          name,
          "qkv " + shape_string(qkv) + " does not hold " + std::to_string(num_heads) +
              " query heads and twice a divisor of that of key and value heads");
  for (int axis : {0, 1})
    require_extent(name, "out", out, axis, static_cast<index_t>(qkv.extent(axis)));
  require_extent(name, "out", out, 2, num_heads);
  require_extent(name, "out", out, 3, static_cast<index_t>(qkv.extent(3)));
  require_extent(name, "lse", lse, 0, static_cast<index_t>(qkv.extent(0)));
  require_extent(name, "lse", lse, 1, num_heads);
  require_extent(name, "lse", lse, 2, static_cast<index_t>(qkv.extent(1)));
  require(qkv.span_is_contiguous() && out.span_is_contiguous() && lse.span_is_contiguous(), name,
          "Views must be contiguous");
  return {static_cast<index_t>(qkv.extent(0)), static_cast<index_t>(qkv.extent(1)),
          static_cast<int>(num_heads), static_cast<int>(key_value_heads),
          static_cast<int>(qkv.extent(3))};
}

/// The same for all tensors of the backward pass.
template <AnyView QKV, AnyView Out, AnyView Lse, AnyView DOut, AnyView Delta, AnyView DQKV>
AttentionShape attention_backward_shape(char const* name, QKV const& qkv, Out const& out,
                                        Lse const& lse, DOut const& d_out, index_t num_heads,
                                        Delta const& delta, DQKV const& d_qkv) {
  static_assert(std::is_same_v<value_t<QKV>, value_t<DQKV>> &&
                    std::is_same_v<value_t<QKV>, value_t<DOut>> &&
                    std::is_same_v<value_t<Lse>, value_t<Delta>>,
                "attention_backward: gradients must share the value types of their tensors");
  static_assert(std::is_same_v<typename DOut::array_layout, Kokkos::LayoutRight> &&
                    std::is_same_v<typename Delta::array_layout, Kokkos::LayoutRight> &&
                    std::is_same_v<typename DQKV::array_layout, Kokkos::LayoutRight>,
                "attention_backward: Views must be LayoutRight");
  const AttentionShape shape = attention_shape(name, qkv, num_heads, out, lse);
  require_same_shape(name, "out", out, "d_out", d_out);
  require_same_shape(name, "lse", lse, "delta", delta);
  require_same_shape(name, "qkv", qkv, "d_qkv", d_qkv);
  require(d_out.span_is_contiguous() && delta.span_is_contiguous() && d_qkv.span_is_contiguous(),
          name, "Views must be contiguous");
  return shape;
}

/// attention_forward with block sizes chosen by the caller.
template <class Tuning, ExecutionSpace Exec, AnyView QKV, AnyView Out, AnyView Lse>
void attention_forward_tuned(Exec const& exec, QKV const& qkv, index_t num_heads, Out const& out,
                             Lse const& lse) {
  constexpr char const* k_name = "sdp::kernels::attention_forward";
  const AttentionShape shape = attention_shape(k_name, qkv, num_heads, out, lse);
  if (shape.empty()) return;
  using Pass = AttentionForward<Exec, value_t<QKV>, Tuning>;
  launch_tiles(exec, k_name, Pass(shape, qkv.data(), out.data(), lse.data()));
}

/// attention_backward with block sizes and loop order chosen by the caller.
template <class Tuning, ExecutionSpace Exec, AnyView QKV, AnyView Out, AnyView Lse, AnyView DOut,
          AnyView Delta, AnyView DQKV>
void attention_backward_tuned(Exec const& exec, AttentionPlan plan, QKV const& qkv, Out const& out,
                              Lse const& lse, DOut const& d_out, index_t num_heads,
                              Delta const& delta, DQKV const& d_qkv) {
  constexpr char const* k_name = "sdp::kernels::attention_backward";
  const AttentionShape shape =
      attention_backward_shape(k_name, qkv, out, lse, d_out, num_heads, delta, d_qkv);
  if (shape.empty()) return;
  using T = value_t<QKV>;
  attention_delta<Exec, T>(exec, shape, out.data(), d_out.data(), delta.data());
  const AttentionGradient<T> gradient{qkv.data(), lse.data(), d_out.data(), delta.data(),
                                      d_qkv.data()};
  if constexpr (Tuning::k_may_fuse && std::is_same_v<T, accum_t<T>>) {
    // One team a key/value head must be enough to keep the machine busy.
    const bool fill =
        shape.batch * shape.key_value_heads >= static_cast<index_t>(exec.concurrency());
    if (plan == AttentionPlan::fused || (plan == AttentionPlan::automatic && fill)) {
      launch_tiles(exec, k_name, AttentionKeyValuePass<Exec, T, Tuning, true>(shape, gradient));
      return;
    }
  }
  launch_tiles(exec, k_name, AttentionKeyValuePass<Exec, T, Tuning, false>(shape, gradient));
  launch_tiles(exec, k_name, AttentionQueryPass<Exec, T, Tuning>(shape, gradient));
}

}  // namespace Details

/// Causal grouped-query attention: out(b,t,n,:) = sum_{s<=t} p(s) v(b,s,n',:), with
/// p = softmax_s(q(b,t,n,:).k(b,s,n',:) / sqrt(h)) and n' = n / (H/K); lse(b,n,t) = log of the sum
/// of the exponentials of the scaled scores, which attention_backward needs.
///
/// qkv (B,T,H+2K,h): heads [0,H) are queries, [H,H+K) keys, [H+K,H+2K) values. out (B,T,H,h) and
/// lse (B,H,T), accumulation type, are overwritten and may not alias qkv. No (T,T) tensor exists:
/// keys are streamed in tiles with a running maximum and sum. All arithmetic is in the accumulation
/// type; the order of every sum depends on T and h only. Any h up to 256 fits the scratch of every
/// back-end. Throws ShapeError when heads do not divide or shapes do not fit. Source: Dao et al.,
/// FlashAttention, arXiv 2205.14135; Ainslie et al., GQA, arXiv 2305.13245.
///
/// In a CUDA build with cuDNN, bf16 goes to its kernel for tensor cores where that takes the shape
/// (cudnn_attention.hpp): probabilities are then rounded to bf16 before they meet the values, the
/// first call with a shape makes a plan, and instances that run attention share a workspace.
template <ExecutionSpace Exec, ViewOfRank<4> QKV, ViewOfRank<4> Out, ViewOfRank<3> Lse>
void attention_forward(Exec const& exec, QKV const& qkv, index_t num_heads, Out const& out,
                       Lse const& lse) {
#if defined(SDP_HAVE_CUDNN)
  if constexpr (Details::k_cudnn_attention<Exec, value_t<QKV>>) {
    const Details::AttentionShape shape =
        Details::attention_shape("sdp::kernels::attention_forward", qkv, num_heads, out, lse);
    if (!shape.empty() &&
        Details::cudnn_attention_forward(exec, shape, qkv.data(), out.data(), lse.data()))
      return;
  }
#endif
  using Tuning = Details::DefaultAttentionTuning<Exec, value_t<QKV>>;
  Details::attention_forward_tuned<Tuning>(exec, qkv, num_heads, out, lse);
}

/// Gradient of attention_forward with respect to queries, keys and values: with p recomputed from
/// lse, delta(t) = sum_d d_out(t,d) out(t,d) and ds(t,s) = p(t,s) (d_out(t).v(s) - delta(t)) /
/// sqrt(h): dq(t) = sum_s ds(t,s) k(s), dk(s) = sum_t ds(t,s) q(t), dv(s) = sum_t p(t,s) d_out(t);
/// dk and dv sum over the H/K query heads that share the key/value head.
///
/// qkv, out, lse as in attention_forward; d_out (B,T,H,h); d_qkv (B,T,H+2K,h) overwritten; delta
/// (B,H,T), accumulation type, is a workspace whose content on entry does not matter. d_qkv may not
/// alias an input. No atomics: the order of every sum depends on T, h, and whether B*K reaches the
/// concurrency of the execution space (one fused pass then, else one pass for keys and values and
/// one for queries). Throws ShapeError when shapes do not fit. Goes to cuDNN as attention_forward
/// does; delta is not touched then. `deterministic` asks cuDNN for the algorithm that gives the
/// same bits every time, whose workspace grows with T^2 (in parts of at least one key/value head);
/// without it the workspace grows with T, and only the order of the sums may differ from call to
/// call.
template <ExecutionSpace Exec, ViewOfRank<4> QKV, ViewOfRank<4> Out, ViewOfRank<3> Lse,
          ViewOfRank<4> DOut, ViewOfRank<3> Delta, ViewOfRank<4> DQKV>
void attention_backward(Exec const& exec, QKV const& qkv, Out const& out, Lse const& lse,
                        DOut const& d_out, index_t num_heads, Delta const& delta, DQKV const& d_qkv,
                        [[maybe_unused]] bool deterministic = true) {
#if defined(SDP_HAVE_CUDNN)
  if constexpr (Details::k_cudnn_attention<Exec, value_t<QKV>>) {
    const Details::AttentionShape shape = Details::attention_backward_shape(
        "sdp::kernels::attention_backward", qkv, out, lse, d_out, num_heads, delta, d_qkv);
    if (!shape.empty() &&
        Details::cudnn_attention_backward(exec, shape, qkv.data(), out.data(), lse.data(),
                                          d_out.data(), d_qkv.data(), deterministic))
      return;
  }
#endif
  using Tuning = Details::DefaultAttentionTuning<Exec, value_t<QKV>>;
  Details::attention_backward_tuned<Tuning>(exec, Details::AttentionPlan::automatic, qkv, out, lse,
                                            d_out, num_heads, delta, d_qkv);
}

}  // namespace sdp::kernels
