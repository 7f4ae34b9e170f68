// SPDX-License-Identifier: Apache-2.0
#include "train/evaluate.hpp"

#include <algorithm>

#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/compat.hpp"
#include "train/batches.hpp"

namespace sdp {

template <class V>
SampleLosses sample_losses(World const& world, ExecSpace const& exec, Model<V>& model,
                           View1<V> const& weights, EvalScope const& scope, int places, int place,
                           EvalCheck const& check) {
  const index_t t = scope.data.targets_per_sample();
  EvalBatches<V> batches = world.collectively([&] {
    return EvalBatches<V>(scope.data, {scope.global_batch, scope.micro_batch, places, place},
                          scope.eval_batches);
  });
  const MemoryScope memory(MemoryCategory::data);
  View1<kernels::accum_t<V>> losses("sdp::train::eval_losses", scope.micro_batch * t);
  View1<std::int32_t> correct("sdp::train::eval_correct", scope.micro_batch);
  auto host_losses = Kokkos::create_mirror_view(losses);
  auto host_correct = Kokkos::create_mirror_view(correct);

  SampleLosses samples(t, batches.num_samples());
  // Who shares the samples with few others has more of them; all count the same number of steps.
  const index_t steps = world.max(batches.steps());
  for (index_t step = 0; step < steps; ++step) {
    const index_t rows = world.collectively([&] {
      if (check) check();
      return batches.read(step);
    });
    if (rows == 0) continue;
    const ModelBatch<V> batch = batches.upload(exec, rows);
    model.infer(exec, weights, batch, nullptr);
    model.loss(exec, weights, batch, losses, nullptr);
    const bool classifies = model.correct(exec, batch, correct);
    kernels::fence(exec, "sdp::train::sample_losses");
    Kokkos::deep_copy(host_losses, losses);
    samples.add(host_losses, rows);
    if (!classifies) continue;
    Kokkos::deep_copy(host_correct, correct);
    samples.add_correct(host_correct, rows);
  }
  return samples;
}

template <class V>
EvalResult evaluate(World const& world, ExecSpace const& exec, Model<V>& model,
                    View1<V> const& weights, EvalScope const& scope, EvalCheck const& check) {
  Region region("sdp::train::evaluate");
  return sample_losses(world, exec, model, weights, scope, world.size(), world.rank(), check)
      .mean(world);
}

template <class V>
double evaluate_ensemble(World const& world, ExecSpace const& exec, Model<V>& model,
                         View1<V> const& weights, std::vector<int> const& subnetwork_of_worker,
                         EvalScope const& scope, EvalCheck const& check) {
  Region region("sdp::train::evaluate_ensemble");
  const auto me = subnetwork_of_worker.begin() + world.worker();
  const auto sharers =
      static_cast<int>(std::count(subnetwork_of_worker.begin(), subnetwork_of_worker.end(), *me));
  const auto place = static_cast<int>(std::count(subnetwork_of_worker.begin(), me, *me));
  const SampleLosses samples =
      sample_losses(world, exec, model, weights, scope, sharers, place, check);
  // n_i / R times a rank's part of the mean of its subnetwork.
  double total = 0;
  for (double part : world.all_gather(samples.sum() * static_cast<double>(sharers))) total += part;
  return total / static_cast<double>(world.size() * samples.num_samples() *
                                     scope.data.targets_per_sample());
}

template SampleLosses sample_losses<float>(World const&, ExecSpace const&, Model<float>&,
                                           View1<float> const&, EvalScope const&, int, int,
                                           EvalCheck const&);
template SampleLosses sample_losses<double>(World const&, ExecSpace const&, Model<double>&,
                                            View1<double> const&, EvalScope const&, int, int,
                                            EvalCheck const&);
template EvalResult evaluate<float>(World const&, ExecSpace const&, Model<float>&,
                                    View1<float> const&, EvalScope const&, EvalCheck const&);
template EvalResult evaluate<double>(World const&, ExecSpace const&, Model<double>&,
                                     View1<double> const&, EvalScope const&, EvalCheck const&);
template double evaluate_ensemble<float>(World const&, ExecSpace const&, Model<float>&,
                                         View1<float> const&, std::vector<int> const&,
                                         EvalScope const&, EvalCheck const&);
template double evaluate_ensemble<double>(World const&, ExecSpace const&, Model<double>&,
                                          View1<double> const&, std::vector<int> const&,
                                          EvalScope const&, EvalCheck const&);
template SampleLosses sample_losses<kernels::bf16>(World const&, ExecSpace const&,
                                                   Model<kernels::bf16>&,
                                                   View1<kernels::bf16> const&, EvalScope const&,
                                                   int, int, EvalCheck const&);
template EvalResult evaluate<kernels::bf16>(World const&, ExecSpace const&, Model<kernels::bf16>&,
                                            View1<kernels::bf16> const&, EvalScope const&,
                                            EvalCheck const&);
template double evaluate_ensemble<kernels::bf16>(World const&, ExecSpace const&,
                                                 Model<kernels::bf16>&, View1<kernels::bf16> const&,
                                                 std::vector<int> const&, EvalScope const&,
                                                 EvalCheck const&);

}  // namespace sdp
