// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "config/names.hpp"
#include "data/batch_order.hpp"
#include "train/describe_run.hpp"
#include "train/inputs.hpp"
#include "train/plan.hpp"
#include "train/progress.hpp"
#include "train/run_setup.hpp"
#include "train/trainer.hpp"

namespace sdp {

std::string dry_run(World const& launched, Config const& deck, bool json) {
  const std::optional<World> declared = declared_world(launched, deck);
  World const& world = declared ? *declared : launched;
  const DataSets data = open_data(world, deck, true);
  const Config config = set_up_run(world, deck).config;
  const BatchPlan plan = batch_plan(config, world.size(), world.rank());
  world.collectively(
      [&] { TrainOrder(config.run.seed, data.train->num_samples(), plan, "data.train"); });
  const StartPoint start = find_start(world, config, *data.train);

  const std::int64_t first_step = start.resume ? start.resume->info().header.state.step : 0;
  const Plan subnetworks =
      world.collectively([&] { return plan_of_run(world, config, first_step); });
  const double epochs = static_cast<double>(config.train.steps) *
                        static_cast<double>(config.train.global_batch) /
                        static_cast<double>(data.train->num_samples());

  if (json) {
    auto document = nlohmann::ordered_json::parse(plan_json(subnetworks));
    document["precision"] = to_string(config.run.precision);
    document["steps"] = config.train.steps;
    document["first_step"] = first_step;
    document["global_batch"] = config.train.global_batch;
    document["micro_batch"] = config.train.micro_batch;
    document["accumulation"] = plan.accumulation();
    document[data.train->has_tokens() ? "train_tokens" : "train_images"] =
        data.train->recorded_size();
    document["train_samples"] = data.train->num_samples();
    document["val_samples"] = data.val ? data.val->num_samples() : 0;
    document["epochs"] = epochs;
    return document.dump() + "\n";
  }

  std::string out = "dry run: everything was checked, nothing was written\n";
  const auto row = [&](char const* what, std::string const& value) {
    out += fmt::format("{:<18}{}\n", what, value);
  };
  row("steps", first_step > 0
                   ? fmt::format("{}, continuing after {}", config.train.steps, first_step)
                   : fmt::format("{}", config.train.steps));
  row("accumulation", fmt::format("{} micro-batches an update", plan.accumulation()));
  row("training data", fmt::format("{}, {:.2f} epochs", describe_data(*data.train), epochs));
  row("validation data",
      data.val ? fmt::format("{} samples", data.val->num_samples()) : std::string("none"));
  row("output", config.run.out_dir);
  return out + plan_table(config, subnetworks);
}

}  // namespace sdp
