// SPDX-License-Identifier: Apache-2.0
// Compute time of a masked training step (forward, loss, backward of one worker) relative to the
// dense step, beside its exact share phi of the dense FLOPs. Every second or every fourth unit is
// held, so that at neuron level no two held groups are neighbours. Times are CPU time of the
// process, in which other processes count little, and the best of some rounds.
//
//   OPENBLAS_NUM_THREADS=1 masked_step_benchmark [rounds [regime [level]]]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "kernels/random/fill.hpp"
#include "models/llama.hpp"
#include "models/llama_costs.hpp"

namespace sdp {
namespace {

constexpr index_t k_batch = 8, k_seq_len = 256;

LlamaConfig llama_30m() {
  LlamaConfig config;
  config.vocab_size = 4096;
  config.hidden_size = 512;
  config.intermediate_size = 1376;
  config.num_layers = 8;
  config.num_heads = 8;
  config.num_kv_heads = 8;
  config.head_dim = 64;
  config.max_seq_len = k_seq_len;
  return config;
}

/// The rows of one worker that holds the unit at place p of its layer and class where
/// (p + layer + class) mod keep_every = 0.
ParameterTable masked_table(LlamaConfig const& config, UnitSet const& set, int keep_every) {
  const auto tensors = llama_tensors(config);
  std::vector<std::vector<int>> owner(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t) owner[t].assign(tensors[t].rows, k_shared);
  std::vector<bool> kept;
  int place = 0;
  for (std::size_t u = 0; u < set.units.size(); ++u) {
    Unit const& unit = set.units[u];
    const bool next = u > 0 && set.units[u - 1].block == unit.block &&
                      set.units[u - 1].unit_class == unit.unit_class;
    place = next ? place + 1 : 0;
    kept.push_back((place + unit.block + unit.unit_class) % keep_every == 0);
    for (RowRange const& range : unit.rows)
      std::fill_n(owner[range.tensor].begin() + range.begin, range.count, static_cast<int>(u));
  }
  std::vector<std::vector<Span>> held(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (index_t row = 0; row < tensors[t].rows; ++row)
      if (owner[t][row] == k_shared || kept[owner[t][row]])
        held[t].push_back({static_cast<int>(t), row, 1, 0, owner[t][row]});
  return ParameterTable(tensors, held);
}

/// One worker and its buffers.
struct Step {
  Step(LlamaConfig const& config, ModelSubnetwork const& subnetwork)
      : model(config, subnetwork, k_batch, k_seq_len, Recompute::none, true),
        weights("weights", subnetwork.weights.size()),
        grads("grads", subnetwork.gradients.size()),
        losses("losses", k_batch * k_seq_len),
        tokens("tokens", k_batch, k_seq_len) {
    for (Span const& span : subnetwork.weights.spans()) {
      TensorSpec const& tensor = subnetwork.weights.tensors()[span.tensor];
      const Window1<float> part(weights.data() + span.offset, span.rows * tensor.cols);
      if (tensor.init == Init::ones)
        Kokkos::deep_copy(part, 1.0f);
      else
        kernels::fill_normal(exec, 1, kernels::stream_key(tensor.name),
                             span.row_begin * tensor.cols, 0.0, 0.02, part);
    }
    auto host = Kokkos::create_mirror_view(tokens);
    for (index_t i = 0; i < k_batch * k_seq_len; ++i)
      host.data()[i] = static_cast<std::int32_t>(i * 2654435761 % config.vocab_size);
    Kokkos::deep_copy(tokens, host);
  }
  double milliseconds() {
    exec.fence();
    const std::clock_t begin = std::clock();
    model.forward(exec, weights, tokens);
    model.loss_backward(exec, weights, tokens, 1.0 / (k_batch * k_seq_len), false, grads, losses);
    model.backward(exec, weights, tokens, false, grads, nullptr);
    exec.fence();
    return 1e3 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  }

  ExecSpace exec;
  Llama<float> model;
  View1<float> weights, grads, losses;
  View2<std::int32_t> tokens;
};

void run(int rounds, std::string const& only_regime, std::string const& only_level) {
  const LlamaConfig config = llama_30m();
  const ParameterTable whole(llama_tensors(config));
  Step dense(config, {whole, whole, {}});
  dense.milliseconds();
  const auto dense_flops = llama_sample_flops(config, whole, whole, k_seq_len);
  std::printf("%-9s %-7s %5s %7s %7s %9s %9s %9s\n", "regime", "level", "C", "phi", "ratio",
              "ratio-phi", "step ms", "dense ms");
  for (Regime regime : {Regime::forward, Regime::backward})
    for (Level level : {Level::block, Level::neuron})
      for (int keep_every : {1, 2, 4}) {
        const bool forward = regime == Regime::forward;
        const std::string regime_name = forward ? "forward" : "backward";
        const std::string level_name = level == Level::block ? "block" : "neuron";
        if (!only_regime.empty() && only_regime != regime_name) continue;
        if (!only_level.empty() && only_level != level_name) continue;
        SdpConfig sdp;
        sdp.regime = regime;
        sdp.level = level;
        const UnitSet units = llama_units(config, sdp);
        const ParameterTable part = masked_table(config, units, keep_every);
        const ModelSubnetwork subnetwork{forward ? part : whole, part,
                                         llama_branch_scales(config, sdp, units, keep_every)};
        Step masked(config, subnetwork);
        masked.milliseconds();
        double best = HUGE_VAL, best_dense = HUGE_VAL;
        for (int round = 0; round < rounds; ++round) {
          best = std::min(best, masked.milliseconds());
          best_dense = std::min(best_dense, dense.milliseconds());
        }
        const double phi =
            static_cast<double>(
                llama_sample_flops(config, subnetwork.weights, part, k_seq_len).total()) /
            static_cast<double>(dense_flops.total());
        std::printf("%-9s %-7s %5.2f %7.4f %7.4f %+9.4f %9.1f %9.1f\n", regime_name.c_str(),
                    level_name.c_str(), 1.0 / keep_every, phi, best / best_dense,
                    best / best_dense - phi, best, best_dense);
        std::fflush(stdout);
      }
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  Kokkos::initialize(argc, argv);
  sdp::run(argc > 1 ? std::max(1, std::atoi(argv[1])) : 5, argc > 2 ? argv[2] : "",
           argc > 3 ? argv[3] : "");
  Kokkos::finalize();
  return 0;
}
