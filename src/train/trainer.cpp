// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "base/error.hpp"
#include "base/heartbeat.hpp"
#include "base/log.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "base/timer.hpp"
#include "checkpoint/checkpoint.hpp"
#include "comm/exchange.hpp"
#include "config/load.hpp"
#include "config/names.hpp"
#include "data/batch_reader.hpp"
#include "kernels/core/compat.hpp"
#include "models/llama.hpp"
#include "optim/optimizer.hpp"
#include "optim/schedule.hpp"
#include "train/evaluate.hpp"
#include "train/inputs.hpp"
#include "train/loss_sum.hpp"
#include "train/metrics.hpp"
#include "train/progress.hpp"
#include "train/run_folder.hpp"
#include "train/stop_request.hpp"
#include "train/training_state.hpp"
#include "train/watchdog.hpp"

namespace sdp {

namespace {

/// Milliseconds that one update spent in its phases on this rank.
struct StepTimes {
  double step = 0, forward = 0, backward = 0, exchange = 0, optimizer = 0;
};

/// Hands finished gradients to the exchange while backward goes on. The first call also marks a
/// gradient of which the loss is not finite, so that the average shows it to every rank.
template <class V>
class ExchangeObserver : public BackwardObserver {
 public:
  ExchangeObserver(ExecSpace const& exec, Exchange<V>& exchange, LossSum& loss, View1<V> grads)
      : m_exec(exec), m_exchange(exchange), m_loss(loss), m_grads(std::move(grads)) {}

  void gradients_ready(index_t end) override {
    if (m_first) m_loss.poison_if_not_finite(m_exec, m_grads);
    m_first = false;
    kernels::fence(m_exec, "sdp::train::gradients_ready");
    m_exchange.ready(end);
  }
  void progress() override { m_exchange.poll(); }

 private:
  ExecSpace const& m_exec;
  Exchange<V>& m_exchange;
  LossSum& m_loss;
  View1<V> m_grads;
  bool m_first = true;
};

/// Resident bytes now, with the high-water mark set back to them where the kernel allows it.
std::int64_t resident_before_model() {
  reset_peak_resident();
  return resident_bytes();
}

/// Runs what allocates a model; a model that does not fit is an error of the deck, in one sentence.
template <class F>
void allocate_or_refuse(index_t parameters, std::size_t element, F&& f) {
  try {
    f();
  } catch (Error const&) {
    throw;
  } catch (std::exception const& error) {
    const std::string text = error.what();
    if (dynamic_cast<std::bad_alloc const*>(&error) == nullptr &&
        text.find("allocat") == std::string::npos)
      throw;
    throw ConfigError(fmt::format(
        "out of memory: the model has {} parameters, {} of weights alone, and the memory of this "
        "process does not hold it with its gradients, optimizer state and activations",
        short_count(static_cast<double>(parameters)),
        short_bytes(static_cast<double>(parameters) * static_cast<double>(element))));
  }
}

template <class V>
View1<V> flat_buffer(MemoryCategory category, char const* label, index_t size) {
  MemoryScope scope(category);
  return View1<V>(Kokkos::view_alloc(Kokkos::WithoutInitializing, std::string(label)), size);
}

/// One run on one rank.
template <class V>
class Trainer {
 public:
  Trainer(World const& world, Config const& config, DataSets data, StartPoint start)
      : m_world(world),
        m_config(config),
        m_folder(config.run.out_dir),
        m_metrics(m_folder.metrics()),
        m_data(std::move(data)),
        m_resident_before(resident_before_model()),
        m_table(llama_tensors(config.model.llama)) {
    const index_t b = config.train.micro_batch, t = config.train.seq_len;
    BatchPlan plan;
    plan.global_batch = config.train.global_batch;
    plan.micro_batch = b;
    plan.ranks = world.size();
    plan.rank = world.rank();
    m_reader.emplace(
        world.collectively([&] { return TrainReader(*m_data.train, config.run.seed, plan); }));
    world.collectively([&] {
      allocate_or_refuse(m_table.logical_size(), sizeof(V), [&] {
        m_weights = initial_weights<V>(m_exec, m_table, config.run.seed);
        if (!start.init_from.empty())
          load_weights(start.init_from, config.model.llama, m_table, m_weights);
        m_grads =
            flat_buffer<V>(MemoryCategory::gradients, "sdp::train::gradients", m_table.size());
        m_optimizer.emplace(config.optimizer, m_table);
        m_model.emplace(config.model.llama, m_table, b, t, config.model.recompute, true);
        MemoryScope scope(MemoryCategory::data);
        m_inputs = View2<std::int32_t>("sdp::train::inputs", b, t);
        m_targets = View2<std::int32_t>("sdp::train::targets", b, t);
        m_losses = View1<typename Llama<V>::Accum>("sdp::train::losses", b * t);
        if (start.resume) restore(*start.resume);
      });
    });
    m_host_inputs = Kokkos::create_mirror_view(m_inputs);
    m_host_targets = Kokkos::create_mirror_view(m_targets);
    m_loss_sum.emplace(b * t);
    m_exchange.emplace(m_world, exchange_schedule(), exchange_options(), m_exec);
  }

  /// `wall` has run since the command began; the wall-time limit counts from there.
  TrainEnd run(Timer const& wall) {
    TrainConfig const& c = m_config.train;
    m_world.collectively([&] {
      if (!m_world.is_root()) return;
      m_folder.create(m_config);
      m_metrics.rewind(m_state.step);
    });
    Progress progress(m_world.is_root(), m_state.step, c.steps);
    announce(progress);
    StopRequest stop;
    Watchdog watchdog(m_world.rank(), static_cast<double>(m_config.system.watchdog_seconds));
    Timer since_record, since_checkpoint;
    std::int64_t record_step = m_state.step;
    int nonfinite_in_a_row = 0;

    if (m_state.step >= c.steps && m_data.val) run_evaluation(progress);
    while (m_state.step < c.steps) {
      watchdog.set_step(m_state.step + 1);
      const StepTimes times = update();
      const UpdateResult result = m_optimizer->result(m_exec);
      m_step_times.push_back(times.step);
      m_state.step += 1;
      m_state.samples += c.global_batch;
      m_state.tokens += c.global_batch * c.seq_len;
      if (result.skipped) {
        m_state.skipped += 1;
        nonfinite_in_a_row += 1;
        if (m_world.is_root())
          log::warning(
              fmt::format("step {}: loss or gradient is not finite; update skipped", m_state.step));
        if (nonfinite_in_a_row >= c.max_nonfinite)
          m_world.collectively([&] {
            throw NonFiniteError(
                fmt::format("step {}: {} updates in a row had a loss or gradient "
                            "that is not finite (train.max_nonfinite)",
                            m_state.step, nonfinite_in_a_row));
          });
      } else {
        nonfinite_in_a_row = 0;
      }
      const bool last = m_state.step == c.steps;
      if (m_state.step % c.log_every == 0 || last) {
        record(progress, times, result, since_record.milliseconds(), m_state.step - record_step);
        since_record.reset();
        record_step = m_state.step;
      } else {
        progress.live(m_state.step);
      }
      const bool evaluate_now = last || (c.eval_every > 0 && m_state.step % c.eval_every == 0);
      if (evaluate_now && m_data.val) {
        run_evaluation(progress);
        since_record.reset();
        record_step = m_state.step;
      }
      if (!last && stop_wanted(stop, wall.seconds())) {
        const Watchdog::Pause pause(watchdog);
        save(progress);
        progress.note(fmt::format("stopped after step {} of {}; run again to continue",
                                  m_state.step, c.steps));
        return TrainEnd::stopped;
      }
      if (!last && checkpoint_due(since_checkpoint.seconds())) {
        const Watchdog::Pause pause(watchdog);
        save(progress);
        since_checkpoint.reset();
        since_record.reset();
        record_step = m_state.step;
      }
    }
    const Watchdog::Pause pause(watchdog);
    if (m_config.checkpoint.at_end && !m_step_times.empty()) save(progress);
    finish(progress, wall.seconds());
    return TrainEnd::finished;
  }

 private:
  ExchangeOptions exchange_options() const {
    ExchangeOptions options;
    options.method = m_config.system.reduction == Reduction::allreduce ? ReductionMethod::allreduce
                                                                       : ReductionMethod::exchange;
    options.gpu_aware_mpi = m_config.system.gpu_aware_mpi == Toggle::on;
    options.timeout_seconds = static_cast<double>(m_config.system.watchdog_seconds);
    return options;
  }

  ExchangeSchedule exchange_schedule() const {
    const index_t bucket_bytes = m_config.system.bucket_mb * (index_t{1} << 20);
    return make_schedule(dense_layout(m_table, m_world.workers()),
                         make_buckets(m_table, bucket_bytes, sizeof(V)), m_world.worker(),
                         GradientReturn::holders);
  }

  void restore(CheckpointReader const& reader) {
    reader.read(k_group_model, m_table, m_weights);
    for (auto const& [name, moment] : m_optimizer->moments()) {
      const std::string group = "optimizer/" + name;
      if (!reader.has_group(group))
        throw ConfigError("checkpoint \"" + reader.info().path + "\" has no " + group +
                          ": it was written with another optimizer");
      reader.read(group, m_table, moment);
    }
    m_state = reader.info().header.state;
    m_optimizer->set_updates(m_state.step - m_state.skipped);
  }

  void announce(Progress& progress) {
    LlamaConfig const& m = m_config.model.llama;
    progress.note(fmt::format(
        "{} on {} rank{}: LLaMA with {} parameters (V {}, D {}, L {}, H {}/{}, F {}), {}, batch {} "
        "x "
        "{} tokens = {} x {} x {} accumulated",
        m_config.run.name, m_world.size(), m_world.size() == 1 ? "" : "s",
        short_count(static_cast<double>(m_table.logical_size())), m.vocab_size, m.hidden_size,
        m.num_layers, m.num_heads, m.num_kv_heads, m.intermediate_size,
        to_string(m_config.run.precision), m_config.train.global_batch, m_config.train.seq_len,
        m_world.size(), m_config.train.micro_batch, m_reader->plan().accumulation()));
    progress.note(fmt::format(
        "training data: {} tokens in {} shard{}, {:.2f} epochs in {} steps{}",
        short_count(static_cast<double>(m_data.train->num_tokens())), m_data.train->num_shards(),
        m_data.train->num_shards() == 1 ? "" : "s",
        static_cast<double>(m_config.train.steps) *
            static_cast<double>(m_config.train.global_batch) /
            static_cast<double>(m_data.train->num_samples()),
        m_config.train.steps,
        m_state.step > 0 ? fmt::format(" (continued after step {})", m_state.step) : ""));
  }

  /// Forward, backward, exchange and optimizer of update m_state.step (from 0).
  StepTimes update() {
    Region region("sdp::train::step");
    StepTimes times;
    const Timer step;
    const index_t accumulation = m_reader->plan().accumulation();
    const index_t b = m_config.train.micro_batch, t = m_config.train.seq_len;
    const double grad_scale = 1.0 / static_cast<double>(accumulation * b * t);
    m_loss_sum->reset(m_exec);
    ExchangeObserver<V> observer(m_exec, *m_exchange, *m_loss_sum, m_grads);
    const typename Llama<V>::Tokens inputs(m_inputs), targets(m_targets);
    for (index_t m = 0; m < accumulation; ++m) {
      const bool last = m + 1 == accumulation;
      heartbeat::phase("reading data");
      m_world.collectively(
          [&] { m_reader->read(m_state.step, m, m_host_inputs.data(), m_host_targets.data()); });
      // Receives are open from here on, so nothing that throws on all ranks may come after it.
      if (last) m_exchange->begin(m_grads);
      heartbeat::phase("forward and backward");
      Kokkos::deep_copy(m_exec, m_inputs, m_host_inputs);
      Kokkos::deep_copy(m_exec, m_targets, m_host_targets);
      Timer phase;
      m_model->forward(m_exec, m_weights, inputs);
      times.forward += phase.milliseconds();
      phase.reset();
      m_model->loss_backward(m_exec, m_weights, targets, grad_scale, m > 0, m_grads, m_losses,
                             m_config.train.label_smoothing);
      m_loss_sum->add(m_exec, m_losses);
      m_model->backward(m_exec, m_weights, inputs, m > 0, m_grads, last ? &observer : nullptr);
      times.backward += phase.milliseconds();
    }
    heartbeat::phase("exchange");
    m_exchange->finish();
    heartbeat::phase("update");
    times.exchange = m_exchange->statistics().blocked_ms;
    const Timer phase;
    const double lr = m_config.optimizer.lr *
                      schedule_factor(m_config.schedule, m_config.train.steps, m_state.step + 1);
    m_optimizer->update(m_exec, lr, m_grads, m_weights);
    kernels::fence(m_exec, "sdp::train::step_end");
    times.optimizer = phase.milliseconds();
    times.step = step.milliseconds();
    return times;
  }

  bool stop_wanted(StopRequest const& stop, double wall_seconds) const {
    const std::int64_t limit = m_config.system.max_walltime;
    const bool mine = stop.requested() || (limit > 0 && wall_seconds >= static_cast<double>(limit));
    return m_world.any(mine);
  }

  bool checkpoint_due(double seconds_since_last) const {
    CheckpointConfig const& c = m_config.checkpoint;
    if (c.every_steps > 0 && m_state.step % c.every_steps == 0) return true;
    return c.every_seconds > 0 &&
           m_world.any(seconds_since_last >= static_cast<double>(c.every_seconds));
  }

  void record(Progress& progress, StepTimes const& times, UpdateResult const& result,
              double elapsed_ms, std::int64_t steps) {
    // One sum per rank, added in rank order: the same bits wherever it is computed.
    double loss = 0;
    for (double part : m_world.all_gather(m_loss_sum->value(m_exec))) loss += part;
    const double targets =
        static_cast<double>(m_config.train.global_batch * m_config.train.seq_len);
    ExchangeStatistics const& traffic = m_exchange->statistics();
    TrainRecord r;
    r.step = m_state.step;
    r.loss = loss / targets;
    r.grad_norm = result.grad_norm;
    r.lr = m_config.optimizer.lr *
           schedule_factor(m_config.schedule, m_config.train.steps, m_state.step);
    r.samples = m_state.samples;
    r.tokens = m_state.tokens;
    r.step_ms = m_world.max(elapsed_ms / static_cast<double>(steps));
    r.forward_ms = m_world.max(times.forward);
    r.backward_ms = m_world.max(times.backward);
    r.exchange_ms = m_world.max(times.exchange);
    r.optimizer_ms = m_world.max(times.optimizer);
    r.tokens_per_s = targets / (r.step_ms * 1e-3);
    r.sent_bytes = m_world
                       .min_mean_max(static_cast<double>(traffic.gradient_sent_bytes +
                                                         traffic.weight_sent_bytes))
                       .mean;
    r.recv_bytes = m_world
                       .min_mean_max(static_cast<double>(traffic.gradient_received_bytes +
                                                         traffic.weight_received_bytes))
                       .mean;
    r.mem_peak_bytes = m_world.max(memory_ledger::total().peak);
    r.skipped = m_state.skipped;
    m_sent_bytes = r.sent_bytes;
    m_world.collectively([&] {
      if (m_world.is_root()) m_metrics.append(r);
    });
    progress.line(r);
  }

  void run_evaluation(Progress& progress) {
    heartbeat::phase("evaluation");
    const Timer timer;
    EvalRecord r;
    r.step = m_state.step;
    r.val_loss =
        evaluate(m_world, m_exec, *m_model, m_weights, *m_data.val, m_config.train.global_batch,
                 m_config.train.micro_batch, m_config.train.eval_batches)
            .val_loss;
    m_val_loss = r.val_loss;
    if (std::isfinite(r.val_loss))
      m_state.best_val_loss = std::min(m_state.best_val_loss.value_or(r.val_loss), r.val_loss);
    m_world.collectively([&] {
      if (m_world.is_root()) m_metrics.append(r);
    });
    progress.evaluation(r, timer.seconds());
  }

  void save(Progress& progress) {
    Region region("sdp::train::checkpoint");
    heartbeat::phase("checkpoint");
    CheckpointHeader header;
    header.model = m_config.model;
    header.state = m_state;
    header.state.data_tokens = m_data.train->num_tokens();
    header.deck = to_toml(m_config);
    std::vector<FlatRange> owned;
    for (OwnedRange const& range : m_exchange->schedule().owned)
      owned.push_back({range.gradients.begin, range.gradients.end});
    std::vector<CheckpointBuffer<V>> buffers;
    buffers.push_back(checkpoint_buffer<V>(k_group_model, m_table, owned, m_weights));
    for (auto const& [name, moment] : m_optimizer->moments())
      buffers.push_back(checkpoint_buffer<V>("optimizer/" + name, m_table, owned, moment));
    const SavedCheckpoint saved = save_checkpoint(m_world, m_folder.checkpoints().string(),
                                                  m_config.checkpoint.keep, header, buffers);
    m_world.collectively([&] {
      if (m_world.is_root())
        m_metrics.append(CheckpointRecord{m_state.step, saved.path, saved.seconds, saved.bytes});
    });
    progress.note(fmt::format("step {}  checkpoint {} ({} in {:.1f} s)", m_state.step, saved.path,
                              short_bytes(static_cast<double>(saved.bytes)), saved.seconds));
  }

  void finish(Progress& progress, double wall_seconds) {
    RunSummary s;
    s.name = m_config.run.name;
    s.steps = m_state.step;
    s.samples = m_state.samples;
    s.tokens = m_state.tokens;
    s.val_loss = m_val_loss;
    s.best_val_loss = m_state.best_val_loss;
    s.wall_seconds = m_world.max(wall_seconds);
    s.parameters = m_table.logical_size();
    s.skipped = m_state.skipped;
    s.checkpoints = list_checkpoints(m_folder.checkpoints().string());
    if (!m_step_times.empty()) {
      auto middle = m_step_times.begin() + static_cast<std::ptrdiff_t>(m_step_times.size() / 2);
      std::nth_element(m_step_times.begin(), middle, m_step_times.end());
      s.step_ms = m_world.max(*middle);
      s.tokens_per_s = static_cast<double>(m_config.train.global_batch * m_config.train.seq_len) /
                       (*s.step_ms * 1e-3);
    }
    const double tokens_per_rank =
        static_cast<double>(m_state.tokens) / static_cast<double>(m_world.size());
    s.flops_per_rank = m_world.min_mean_max(
        tokens_per_rank * llama_flops_per_token(m_config.model.llama, m_config.train.seq_len));
    for (int i = 0; i < k_memory_categories; ++i) {
      const auto usage = memory_ledger::usage(static_cast<MemoryCategory>(i));
      s.memory_measured[i] = m_world.min_mean_max(static_cast<double>(usage.peak));
    }
    const std::int64_t flat = m_table.size() * static_cast<std::int64_t>(sizeof(V));
    s.memory_predicted[static_cast<int>(MemoryCategory::weights)] = flat;
    s.memory_predicted[static_cast<int>(MemoryCategory::gradients)] = flat;
    s.memory_predicted[static_cast<int>(MemoryCategory::optimizer)] =
        flat * static_cast<std::int64_t>(m_optimizer->moments().size());
    s.memory_total = m_world.min_mean_max(static_cast<double>(memory_ledger::total().peak));
    s.process_peak_bytes = m_world.min_mean_max(static_cast<double>(peak_resident_bytes()));
    s.process_model_bytes =
        m_world.min_mean_max(static_cast<double>(peak_resident_bytes() - m_resident_before));
    const double ranks = m_world.size();
    s.sent_bytes_predicted =
        2.0 * (1.0 - 1.0 / ranks) * static_cast<double>(m_table.logical_size()) * sizeof(V);
    s.sent_bytes_measured = m_sent_bytes;
    m_world.collectively([&] {
      if (m_world.is_root()) write_file(m_folder.summary(), to_json(s));
    });
    progress.note(closing_table(s));
  }

  World const& m_world;
  Config m_config;
  RunFolder m_folder;
  MetricsLog m_metrics;
  DataSets m_data;
  ExecSpace m_exec;
  std::int64_t m_resident_before;
  ParameterTable m_table;
  TrainingState m_state;
  View1<V> m_weights;                                          // (n)
  View1<V> m_grads;                                            // (n)
  View2<std::int32_t> m_inputs;                                // (B,T)
  View2<std::int32_t> m_targets;                               // (B,T)
  kernels::host_mirror_t<View2<std::int32_t>> m_host_inputs;   // (B,T)
  kernels::host_mirror_t<View2<std::int32_t>> m_host_targets;  // (B,T)
  View1<typename Llama<V>::Accum> m_losses;                    // (B*T)
  std::optional<TrainReader> m_reader;
  std::optional<Optimizer<V>> m_optimizer;
  std::optional<Llama<V>> m_model;
  std::optional<LossSum> m_loss_sum;
  std::optional<Exchange<V>> m_exchange;
  std::vector<double> m_step_times;  // (updates) ms
  std::optional<double> m_val_loss;
  std::optional<double> m_sent_bytes;
};

template <class V>
TrainEnd train_as(World const& world, Config const& config, DataSets data, StartPoint start,
                  Timer const& wall) {
  Trainer<V> trainer(world, config, std::move(data), std::move(start));
  return trainer.run(wall);
}

}  // namespace

TrainEnd train(World const& world, Config const& config) {
  const Timer wall;
  DataSets data = open_data(world, config, true);
  StartPoint start = find_start(world, config, *data.train);
  if (start.finished) {
    if (world.is_root())
      fmt::print("the run in {} has done its {} steps already; nothing to do\n", config.run.out_dir,
                 config.train.steps);
    return TrainEnd::finished;
  }
  return config.run.precision == Precision::fp64
             ? train_as<double>(world, config, std::move(data), std::move(start), wall)
             : train_as<float>(world, config, std::move(data), std::move(start), wall);
}

}  // namespace sdp
