// SPDX-License-Identifier: Apache-2.0
#include "train/bench_step.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/device.hpp"
#include "base/error.hpp"
#include "base/median.hpp"
#include "base/timer.hpp"
#include "kernels/core/team.hpp"
#include "models/model_family.hpp"
#include "train/run_setup.hpp"
#include "train/training_step.hpp"
#include "train/worker_state.hpp"

namespace sdp {

namespace {

constexpr index_t k_copy_bytes_max = index_t{1} << 30;
constexpr int k_copies = 5;

DataSet random_data(Config const& config) {
  if (config.model.kind == ModelKind::llama)
    return DataSet(RandomSamples::tokens(config.run.seed, config.train.seq_len,
                                         config.model.llama.vocab_size));
  return DataSet(RandomSamples::images(config.run.seed, config.model.resnet.in_channels,
                                       config.model.resnet.num_classes));
}

PhaseTime spread(std::vector<double> const& times) {
  const auto [low, high] = std::minmax_element(times.begin(), times.end());
  return {median(times), *low, *high};
}

/// Best rate of copying one half of a buffer on to the other, bytes read and written. What stands
/// in the buffer is lost.
template <class V>
double copy_rate(ExecSpace const& exec, View1<V> const& buffer) {
  const index_t count = std::min(static_cast<index_t>(buffer.extent(0)) / 2,
                                 k_copy_bytes_max / static_cast<index_t>(sizeof(V)));
  if (count == 0) return 0.0;
  const Window1<V> from(buffer.data(), static_cast<std::size_t>(count));
  const Window1<V> to(buffer.data() + count, static_cast<std::size_t>(count));
  double best = 0.0;
  for (int i = 0; i < k_copies; ++i) {
    kernels::fence(exec, "sdp::train::copy_rate");
    const Timer timer;
    Kokkos::deep_copy(exec, to, from);
    kernels::fence(exec, "sdp::train::copy_rate");
    best = std::max(best, 2.0 * static_cast<double>(count) * sizeof(V) / timer.seconds());
  }
  return best;
}

/// The steps of one worker.
template <class V>
class Bench {
 public:
  Bench(World const& world, Config const& config, Arrangement arrangement)
      : m_data(random_data(config)),
        m_worker(world, config, std::move(arrangement), m_exec,
                 exchange_transport(world, config.system)),
        m_step(world, config, m_data),
        m_world(world),
        m_config(config) {
    m_worker.initialise(config.run.seed);
  }

  void measure(StepBenchResult& result) {
    for (int i = 0; i < result.options.warmup; ++i) run(result);
    std::vector<double> whole, forward, backward, optimizer;
    for (int i = 0; i < result.options.steps; ++i) {
      const Timer timer;
      const StepTimes times = run(result);
      whole.push_back(timer.milliseconds());
      forward.push_back(times.forward);
      backward.push_back(times.backward);
      optimizer.push_back(times.optimizer);
    }
    result.step = spread(whole);
    result.forward = spread(forward);
    result.backward = spread(backward);
    result.optimizer = spread(optimizer);
    result.accumulation = m_step.plan().accumulation();
    result.targets =
        m_step.plan().accumulation() * m_step.plan().micro_batch * m_data.targets_per_sample();
    // The sum of this worker over the targets of the whole batch.
    result.loss = m_step.loss(m_exec) * m_world.workers();
    for (int i = 0; i < k_memory_categories; ++i)
      result.memory[static_cast<std::size_t>(i)] =
          memory_ledger::usage(static_cast<MemoryCategory>(i)).peak;
    result.memory_total = memory_ledger::total().peak;
    result.process_peak_bytes = peak_resident_bytes();
    result.device_bytes = device_bytes_in_use();
    result.copy_bandwidth = copy_rate(m_exec, m_worker.weights());
  }

 private:
  StepTimes run(StepBenchResult& result) {
    const StepTimes times = m_step.update(m_exec, m_worker, m_updates++ % m_config.train.steps);
    m_worker.exchange().finish_return();
    if (m_worker.optimizer().result(m_exec).skipped) result.skipped += 1;
    return times;
  }

  ExecSpace m_exec;
  DataSet m_data;
  WorkerState<V> m_worker;
  TrainingStep<V> m_step;
  World const& m_world;
  Config const& m_config;
  std::int64_t m_updates = 0;
};

}  // namespace

std::optional<double> StepBenchResult::mfu() const {
  if (!options.peak_flops) return std::nullopt;
  return flops_per_s() / *options.peak_flops;
}

double StepBenchResult::sustained_flops() const {
  const double seconds = 1e-3 * step.median;
  const double traffic = copy_bandwidth > 0.0 ? plan.work.memory_bytes / copy_bandwidth : 0.0;
  return plan.work.flops / (traffic < 0.9 * seconds ? seconds - traffic : seconds);
}

StepBenchResult bench_step(Config const& deck, StepBenchOptions const& options) {
  if (options.worker < 0 || options.worker >= options.ranks)
    throw ConfigError(fmt::format("worker {} does not exist among {} ranks; they are 0 to {}",
                                  options.worker, options.ranks, options.ranks - 1));
  Config config = deck;
  config.system.comm = Transport::mpi;  // nothing is sent
  config.system.reduction = Reduction::exchange;
  Arrangement arrangement =
      arrange(config, options.ranks, planned_ranks_per_node(config, options.machine));
  StepBenchResult result;
  result.options = options;
  result.plan = plan_worker(config, arrangement, options.worker, options.machine);
  result.parameters = model_parameters(config.model);
  result.coverage = arrangement.mask.coverage();
  result.subnetworks = arrangement.mask.subnetworks;

  const World world = World::lone(options.worker, options.ranks);
  memory_ledger::reset_peaks();
  reset_peak_resident();
  const std::int64_t resident = resident_bytes();
  const std::int64_t in_use = device_bytes_in_use();
  const auto run = [&]<class V>(V) {
    Bench<V>(world, config, std::move(arrangement)).measure(result);
  };
  switch (config.run.precision) {
    case Precision::bf16:
      run(kernels::bf16());
      break;
    case Precision::fp64:
      run(double());
      break;
    default:
      run(float());
  }
  result.process_model_bytes = result.process_peak_bytes - resident;
  result.device_model_bytes = result.device_bytes - in_use;
  return result;
}

}  // namespace sdp
