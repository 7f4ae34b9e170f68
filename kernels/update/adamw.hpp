// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernels/core/group.hpp"
#include "kernels/update/blocks.hpp"

namespace sdp::kernels {

/// Scalars of one AdamW step t = 1, 2, ...; bias_correction_i = 1 - beta_i^t.
struct AdamWStep {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double bias_correction1;
  double bias_correction2;
};

namespace Details {
/// With Mixed the step is made on master, laid out as the moments, and rounded once into weight;
/// without, on weight alone.
template <bool Mixed, class Exec, class Blocks, class Scale, class Skip, class Grad, class Moment,
          class Master, class Weight>
void adamw(Exec const& exec, Blocks const& blocks, AdamWStep const& step, Scale const& grad_scale,
           Skip const& skip, Grad const& grad, Moment const& exp_avg, Moment const& exp_avg_sq,
           Master const& master, Weight const& weight) {
  constexpr char const* k_name = "sdp::kernels::adamw_update";
  using P = value_t<Master>;
  using A = accum_t<P>;
  static_assert(std::is_same_v<value_t<Blocks>, UpdateBlock>,
                "adamw_update: blocks must be of UpdateBlock");
  require_same_shape(k_name, "exp_avg", exp_avg, "exp_avg_sq", exp_avg_sq);
  if (blocks.extent(0) == 0) return;
  const AdamWStep s = step;
  Kokkos::parallel_for(
      k_name, row_policy(exec, static_cast<index_t>(blocks.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        if (skip() != 0) return;
        const UpdateBlock block = blocks(team.league_rank());
        const double block_lr = s.lr * block.lr_factor;
        const A scale = static_cast<A>(grad_scale());
        const A keep = static_cast<A>(1.0 - block_lr * block.weight_decay);
        const A step_size = static_cast<A>(block_lr / s.bias_correction1);
        const A root = static_cast<A>(std::sqrt(s.bias_correction2));
        const A eps = static_cast<A>(s.eps);
        const A one_minus_beta1 = static_cast<A>(1.0 - s.beta1);
        const A beta2 = static_cast<A>(s.beta2);
        const A one_minus_beta2 = static_cast<A>(1.0 - s.beta2);
        auto const* g_in = grad.data() + block.gradient;
        auto* m = exp_avg.data() + block.moment;
        auto* v = exp_avg_sq.data() + block.moment;
        auto* p = master.data() + (Mixed ? block.moment : block.weight);
        auto* w = weight.data() + block.weight;
        group_for<k_group<Exec, P>>(team, block.count, [=](index_t begin, auto count) {
          const auto gradient = load_group<A>(g_in + begin, count);
          auto mean = load_group<A>(m + begin, count);
          auto square = load_group<A>(v + begin, count);
          auto value = load_group<A>(p + begin, count);
          for (int j = 0; j < count; ++j) {
            const A g = gradient[j] * scale;
            mean[j] = mean[j] + one_minus_beta1 * (g - mean[j]);
            square[j] = beta2 * square[j] + one_minus_beta2 * (g * g);
            const A denominator = std::sqrt(square[j]) / root + eps;
            value[j] = value[j] * keep - step_size * (mean[j] / denominator);
          }
          store_group(mean, m + begin);
          store_group(square, v + begin);
          store_group(value, p + begin);
          if constexpr (Mixed) store_group(value, w + begin);
        });
      });
}
}  // namespace Details

/// One AdamW step (Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW) on flat buffers,
/// with a = lr * lr_factor and d = weight_decay of each element's block:
///   g = grad * grad_scale
///   weight *= 1 - a * d
///   exp_avg += (1 - beta1) * (g - exp_avg)
///   exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g^2
///   weight -= a / bias_correction1 * exp_avg / (sqrt(exp_avg_sq) / sqrt(bias_correction2) + eps)
///
/// grad (n), exp_avg and exp_avg_sq (m), weight (w); the last three are updated in place where a
/// block covers them. blocks: View of UpdateBlock, disjoint, inside these buffers. grad_scale (the
/// clipping factor) and skip (int; not 0: a non-finite step, nothing is done) are rank-0 Views,
/// read on the device. Arithmetic in accum_t of the weights; one pass over memory. Throws
/// ShapeError when the moments differ in length.
template <ExecutionSpace Exec, RowMajor<1> Blocks, ViewOfRank<0> Scale, ViewOfRank<0> Skip,
          RowMajor<1> Grad, RowMajor<1> Moment, RowMajor<1> Weight>
void adamw_update(Exec const& exec, Blocks const& blocks, AdamWStep const& step,
                  Scale const& grad_scale, Skip const& skip, Grad const& grad,
                  Moment const& exp_avg, Moment const& exp_avg_sq, Weight const& weight) {
  Details::adamw<false>(exec, blocks, step, grad_scale, skip, grad, exp_avg, exp_avg_sq, weight,
                        weight);
}

/// The same step on master weights (m), laid out as the moments; weight (w) becomes the master
/// weights rounded once to its own type and is not read. Arithmetic in accum_t of the master
/// weights.
template <ExecutionSpace Exec, RowMajor<1> Blocks, ViewOfRank<0> Scale, ViewOfRank<0> Skip,
          RowMajor<1> Grad, RowMajor<1> Moment, RowMajor<1> Master, RowMajor<1> Weight>
void adamw_update(Exec const& exec, Blocks const& blocks, AdamWStep const& step,
                  Scale const& grad_scale, Skip const& skip, Grad const& grad,
                  Moment const& exp_avg, Moment const& exp_avg_sq, Master const& master,
                  Weight const& weight) {
  require_same_shape("sdp::kernels::adamw_update", "exp_avg", exp_avg, "master", master);
  Details::adamw<true>(exec, blocks, step, grad_scale, skip, grad, exp_avg, exp_avg_sq, master,
                       weight);
}

}  // namespace sdp::kernels
