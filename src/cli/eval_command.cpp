// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/memory_ledger.hpp"
#include "cli/commands.hpp"
#include "config/load.hpp"
#include "kernels/core/team.hpp"
#include "models/model.hpp"
#include "models/model_family.hpp"
#include "train/evaluate.hpp"
#include "train/inputs.hpp"

namespace sdp::cli {

namespace {

template <class V>
EvalResult evaluate_model(World const& world, Config const& config, std::string const& weights_path,
                          DataSet& data) {
  const ExecSpace exec;
  const ParameterTable table(model_tensors(config.model));
  View1<V> weights;
  std::unique_ptr<Model<V>> model;
  world.collectively([&] {
    {
      MemoryScope scope(MemoryCategory::weights);
      weights = View1<V>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::cli::weights"),
                         table.size());
    }
    load_weights(weights_path, config.model, table, weights);
    ModelConfig inference = config.model;
    inference.recompute = Recompute::none;
    model = make_model<V>(inference, ModelSubnetwork{table, table, {}}, config.train.micro_batch,
                          config.train.seq_len, false);
  });
  return evaluate(
      world, exec, *model, weights,
      {data, config.train.global_batch, config.train.micro_batch, config.train.eval_batches});
}

/// Perplexity of a language model, accuracy of a classifier.
std::string quality(EvalResult const& result) {
  return result.accuracy ? fmt::format("accuracy {:.2f} %", 100 * *result.accuracy)
                         : fmt::format("perplexity {:.4f}", std::exp(result.val_loss));
}

}  // namespace

ExitCode run(EvalArguments const& arguments, World const& world) {
  Launch launch;
  launch.ranks = world.size();
  launch.gpu = !kernels::k_on_cpu<ExecSpace>;
  launch.training = false;
  const Config config = world.collectively([&] {
    Config loaded = load_deck(arguments.deck, arguments.overrides, launch);
    if (loaded.data.val.empty())
      throw ConfigError("data.val of \"" + arguments.deck +
                        "\" is empty: eval needs a validation "
                        "set");
    return loaded;
  });
  DataSets data = open_data(world, config, false);
  const auto evaluate_in = [&]<class V>(V) {
    return evaluate_model<V>(world, config, arguments.checkpoint, *data.val);
  };
  const EvalResult result = config.run.precision == Precision::fp64   ? evaluate_in(double())
                            : config.run.precision == Precision::bf16 ? evaluate_in(kernels::bf16())
                                                                      : evaluate_in(float());
  if (!world.is_root()) return ExitCode::ok;
  if (arguments.json) {
    nlohmann::ordered_json line{{"val_loss", result.val_loss}};
    if (result.accuracy)
      line["val_accuracy"] = *result.accuracy;
    else
      line["perplexity"] = std::exp(result.val_loss);
    line["samples"] = result.samples;
    line["targets"] = result.targets;
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("validation loss {:.6f}  {}  samples {}  targets {}\n", result.val_loss,
               quality(result), result.samples, result.targets);
  }
  return ExitCode::ok;
}

}  // namespace sdp::cli
