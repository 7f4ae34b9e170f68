// SPDX-License-Identifier: Apache-2.0
#include "train/evaluate.hpp"

#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/compat.hpp"

namespace sdp {

template <class V>
SampleLosses sample_losses(World const& world, ExecSpace const& exec, Llama<V>& model,
                           View1<V> const& weights, EvalReader& reader, index_t steps,
                           index_t micro_batch, index_t seq_len, EvalCheck const& check) {
  using Accum = typename Llama<V>::Accum;
  const index_t t = seq_len;
  MemoryScope scope(MemoryCategory::data);
  View2<std::int32_t> inputs("sdp::train::eval_inputs", micro_batch, t);
  View2<std::int32_t> targets("sdp::train::eval_targets", micro_batch, t);
  View1<Accum> losses("sdp::train::eval_losses", micro_batch * t);
  auto host_inputs = Kokkos::create_mirror_view(inputs);
  auto host_targets = Kokkos::create_mirror_view(targets);
  auto host_losses = Kokkos::create_mirror_view(losses);

  SampleLosses samples(t);
  for (index_t step = 0; step < steps; ++step) {
    const index_t rows = world.collectively([&] {
      if (check) check();
      return reader.read(step, host_inputs.data(), host_targets.data());
    });
    if (rows == 0) continue;
    Kokkos::deep_copy(exec, inputs, host_inputs);
    Kokkos::deep_copy(exec, targets, host_targets);
    const typename Llama<V>::Tokens in(inputs.data(), rows, t), out(targets.data(), rows, t);
    model.forward(exec, weights, in);
    model.loss(exec, weights, out, losses);
    kernels::fence(exec, "sdp::train::sample_losses");
    Kokkos::deep_copy(host_losses, losses);
    samples.add(host_losses, rows);
  }
  return samples;
}

template <class V>
EvalResult evaluate(World const& world, ExecSpace const& exec, Llama<V>& model,
                    View1<V> const& weights, TokenDataset& data, index_t global_batch,
                    index_t micro_batch, index_t eval_batches, EvalCheck const& check) {
  Region region("sdp::train::evaluate");
  EvalReader reader = world.collectively([&] {
    return EvalReader(data, {global_batch, micro_batch, world.size(), world.rank()}, eval_batches);
  });
  return sample_losses(world, exec, model, weights, reader, reader.steps(), micro_batch,
                       data.seq_len(), check)
      .mean(world, reader.num_samples());
}

template SampleLosses sample_losses<float>(World const&, ExecSpace const&, Llama<float>&,
                                           View1<float> const&, EvalReader&, index_t, index_t,
                                           index_t, EvalCheck const&);
template SampleLosses sample_losses<double>(World const&, ExecSpace const&, Llama<double>&,
                                            View1<double> const&, EvalReader&, index_t, index_t,
                                            index_t, EvalCheck const&);
template EvalResult evaluate<float>(World const&, ExecSpace const&, Llama<float>&,
                                    View1<float> const&, TokenDataset&, index_t, index_t, index_t,
                                    EvalCheck const&);
template EvalResult evaluate<double>(World const&, ExecSpace const&, Llama<double>&,
                                     View1<double> const&, TokenDataset&, index_t, index_t, index_t,
                                     EvalCheck const&);

}  // namespace sdp
