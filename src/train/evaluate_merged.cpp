// SPDX-License-Identifier: Apache-2.0
#include "train/evaluate_merged.hpp"

#include <algorithm>
#include <memory>

#include "base/heartbeat.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/compat.hpp"
#include "models/llama_streamed.hpp"

namespace sdp {

namespace {

/// Logical range of every layer; its tensors are neighbours.
std::vector<IndexRange> layer_ranges(LlamaConfig const& config) {
  const ParameterTable whole(llama_tensors(config));
  std::vector<IndexRange> ranges;
  for (LlamaLayerTensors const& layer : llama_tensor_indices(config).layers)
    ranges.push_back({whole.offset(layer.down),
                      whole.offset(layer.attention_norm) + whole.held_size(layer.attention_norm)});
  return ranges;
}

/// One merged evaluation: its buffers, and the passes over a wave of micro-batches.
template <class V>
class Merged {
 public:
  using Accum = kernels::accum_t<V>;

  Merged(World const& world, ExecSpace const& exec, MergedModel<V> const& model, TokenDataset& data,
         BatchPlan const& plan, index_t eval_batches)
      : m_world(world),
        m_exec(exec),
        m_model(model),
        m_reader(data, plan, eval_batches),
        m_micro_batch(plan.micro_batch),
        m_seq_len(data.seq_len()),
        m_losses_of_samples(data.seq_len(), m_reader.num_samples()),
        m_streamed(model.config, model.table, plan.micro_batch, data.seq_len()) {
    MemoryScope scope(MemoryCategory::data);
    m_inputs = View2<std::int32_t>("sdp::train::eval_inputs", m_micro_batch, m_seq_len);
    m_losses = View1<Accum>("sdp::train::eval_losses", m_micro_batch * m_seq_len);
    m_host_inputs = Kokkos::create_mirror_view(m_inputs);
    m_host_losses = Kokkos::create_mirror_view(m_losses);
  }

  /// Elements of the residual stream of one micro-batch.
  index_t stream_size() const { return m_streamed.stream_size(m_micro_batch * m_seq_len); }
  index_t steps() const { return m_reader.steps(); }

  /// Streams of `wave` micro-batches are kept in `streams`, or in a buffer of its own where that is
  /// too small.
  void allocate(index_t wave, View1<V> const& streams) {
    {
      MemoryScope scope(MemoryCategory::workspace);
      m_layer = llama_allocate<V>("eval_layer", m_streamed.layer_size());
      m_streams = static_cast<index_t>(streams.extent(0)) >= wave * stream_size()
                      ? streams
                      : llama_allocate<V>("eval_stream", wave * stream_size());
    }
    MemoryScope scope(MemoryCategory::data);
    m_targets = View3<std::int32_t>("sdp::train::eval_targets", wave, m_micro_batch, m_seq_len);
    m_host_targets = Kokkos::create_mirror_view(m_targets);
  }

  /// Embeds micro-steps [first, first + count), reading them on the way.
  void embed(index_t first, index_t count) {
    for (index_t m = 0; m < count; ++m) {
      const index_t rows = m_world.collectively(
          [&] { return m_reader.read(first + m, m_host_inputs.data(), &m_host_targets(m, 0, 0)); });
      if (rows == 0) continue;
      Kokkos::deep_copy(m_exec, m_inputs, m_host_inputs);
      m_streamed.embed(m_exec, m_model.weights, Tokens(m_inputs.data(), rows, m_seq_len),
                       stream(m, rows));
      kernels::fence(m_exec, "sdp::train::evaluate_merged");
    }
    Kokkos::deep_copy(m_exec, m_targets, m_host_targets);
  }

  void layer(Delivery<V>& delivery, DeliveryPlan const& plan, index_t first, index_t count) {
    delivery.run(plan, m_model.weights, m_layer);
    for (index_t m = 0; m < count; ++m) {
      const index_t rows = m_reader.rows(first + m);
      if (rows == 0) continue;
      m_streamed.layer(m_exec, m_layer, rows, m_seq_len, stream(m, rows));
      heartbeat::beat();
    }
    // The next layer comes into the same buffer.
    kernels::fence(m_exec, "sdp::train::evaluate_merged");
  }

  void loss(index_t first, index_t count) {
    for (index_t m = 0; m < count; ++m) {
      const index_t rows = m_reader.rows(first + m);
      if (rows == 0) continue;
      m_streamed.loss(m_exec, m_model.weights,
                      Tokens(m_targets.data() + m * m_micro_batch * m_seq_len, rows, m_seq_len),
                      stream(m, rows), m_losses);
      kernels::fence(m_exec, "sdp::train::evaluate_merged");
      Kokkos::deep_copy(m_host_losses, m_losses);
      m_losses_of_samples.add(m_host_losses, rows);
    }
  }

  EvalResult result() const { return m_losses_of_samples.mean(m_world); }

 private:
  using Tokens = typename Llama<V>::Tokens;

  Window1<V> stream(index_t m, index_t rows) const {
    return Window1<V>(m_streams.data() + m * stream_size(),
                      m_streamed.stream_size(rows * m_seq_len));
  }

  World const& m_world;
  ExecSpace const& m_exec;
  MergedModel<V> const& m_model;
  EvalReader m_reader;
  index_t m_micro_batch;
  index_t m_seq_len;
  SampleLosses m_losses_of_samples;
  LlamaStreamed<V> m_streamed;
  View1<V> m_layer;               // (layer)
  View1<V> m_streams;             // (wave,B*T,D) or more
  View2<std::int32_t> m_inputs;   // (B,T)
  View3<std::int32_t> m_targets;  // (wave,B,T)
  View1<Accum> m_losses;          // (B*T)
  kernels::host_mirror_t<View2<std::int32_t>> m_host_inputs;
  kernels::host_mirror_t<View3<std::int32_t>> m_host_targets;
  kernels::host_mirror_t<View1<Accum>> m_host_losses;
};

}  // namespace

template <class V>
EvalResult evaluate_merged(World const& world, ExecSpace const& exec, Delivery<V>& delivery,
                           MergedModel<V> const& model, View1<V> const& streams,
                           EvalScope const& scope, EvalCheck const& check) {
  Region region("sdp::train::evaluate_merged");
  const auto merged = world.collectively([&] {
    return std::make_unique<Merged<V>>(
        world, exec, model, scope.data.tokens(),
        BatchPlan{scope.global_batch, scope.micro_batch, world.size(), world.rank()},
        scope.eval_batches);
  });
  const index_t fit = static_cast<index_t>(streams.extent(0)) / merged->stream_size();
  const index_t wave = std::max<index_t>(1, world.min(std::min(fit, merged->steps())));
  const auto plans = world.collectively([&] {
    merged->allocate(wave, streams);
    std::vector<DeliveryPlan> list;
    for (IndexRange const& range : layer_ranges(model.config))
      list.push_back(
          make_delivery_plan(model.source, whole_target(world.workers(), range), world.worker()));
    return list;
  });
  // Updates of the weights that are still under way end before they are sent.
  kernels::fence(exec, "sdp::train::evaluate_merged");
  for (index_t first = 0; first < merged->steps(); first += wave) {
    const index_t count = std::min(wave, merged->steps() - first);
    merged->embed(first, count);
    for (DeliveryPlan const& plan : plans) {
      if (check) world.collectively(check);
      merged->layer(delivery, plan, first, count);
    }
    merged->loss(first, count);
  }
  return merged->result();
}

template EvalResult evaluate_merged<float>(World const&, ExecSpace const&, Delivery<float>&,
                                           MergedModel<float> const&, View1<float> const&,
                                           EvalScope const&, EvalCheck const&);
template EvalResult evaluate_merged<double>(World const&, ExecSpace const&, Delivery<double>&,
                                            MergedModel<double> const&, View1<double> const&,
                                            EvalScope const&, EvalCheck const&);
template EvalResult evaluate_merged<kernels::bf16>(World const&, ExecSpace const&,
                                                   Delivery<kernels::bf16>&,
                                                   MergedModel<kernels::bf16> const&,
                                                   View1<kernels::bf16> const&, EvalScope const&,
                                                   EvalCheck const&);

}  // namespace sdp
