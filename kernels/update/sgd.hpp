// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/group.hpp"
#include "kernels/update/blocks.hpp"

namespace sdp::kernels {

/// Scalars of one SGD step. first_step: the momentum buffer holds nothing yet and starts at the
/// gradient.
struct SgdStep {
  double lr;
  double momentum;
  bool nesterov;
  bool first_step;
};

namespace Details {
// With Mixed a step is made on master, laid out as the moments, and rounded once into weight;
// without, on weight alone.

template <bool Mixed, bool First, bool Nesterov, class Exec, class Blocks, class Scale, class Skip,
          class Grad, class Moment, class Master, class Weight>
void sgd_momentum(Exec const& exec, Blocks const& blocks, SgdStep const& s, Scale const& grad_scale,
                  Skip const& skip, Grad const& grad, Moment const& momentum, Master const& master,
                  Weight const& weight) {
  using P = value_t<Master>;
  using A = accum_t<P>;
  const double lr = s.lr;
  const A mu = static_cast<A>(s.momentum);
  Kokkos::parallel_for(
      "sdp::kernels::sgd_update", row_policy(exec, static_cast<index_t>(blocks.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        if (skip() != 0) return;
        const UpdateBlock block = blocks(team.league_rank());
        const A rate = static_cast<A>(lr * block.lr_factor);
        const A decay = static_cast<A>(block.weight_decay);
        const A scale = static_cast<A>(grad_scale());
        const A coefficient = mu;
        auto const* g_in = grad.data() + block.gradient;
        auto* buffer = momentum.data() + block.moment;
        auto* p = master.data() + (Mixed ? block.moment : block.weight);
        auto* w = weight.data() + block.weight;
        group_for<k_group<Exec, P>>(team, block.count, [=](index_t begin, auto count) {
          constexpr int k_values = decltype(count)();
          const auto gradient = load_group<A>(g_in + begin, count);
          auto value = load_group<A>(p + begin, count);
          Group<A, k_values> moment{};
          if constexpr (!First) moment = load_group<A>(buffer + begin, count);
          for (int j = 0; j < count; ++j) {
            const A g = gradient[j] * scale + decay * value[j];
            moment[j] = First ? g : g + coefficient * moment[j];
            value[j] -= rate * (Nesterov ? g + coefficient * moment[j] : moment[j]);
          }
          store_group(moment, buffer + begin);
          store_group(value, p + begin);
          if constexpr (Mixed) store_group(value, w + begin);
        });
      });
}

template <bool Mixed, class Exec, class Blocks, class Scale, class Skip, class Grad, class Master,
          class Weight>
void sgd_plain(Exec const& exec, Blocks const& blocks, SgdStep const& s, Scale const& grad_scale,
               Skip const& skip, Grad const& grad, Master const& master, Weight const& weight) {
  using P = value_t<Master>;
  using A = accum_t<P>;
  const double lr = s.lr;
  Kokkos::parallel_for(
      "sdp::kernels::sgd_update", row_policy(exec, static_cast<index_t>(blocks.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        if (skip() != 0) return;
        const UpdateBlock block = blocks(team.league_rank());
        const A rate = static_cast<A>(lr * block.lr_factor);
        const A decay = static_cast<A>(block.weight_decay);
        const A scale = static_cast<A>(grad_scale());
        auto const* g_in = grad.data() + block.gradient;
        auto* p = master.data() + (Mixed ? block.moment : block.weight);
        auto* w = weight.data() + block.weight;
        group_for<k_group<Exec, P>>(team, block.count, [=](index_t begin, auto count) {
          const auto gradient = load_group<A>(g_in + begin, count);
          auto value = load_group<A>(p + begin, count);
          for (int j = 0; j < count; ++j)
            value[j] -= rate * (gradient[j] * scale + decay * value[j]);
          store_group(value, p + begin);
          if constexpr (Mixed) store_group(value, w + begin);
        });
      });
}

template <bool Mixed, class Exec, class Blocks, class Scale, class Skip, class Grad, class Moment,
          class Master, class Weight>
void sgd(Exec const& exec, Blocks const& blocks, SgdStep const& step, Scale const& grad_scale,
         Skip const& skip, Grad const& grad, Moment const& momentum_buffer, Master const& master,
         Weight const& weight) {
  static_assert(std::is_same_v<value_t<Blocks>, UpdateBlock>,
                "sgd_update: blocks must be of UpdateBlock");
  if (blocks.extent(0) == 0) return;
  const auto run = [&]<bool First, bool Nesterov>(std::bool_constant<First>,
                                                  std::bool_constant<Nesterov>) {
    sgd_momentum<Mixed, First, Nesterov>(exec, blocks, step, grad_scale, skip, grad,
                                         momentum_buffer, master, weight);
  };
  if (step.momentum == 0.0)
    sgd_plain<Mixed>(exec, blocks, step, grad_scale, skip, grad, master, weight);
  else if (step.first_step && step.nesterov)
    run(std::true_type(), std::true_type());
  else if (step.first_step)
    run(std::true_type(), std::false_type());
  else if (step.nesterov)
    run(std::false_type(), std::true_type());
  else
    run(std::false_type(), std::false_type());
}
}  // namespace Details

/// One SGD step (torch.optim.SGD, dampening 0) on flat buffers, with a = lr * lr_factor and
/// d = weight_decay of each element's block:
///   g = grad * grad_scale + d * weight
///   momentum_buffer = g on the first step, momentum * momentum_buffer + g after it
///   weight -= a * (nesterov ? g + momentum * momentum_buffer : momentum_buffer)
/// With momentum = 0 the step is weight -= a * g and momentum_buffer, which may be empty, is not
/// used.
///
/// grad (n), momentum_buffer (m), weight (w); the last two are updated in place where a block
/// covers them. blocks, grad_scale and skip as in adamw_update. Arithmetic in accum_t of the
/// weights; one pass over memory.
template <ExecutionSpace Exec, RowMajor<1> Blocks, ViewOfRank<0> Scale, ViewOfRank<0> Skip,
          RowMajor<1> Grad, RowMajor<1> Moment, RowMajor<1> Weight>
void sgd_update(Exec const& exec, Blocks const& blocks, SgdStep const& step,
                Scale const& grad_scale, Skip const& skip, Grad const& grad,
                Moment const& momentum_buffer, Weight const& weight) {
  Details::sgd<false>(exec, blocks, step, grad_scale, skip, grad, momentum_buffer, weight, weight);
}

/// The same step on master weights (m), laid out as the moments (also where momentum_buffer is
/// empty); weight (w) becomes the master weights rounded once to its own type and is not read.
/// Arithmetic in accum_t of the master weights.
template <ExecutionSpace Exec, RowMajor<1> Blocks, ViewOfRank<0> Scale, ViewOfRank<0> Skip,
          RowMajor<1> Grad, RowMajor<1> Moment, RowMajor<1> Master, RowMajor<1> Weight>
void sgd_update(Exec const& exec, Blocks const& blocks, SgdStep const& step,
                Scale const& grad_scale, Skip const& skip, Grad const& grad,
                Moment const& momentum_buffer, Master const& master, Weight const& weight) {
  Details::sgd<true>(exec, blocks, step, grad_scale, skip, grad, momentum_buffer, master, weight);
}

}  // namespace sdp::kernels
