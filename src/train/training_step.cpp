// SPDX-License-Identifier: Apache-2.0
#include "train/training_step.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/heartbeat.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "base/timer.hpp"
#include "optim/schedule.hpp"
#include "train/run_setup.hpp"

namespace sdp {

namespace {

/// Hands finished gradients to the exchange while backward goes on. The first call also marks a
/// gradient of which the loss is not finite, so that the average shows it to every rank.
template <class G, class W>
class ExchangeObserver : public BackwardObserver {
 public:
  ExchangeObserver(ExecSpace const& exec, Exchange<G, W>& exchange, LossSum& loss, View1<G> grads)
      : m_exec(exec), m_exchange(exchange), m_loss(loss), m_grads(std::move(grads)) {}

  void gradients_ready(index_t end) override {
    if (m_first) m_loss.poison_if_not_finite(m_exec, m_grads);
    m_first = false;
    m_exchange.ready(end);
  }
  void progress() override { m_exchange.poll(); }

 private:
  ExecSpace const& m_exec;
  Exchange<G, W>& m_exchange;
  LossSum& m_loss;
  View1<G> m_grads;
  bool m_first = true;
};

/// Lets a forward pass wait for the weights that it reads next and for no others, between two marks
/// of the clock.
template <class G, class W>
class ArrivalObserver : public ForwardObserver {
 public:
  ArrivalObserver(ExecSpace const& exec, Exchange<G, W>& exchange, PhaseClock& waits)
      : m_exec(exec), m_exchange(exchange), m_waits(waits) {}
  void weights_needed(index_t begin) override {
    m_waits.mark(m_exec);
    m_exchange.wait_weights(begin);
    m_waits.mark(m_exec);
  }
  void progress() override { m_exchange.poll(); }
  void finish() {
    m_waits.mark(m_exec);
    m_exchange.finish_return();
    m_waits.mark(m_exec);
  }

 private:
  ExecSpace const& m_exec;
  Exchange<G, W>& m_exchange;
  PhaseClock& m_waits;
};

}  // namespace

template <class V>
TrainingStep<V>::TrainingStep(World const& world, Config const& config, DataSet& data)
    : m_world(world),
      m_config(config),
      m_batches(world.collectively([&] {
        return TrainBatches<V>(data, config, batch_plan(config, world.workers(), world.worker()));
      })),
      m_targets_per_sample(data.targets_per_sample()) {
  const index_t targets = config.train.micro_batch * m_targets_per_sample;
  const MemoryScope scope(MemoryCategory::data);
  m_losses = View1<kernels::accum_t<V>>("sdp::train::losses", targets);
  m_loss_sum.emplace(targets);
}

template <class V>
StepTimes TrainingStep<V>::update(ExecSpace const& exec, WorkerState<V>& worker,
                                  std::int64_t number) {
  Region region("sdp::train::step");
  // What vendors' kernels allocate at their first call; nothing else in a step allocates.
  const MemoryScope scope(MemoryCategory::workspace);
  StepTimes times;
  const Timer step;
  const index_t accumulation = m_batches.plan().accumulation();
  const double grad_scale =
      1.0 / static_cast<double>(accumulation * m_config.train.micro_batch * m_targets_per_sample);
  auto& exchange = worker.exchange();
  Model<V>& model = worker.model();
  Optimizer<V>& optimizer = worker.optimizer();
  auto const& weights = worker.weights();
  auto const& grads = worker.grads();
  m_loss_sum->reset(exec);
  ExchangeObserver leaving(exec, exchange, *m_loss_sum, grads);
  ArrivalObserver arriving(exec, exchange, m_waits);
  m_clock.restart();
  m_waits.restart();
  for (index_t m = 0; m < accumulation; ++m) {
    const bool last = m + 1 == accumulation;
    heartbeat::phase("reading data");
    read(exchange, number, m);
    heartbeat::phase("forward and backward");
    const ModelBatch<V> batch = m_batches.upload(exec);
    m_clock.mark(exec);
    // The weights of the last update may still be arriving.
    model.forward(exec, weights, batch, m > 0, grads, m == 0 ? &arriving : nullptr);
    if (m == 0) arriving.finish();
    // Receives are open from here on, so nothing that throws on all ranks may come after it.
    if (last) exchange.begin(grads);
    m_clock.mark(exec);
    model.loss_backward(exec, weights, batch, grad_scale, m > 0, grads, m_losses,
                        m_config.train.label_smoothing);
    m_loss_sum->add(exec, m_losses);
    model.backward(exec, weights, batch, m > 0, grads, last ? &leaving : nullptr);
    m_clock.mark(exec);
  }
  heartbeat::phase("exchange");
  exchange.finish();
  heartbeat::phase("update");
  m_clock.mark(exec);
  const double lr =
      m_config.optimizer.lr * schedule_factor(m_config.schedule, m_config.train.steps, number + 1);
  optimizer.measure(exec, grads);
  exchange.sum(optimizer.norm_digits());  // what the owners found, exactly
  optimizer.update(exec, lr, grads, weights, model.statistics_kept(accumulation));
  m_clock.mark(exec);
  kernels::fence(exec, "sdp::train::step_end");
  for (std::size_t wait = 0; wait < m_waits.marks(); wait += 2)
    times.exchange += m_waits.between(wait, wait + 1);
  times.forward = -times.exchange;
  for (index_t m = 0; m < accumulation; ++m) {
    const auto first = static_cast<std::size_t>(3 * m);
    times.forward += m_clock.between(first, first + 1);
    times.backward += m_clock.between(first + 1, first + 2);
  }
  const auto last = static_cast<std::size_t>(3 * accumulation);
  times.exchange += m_clock.between(last - 1, last);
  times.optimizer = m_clock.between(last, last + 1);
  exchange.begin_return(weights);
  times.step = step.milliseconds();
  return times;
}

/// Reads a micro-batch. Weights of the last update may still be arriving; when a rank cannot read,
/// they do so before every rank throws.
template <class V>
void TrainingStep<V>::read(typename WorkerState<V>::WorkerExchange& exchange, std::int64_t number,
                           index_t micro_batch) {
  try {
    m_world.collectively([&] { m_batches.read(number, micro_batch); });
  } catch (Error const&) {
    exchange.finish_return();
    throw;
  }
}

template <class V>
double TrainingStep<V>::loss(ExecSpace const& exec) const {
  double loss = 0;
  for (double part : m_world.all_gather(m_loss_sum->value(exec))) loss += part;
  return loss / static_cast<double>(m_config.train.global_batch * m_targets_per_sample);
}

template class TrainingStep<float>;
template class TrainingStep<double>;
template class TrainingStep<kernels::bf16>;

}  // namespace sdp
