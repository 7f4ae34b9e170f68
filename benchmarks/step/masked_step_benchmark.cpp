// SPDX-License-Identifier: Apache-2.0
// Compute time of a masked training step (forward, loss, backward of one worker) relative to the
// dense step, beside its exact share phi of the dense FLOPs: of a 30M LLaMA, or of a ResNet-18 at
// full width. Every second or every fourth unit is held, so that at neuron level no two held groups
// are neighbours. Times are CPU time of the process, in which other processes count little, and the
// best of some rounds.
//
//   OPENBLAS_NUM_THREADS=1 masked_step_benchmark [llama | resnet18] [rounds [regime [level]]]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "base/memory_ledger.hpp"
#include "kernels/random/fill.hpp"
#include "models/model.hpp"
#include "models/model_family.hpp"

namespace sdp {
namespace {

constexpr index_t k_seq_len = 256, k_image_side = 32;

/// A model, and the samples of a step.
struct Subject {
  ModelConfig model;
  index_t batch = 0;
};

Subject llama_30m() {
  Subject subject{{}, 8};
  LlamaConfig& config = subject.model.llama;
  config.vocab_size = 4096;
  config.hidden_size = 512;
  config.intermediate_size = 1376;
  config.num_layers = 8;
  config.num_heads = 8;
  config.num_kv_heads = 8;
  config.head_dim = 64;
  config.max_seq_len = k_seq_len;
  return subject;
}

Subject resnet18() {
  Subject subject{{}, 64};
  subject.model.kind = ModelKind::resnet18;
  return subject;
}

/// The rows of one worker that holds the unit at place p of its layer and class where
/// (p + layer + class) mod keep_every = 0.
ParameterTable masked_table(ModelConfig const& model, UnitSet const& set, int keep_every) {
  const auto tensors = model_tensors(model);
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
class Step {
 public:
  Step(Subject const& subject, ModelSubnetwork const& subnetwork)
      : m_model(make_model<float>(subject.model, subnetwork, subject.batch, k_seq_len, true)),
        m_weights("weights", subnetwork.weights.size()),
        m_grads("grads", subnetwork.gradients.size()) {
    for (Span const& span : subnetwork.weights.spans()) {
      TensorSpec const& tensor = subnetwork.weights.tensors()[span.tensor];
      const Window1<float> part(m_weights.data() + span.offset, span.rows * tensor.cols);
      if (tensor.init == Init::ones)
        Kokkos::deep_copy(part, 1.0f);
      else
        kernels::fill_normal(m_exec, 1, kernels::stream_key(tensor.name),
                             span.row_begin * tensor.cols, 0.0, 0.02, part);
    }
    const bool llama = subject.model.kind == ModelKind::llama;
    const index_t columns = llama ? k_seq_len : 1;
    const index_t classes =
        llama ? subject.model.llama.vocab_size : subject.model.resnet.num_classes;
    View2<std::int32_t> targets("targets", subject.batch, columns);
    auto host = Kokkos::create_mirror_view(targets);
    for (std::size_t i = 0; i < host.size(); ++i)
      host.data()[i] = static_cast<std::int32_t>(i * 2654435761 % classes);
    Kokkos::deep_copy(targets, host);
    m_batch.targets = targets;
    m_grad_scale = 1.0 / static_cast<double>(host.size());
    m_losses = View1<float>("losses", host.size());
    if (llama) {
      m_batch.tokens = targets;
      return;
    }
    const Kokkos::View<float****, Kokkos::LayoutRight, MemSpace> images(
        "images", subject.batch, k_image_side, k_image_side, subject.model.resnet.in_channels);
    kernels::fill_normal(m_exec, 1, kernels::stream_key("images"), 0, 0.0, 1.0,
                         Window1<float>(images.data(), images.size()));
    m_batch.images = images;
  }

  double milliseconds() {
    m_exec.fence();
    const std::clock_t begin = std::clock();
    m_model->forward(m_exec, m_weights, m_batch, false, m_grads, nullptr);
    m_model->loss_backward(m_exec, m_weights, m_batch, m_grad_scale, false, m_grads, m_losses, 0.0);
    m_model->backward(m_exec, m_weights, m_batch, false, m_grads, nullptr);
    m_exec.fence();
    return 1e3 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  }

 private:
  ExecSpace m_exec;
  std::unique_ptr<Model<float>> m_model;
  View1<float> m_weights, m_grads, m_losses;
  ModelBatch<float> m_batch;
  double m_grad_scale = 0;
};

void run(Subject const& subject, int rounds, std::string const& only_regime,
         std::string const& only_level) {
  ModelConfig const& model = subject.model;
  const ParameterTable whole(model_tensors(model));
  Step dense(subject, {whole, whole, {}});
  dense.milliseconds();
  const auto dense_flops = model_sample_flops(model, whole, whole, k_seq_len);
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
        const UnitSet units = model_units(model, sdp);
        const ParameterTable part = masked_table(model, units, keep_every);
        const ModelSubnetwork subnetwork{forward ? part : whole, part,
                                         model_branch_scales(model, sdp, units, keep_every)};
        Step masked(subject, subnetwork);
        masked.milliseconds();
        double best = HUGE_VAL, best_dense = HUGE_VAL;
        for (int round = 0; round < rounds; ++round) {
          best = std::min(best, masked.milliseconds());
          best_dense = std::min(best_dense, dense.milliseconds());
        }
        const double phi =
            static_cast<double>(
                model_sample_flops(model, subnetwork.weights, part, k_seq_len).total()) /
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
  sdp::memory_ledger::install();  // with which buffers lie in huge pages, as in training
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool resnet = !words.empty() && words[0] == "resnet18";
  if (resnet || (!words.empty() && words[0] == "llama")) words.erase(words.begin());
  words.resize(3);
  sdp::run(resnet ? sdp::resnet18() : sdp::llama_30m(),
           words[0].empty() ? 5 : std::max(1, std::atoi(words[0].c_str())), words[1], words[2]);
  Kokkos::finalize();
  return 0;
}
