// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "comm/schedule.hpp"
#include "config/names.hpp"
#include "data/batch_reader.hpp"
#include "models/llama_tensors.hpp"
#include "train/inputs.hpp"
#include "train/progress.hpp"
#include "train/trainer.hpp"

namespace sdp {

std::string dry_run(World const& world, Config const& config, bool json) {
  const DataSets data = open_data(world, config, true);
  BatchPlan plan;
  plan.global_batch = config.train.global_batch;
  plan.micro_batch = config.train.micro_batch;
  plan.ranks = world.size();
  plan.rank = world.rank();
  world.collectively([&] { TrainReader(*data.train, config.run.seed, plan); });
  const StartPoint start = find_start(world, config, *data.train);

  const ParameterTable table(llama_tensors(config.model.llama));
  const index_t element = config.run.precision == Precision::fp64 ? 8 : 4;
  const index_t bucket_bytes = config.system.bucket_mb * (index_t{1} << 20);
  const ExchangeSchedule schedule = make_schedule(dense_layout(table, world.workers()),
                                                  make_buckets(table, bucket_bytes, element),
                                                  world.worker(), GradientReturn::holders);
  const double sent = static_cast<double>(
      (schedule.traffic.gradients_sent + schedule.traffic.weights_sent) * element);
  const MinMeanMax sent_bytes = world.min_mean_max(sent);
  const index_t moments = config.optimizer.kind == OptimizerKind::adamw ? 2
                          : config.optimizer.momentum != 0.0            ? 1
                                                                        : 0;
  const index_t weights = table.size() * element;
  const std::int64_t first_step = start.resume ? start.resume->info().header.state.step : 0;
  const double epochs = static_cast<double>(config.train.steps * config.train.global_batch) /
                        static_cast<double>(data.train->num_samples());

  if (json)
    return nlohmann::ordered_json{
               {"ranks", world.size()},
               {"parameters", table.logical_size()},
               {"precision", to_string(config.run.precision)},
               {"steps", config.train.steps},
               {"first_step", first_step},
               {"global_batch", config.train.global_batch},
               {"micro_batch", config.train.micro_batch},
               {"accumulation", plan.accumulation()},
               {"train_tokens", data.train->num_tokens()},
               {"train_samples", data.train->num_samples()},
               {"val_samples", data.val ? data.val->num_samples() : 0},
               {"epochs", epochs},
               {"memory_per_rank",
                {{"weights", weights}, {"gradients", weights}, {"optimizer", moments * weights}}},
               {"sent_bytes_per_step",
                {{"min", sent_bytes.min}, {"mean", sent_bytes.mean}, {"max", sent_bytes.max}}},
               {"messages_per_step", schedule.traffic.messages_sent},
               {"flops_per_token", llama_flops_per_token(config.model.llama, config.train.seq_len)}}
               .dump() +
           "\n";

  std::string out = "dry run: everything was checked, nothing was written\n";
  const auto row = [&](char const* what, std::string const& value) {
    out += fmt::format("  {:<24}{}\n", what, value);
  };
  const auto count = [](index_t value) { return short_count(static_cast<double>(value)); };
  const auto bytes = [](index_t value) { return short_bytes(static_cast<double>(value)); };
  row("model", fmt::format("LLaMA, {} parameters, {}", count(table.logical_size()),
                           to_string(config.run.precision)));
  row("steps", first_step > 0
                   ? fmt::format("{}, continuing after {}", config.train.steps, first_step)
                   : fmt::format("{}", config.train.steps));
  row("batch", fmt::format("{} samples = {} ranks x {} x {} accumulated, {} tokens each",
                           config.train.global_batch, world.size(), config.train.micro_batch,
                           plan.accumulation(), config.train.seq_len));
  row("training data", fmt::format("{} tokens in {} shards, {} samples, {:.2f} epochs",
                                   count(data.train->num_tokens()), data.train->num_shards(),
                                   data.train->num_samples(), epochs));
  row("validation data",
      data.val ? fmt::format("{} samples", data.val->num_samples()) : std::string("none"));
  row("weights per rank", bytes(weights));
  row("gradients per rank", bytes(weights));
  row("optimizer per rank", bytes(moments * weights));
  row("sent per step and rank", fmt::format("{} in {} messages", short_bytes(sent_bytes.mean),
                                            schedule.traffic.messages_sent));
  row("output", config.run.out_dir);
  return out;
}

}  // namespace sdp
