// SPDX-License-Identifier: Apache-2.0
#include "train/evaluate.hpp"

#include <algorithm>
#include <vector>

#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/compat.hpp"

namespace sdp {

template <class V>
EvalResult evaluate(World const& world, ExecSpace const& exec, Llama<V>& model,
                    View1<V> const& weights, TokenDataset& data, index_t global_batch,
                    index_t micro_batch, index_t eval_batches) {
  Region region("sdp::train::evaluate");
  using Accum = typename Llama<V>::Accum;
  const index_t t = data.seq_len();
  BatchPlan plan;
  plan.global_batch = global_batch;
  plan.micro_batch = micro_batch;
  plan.ranks = world.size();
  plan.rank = world.rank();
  EvalReader reader(data, plan, eval_batches);

  MemoryScope scope(MemoryCategory::data);
  View2<std::int32_t> inputs("sdp::train::eval_inputs", micro_batch, t);
  View2<std::int32_t> targets("sdp::train::eval_targets", micro_batch, t);
  View1<Accum> losses("sdp::train::eval_losses", micro_batch * t);
  auto host_inputs = Kokkos::create_mirror_view(inputs);
  auto host_targets = Kokkos::create_mirror_view(targets);
  auto host_losses = Kokkos::create_mirror_view(losses);

  const index_t samples = reader.num_samples();
  // Sample sums meet in waves, so that memory does not grow with the validation set.
  constexpr index_t k_wave = 65536;
  const index_t begin = samples * world.rank() / world.size();
  std::vector<double> mine;
  for (index_t step = 0; step < reader.steps(); ++step) {
    const index_t rows = world.collectively(
        [&] { return reader.read(step, host_inputs.data(), host_targets.data()); });
    if (rows == 0) continue;
    Kokkos::deep_copy(exec, inputs, host_inputs);
    Kokkos::deep_copy(exec, targets, host_targets);
    const typename Llama<V>::Tokens in(inputs.data(), rows, t), out(targets.data(), rows, t);
    model.forward(exec, weights, in);
    model.loss(exec, weights, out, losses);
    kernels::fence(exec, "sdp::train::evaluate");
    Kokkos::deep_copy(host_losses, losses);
    for (index_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (index_t i = 0; i < t; ++i) sum += static_cast<double>(host_losses(row * t + i));
      mine.push_back(sum);
    }
  }

  double total = 0;
  std::vector<double> wave;
  for (index_t first = 0; first < samples; first += k_wave) {
    const index_t count = std::min(k_wave, samples - first);
    wave.assign(static_cast<std::size_t>(count), 0.0);
    const index_t from = std::max(first, begin);
    const index_t to = std::min(first + count, begin + static_cast<index_t>(mine.size()));
    for (index_t i = from; i < to; ++i) wave[i - first] = mine[i - begin];
    world.sum_in_place(wave);
    for (double value : wave) total += value;
  }
  EvalResult result;
  result.samples = samples;
  result.targets = samples * t;
  result.val_loss = total / static_cast<double>(result.targets);
  return result;
}

template EvalResult evaluate<float>(World const&, ExecSpace const&, Llama<float>&,
                                    View1<float> const&, TokenDataset&, index_t, index_t, index_t);
template EvalResult evaluate<double>(World const&, ExecSpace const&, Llama<double>&,
                                     View1<double> const&, TokenDataset&, index_t, index_t,
                                     index_t);

}  // namespace sdp
