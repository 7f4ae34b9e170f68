// SPDX-License-Identifier: Apache-2.0
#include "train/evaluate_merged_resnet.hpp"

#include <memory>
#include <vector>

#include "base/device_pool.hpp"
#include "base/heartbeat.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/compat.hpp"
#include "models/resnet.hpp"
#include "train/batches.hpp"
#include "train/run_setup.hpp"

namespace sdp {

namespace {

/// The complete weights on every rank.
template <class V>
View1<V> collect_weights(World const& world, ExecSpace const& exec, Delivery<V>& delivery,
                         ParameterTable const& table, DeliverySource const& source,
                         View1<V> const& weights) {
  View1<V> whole;
  const auto plan = world.collectively([&] {
    const MemoryScope scope(MemoryCategory::workspace);
    whole = allocate<View1<V>>("sdp::train::merged_weights", table.size());
    return make_delivery_plan(source, whole_target(world.workers(), {0, table.size()}),
                              world.worker());
  });
  kernels::fence(exec, "sdp::train::evaluate_merged_resnet");
  delivery.run(plan, weights, whole);
  return whole;
}

/// Averages the running statistics among the weights over the ranks, in rank order.
template <class V>
void average_statistics(World const& world, ParameterTable const& table, View1<V> const& weights) {
  std::vector<double> values;
  const auto host = Kokkos::create_mirror_view_and_copy(HostSpace(), weights);
  const auto visit = [&](auto&& f) {
    for (std::size_t t = 0; t < table.tensors().size(); ++t) {
      if (!table.tensors()[t].statistic) continue;
      const index_t begin = table.offset(static_cast<int>(t));
      for (index_t i = begin; i < begin + table.tensors()[t].size(); ++i) f(host(i));
    }
  };
  visit([&](V value) { values.push_back(static_cast<double>(value)); });
  world.sum_in_place(values);
  std::size_t next = 0;
  visit([&](V& value) { value = static_cast<V>(values[next++] / world.size()); });
  Kokkos::deep_copy(weights, host);
}

}  // namespace

template <class V>
RecalibratedResult evaluate_merged_resnet(World const& world, ExecSpace const& exec,
                                          Delivery<V>& delivery, Config const& config,
                                          DeliverySource const& source, View1<V> const& weights,
                                          DataSet& training, EvalScope const& scope,
                                          EvalCheck const& check) {
  Region region("sdp::train::evaluate_merged_resnet");
  const ParameterTable table(resnet_tensors(config.model.resnet));
  const View1<V> whole = collect_weights(world, exec, delivery, table, source, weights);
  std::unique_ptr<Resnet<V>> model;
  std::unique_ptr<TrainBatches<V>> batches;
  world.collectively([&] {
    model = std::make_unique<Resnet<V>>(config.model.resnet, ModelSubnetwork{table, table, {}},
                                        config.train.micro_batch, false);
    batches = std::make_unique<TrainBatches<V>>(training, config,
                                                batch_plan(config, world.size(), world.rank()));
  });
  RecalibratedResult result;
  result.before = evaluate(world, exec, *model, whole, scope, check);
  std::int64_t number = 0;
  for (std::int64_t update = 0; update < config.train.bn_batches; ++update) {
    for (index_t m = 0; m < batches->plan().accumulation(); ++m) {
      world.collectively([&] {
        if (check) check();
        batches->read(update, m);
      });
      model->recalibrate(exec, whole, batches->upload(exec).images, ++number);
      // The host side of the batch is filled again.
      kernels::fence(exec, "sdp::train::recalibrate");
      heartbeat::beat();
    }
  }
  if (number > 0) {
    model->take_statistics(exec, whole);
    kernels::fence(exec, "sdp::train::recalibrate");
    average_statistics(world, table, whole);
  }
  result.after = evaluate(world, exec, *model, whole, scope, check);
  return result;
}

template RecalibratedResult evaluate_merged_resnet<float>(World const&, ExecSpace const&,
                                                          Delivery<float>&, Config const&,
                                                          DeliverySource const&,
                                                          View1<float> const&, DataSet&,
                                                          EvalScope const&, EvalCheck const&);
template RecalibratedResult evaluate_merged_resnet<double>(World const&, ExecSpace const&,
                                                           Delivery<double>&, Config const&,
                                                           DeliverySource const&,
                                                           View1<double> const&, DataSet&,
                                                           EvalScope const&, EvalCheck const&);
template RecalibratedResult evaluate_merged_resnet<kernels::bf16>(
    World const&, ExecSpace const&, Delivery<kernels::bf16>&, Config const&, DeliverySource const&,
    View1<kernels::bf16> const&, DataSet&, EvalScope const&, EvalCheck const&);

}  // namespace sdp
