// SPDX-License-Identifier: Apache-2.0
#pragma once

// Small LLaMA models with random weights, tables of chosen units, and one training step on them.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "models/llama.hpp"
#include "models/llama_units.hpp"
#include "tests/models/tables.hpp"
#include "tests/support/kernel_views.hpp"

namespace sdp::test {

struct ModelCase {
  index_t kv_heads = 2;  ///< of 4 query heads
  bool tied = false;
  Recompute recompute = Recompute::none;
};

inline std::vector<ModelCase> model_cases() {
  std::vector<ModelCase> cases;
  for (index_t kv_heads : {2, 4})
    for (bool tied : {false, true})
      for (Recompute recompute : {Recompute::none, Recompute::block})
        cases.push_back({kv_heads, tied, recompute});
  return cases;
}

inline std::string describe(ModelCase const& c) {
  return std::to_string(c.kv_heads) + " key-value heads, " + (c.tied ? "tied" : "untied") +
         (c.recompute == Recompute::block ? ", recomputed" : "");
}

inline LlamaConfig small_llama(ModelCase const& c, index_t layers = 3) {
  LlamaConfig config;
  config.vocab_size = 37;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_layers = layers;
  config.num_heads = 4;
  config.num_kv_heads = c.kv_heads;
  config.head_dim = 6;
  config.max_seq_len = 7;
  config.tie_embeddings = c.tied;
  return config;
}

inline UnitSet small_units(LlamaConfig const& config, Level level,
                           BlockUnit unit = BlockUnit::sublayer) {
  SdpConfig sdp;
  sdp.regime = Regime::forward;
  sdp.level = level;
  sdp.block_unit = unit;
  sdp.neuron_group = 4;
  return llama_units(config, sdp);
}

/// Table of everything but the units that `keep` does not want.
inline ParameterTable table_of(LlamaConfig const& config, UnitSet const& set,
                               std::function<bool(Unit const&)> const& keep) {
  return table_of(llama_tensors(config), set, keep);
}

/// Weights of the whole model: norms near 1, matrices large enough for every part to matter.
inline Values random_weights(LlamaConfig const& config) {
  const ParameterTable table(llama_tensors(config));
  Values values = noise(table.size(), 11, -0.4, 0.4);
  for (Span const& span : table.spans())
    if (table.tensors()[span.tensor].init == Init::ones)
      for (index_t i = 0; i < table.held_size(span.tensor); ++i) values[span.offset + i] += 1.0;
  return values;
}

inline View2<std::int32_t> random_tokens(index_t b, index_t t, std::uint64_t salt,
                                         index_t vocabulary) {
  View2<std::int32_t> view("tokens", b, t);
  auto host = Kokkos::create_mirror_view(view);
  const Values values = noise(b * t, salt, 0.0, static_cast<double>(vocabulary));
  for (index_t i = 0; i < b * t; ++i) host.data()[i] = static_cast<std::int32_t>(values[i]);
  Kokkos::deep_copy(view, host);
  return view;
}

/// A worker with its buffers; gradients start as NaN, so that an element left out shows.
template <class V>
struct Worker {
  static constexpr index_t k_batch = 2, k_seq_len = 7;

  Worker(LlamaConfig const& config, ModelSubnetwork const& subnetwork, Recompute recompute,
         Values const& weight_values)
      : model(config, subnetwork, k_batch, k_seq_len, recompute, true),
        weights(vector_of<V>(weight_values)),
        grads(nan_vector<V>(subnetwork.gradients.size())),
        losses(nan_vector<V>(k_batch * k_seq_len)),
        tokens(random_tokens(k_batch, k_seq_len, 21, config.vocab_size)),
        targets(random_tokens(k_batch, k_seq_len, 22, config.vocab_size)) {}

  /// Forward and backward over sequences [first, first + count).
  void step(index_t first, index_t count, bool accumulate, BackwardObserver* observer = nullptr,
            ForwardObserver* forward_observer = nullptr) {
    const typename Llama<V>::Tokens in(tokens.data() + first * k_seq_len, count, k_seq_len);
    const typename Llama<V>::Tokens out(targets.data() + first * k_seq_len, count, k_seq_len);
    const View1<V> part =
        Kokkos::subview(losses, std::make_pair(first * k_seq_len, (first + count) * k_seq_len));
    model.forward(exec, weights, in, forward_observer);
    model.loss_backward(exec, weights, out, 1.0 / (k_batch * k_seq_len), accumulate, grads, part,
                        0.0, forward_observer);
    model.backward(exec, weights, in, accumulate, grads, observer);
    exec.fence();
  }
  Worker& step() {
    step(0, k_batch, false);
    return *this;
  }
  double loss() const {
    double sum = 0;
    for (double value : get_values(losses)) sum += value;
    return sum / (k_batch * k_seq_len);
  }
  Values gradients() const { return get_values(grads); }

  ExecSpace exec;
  Llama<V> model;
  View1<V> weights, grads;
  View1<typename Llama<V>::Accum> losses;
  View2<std::int32_t> tokens, targets;
};

}  // namespace sdp::test
