// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>

#include "base/device_pool.hpp"
#include "base/error.hpp"
#include "base/heartbeat.hpp"
#include "base/log.hpp"
#include "base/memory_ledger.hpp"
#include "base/timer.hpp"
#include "checkpoint/checkpoint.hpp"
#include "comm/delivery.hpp"
#include "config/load.hpp"
#include "config/names.hpp"
#include "models/model_family.hpp"
#include "optim/schedule.hpp"
#include "subnet/mask_json.hpp"
#include "train/accounting.hpp"
#include "train/arrangement.hpp"
#include "train/checkpoint_saver.hpp"
#include "train/describe_run.hpp"
#include "train/evaluate.hpp"
#include "train/evaluate_merged.hpp"
#include "train/evaluate_merged_resnet.hpp"
#include "train/inputs.hpp"
#include "train/metrics.hpp"
#include "train/plan.hpp"
#include "train/progress.hpp"
#include "train/replica_check.hpp"
#include "train/run_folder.hpp"
#include "train/run_setup.hpp"
#include "train/stop_request.hpp"
#include "train/stop_rule.hpp"
#include "train/training_step.hpp"
#include "train/watchdog.hpp"
#include "train/worker_state.hpp"

namespace sdp {

namespace {

/// Resident bytes now, with the high-water mark set back to them where the kernel allows it.
std::int64_t resident_before_model() {
  reset_peak_resident();
  return resident_bytes();
}

/// Who holds what from this step on. Collective.
Arrangement arranged_at(World const& world, Config const& config, std::int64_t step) {
  return world.collectively(
      [&] { return arrange(config, world.workers(), world.node_size(), step); });
}

/// One run on one rank.
template <class V>
class Trainer {
 public:
  /// `deck` is the run's, `config` the same with the length that it comes to.
  Trainer(World const& world, Config const& deck, Config const& config, Arrangement arrangement,
          QueueFactory transport, DataSets data, StartPoint start)
      : m_world(world),
        m_deck(deck),
        m_config(config),
        m_folder(config.run.out_dir),
        m_metrics(m_folder.metrics()),
        m_data(std::move(data)),
        m_transport(std::move(transport)),
        m_stop_rule(config.system.max_walltime),
        m_resident_before(resident_before_model()) {
    m_worker.emplace(world, m_config, std::move(arrangement), m_exec, m_transport);
    if (start.resume)
      resume(start.resume);
    else
      world.collectively([&] {
        if (start.init_from.empty())
          m_worker->initialise(config.run.seed);
        else
          m_worker->load(start.init_from);
      });
    m_replicas.emplace(world, m_worker->arrangement());
    m_step.emplace(world, m_config, *m_data.train);
    m_saver.emplace(world, m_config.checkpoint, m_folder.checkpoints().string(), m_metrics);
    count_flops();
    m_flops = m_update_flops * static_cast<double>(m_state.samples / config.train.global_batch);
  }

  /// `wall` has run since the checks began; the wall-time limit counts from the start of the
  /// process.
  TrainEnd run(Timer const& wall, Watchdog& watchdog) {
    TrainConfig const& c = m_config.train;
    m_world.collectively([&] {
      if (!m_world.is_root()) return;
      m_folder.create(m_deck);
      m_folder.set_aside(m_unreadable, m_resumed_from);
      write_arrangement();
      m_metrics.rewind(m_state.step);
    });
    Progress progress(m_world.is_root(), m_state.step, c.steps);
    announce(progress);
    Timer since_record;
    std::int64_t record_step = m_state.step;

    if (owes_evaluation()) run_evaluation(progress, {}, has_evaluation());
    while (m_state.step < c.steps) {
      const Timer update;
      watchdog.set_step(m_state.step + 1);
      if (remask_due()) remask(progress);
      StepTimes times = m_step->update(m_exec, *m_worker, m_state.step);
      if (settles_after(m_state.step + 1)) settle(times);
      const UpdateResult result = m_worker->optimizer().result(m_exec);
      m_step_times.push_back(times.step);
      m_state.step += 1;
      m_state.samples += c.global_batch;
      m_flops += m_update_flops;
      m_state.tokens += tokens_of_update();
      const bool gives_up = count_skipped(result.skipped);
      if (gives_up) settle(times);
      if (m_config.sdp.hash_every > 0 && m_state.step % m_config.sdp.hash_every == 0)
        m_replicas->run(m_exec, m_worker->weights());
      const bool last = m_state.step == c.steps;
      if (m_state.step % c.log_every == 0 || last || gives_up) {
        record(progress, times, result, since_record.milliseconds(), m_state.step - record_step);
        since_record.reset();
        record_step = m_state.step;
      } else {
        progress.live(m_state.step);
      }
      if (gives_up) {
        m_saver->finish(progress);
        give_up();
      }
      m_stop_rule.update_took(update.seconds());
      bool broken_off = false;
      if (m_data.val && evaluates_after(m_state.step)) {
        broken_off = !run_evaluation(progress, [this] {
          if (m_stop.requested() || m_stop_rule.ends_evaluation(m_stop.age()))
            throw Error(ExitCode::stopped, "the evaluation was broken off");
        });
        since_record.reset();
        record_step = m_state.step;
      }
      if (last && !broken_off) break;
      const auto decision = m_saver->decide(m_state.step, broken_off || wants_to_stop());
      if (!decision.stop && !decision.save && !decision.publish) continue;
      const Watchdog::Pause pause(watchdog);
      if (decision.publish) m_saver->finish(progress);
      if (decision.save || decision.stop) save(progress);
      // The order to stop may have come during the save; another one would add nothing.
      if (decision.stop || (decision.save && m_world.any(wants_to_stop()))) {
        m_saver->finish(progress);
        progress.note(fmt::format("stopped after step {} of {}; run again to continue",
                                  m_state.step, c.steps));
        return TrainEnd::stopped;
      }
      since_record.reset();
      record_step = m_state.step;
    }
    const Watchdog::Pause pause(watchdog);
    if (m_config.checkpoint.at_end && !m_step_times.empty()) save(progress);
    m_saver->finish(progress);
    finish(progress, wall.seconds());
    return TrainEnd::finished;
  }

 private:
  /// Continues from the first checkpoint that can be read as a whole.
  void resume(ResumeChain& chain) {
    while (!chain.read(m_world, [&](auto const& reader) { m_worker->restore(reader); })) {
      const std::int64_t step = chain->info().header.state.step;
      m_worker.emplace(m_world, m_config, arranged_at(m_world, m_config, step), m_exec,
                       m_transport);
    }
    m_state = chain->info().header.state;
    m_arranged_for = m_state.step;
    m_resumed_from = chain->info().path;
    for (PassedOver const& damaged : chain.passed_over()) {
      m_unreadable.push_back(damaged.path);
      if (m_world.is_root())
        log::warning(fmt::format("passed over {} and continued from {}: {}", damaged.path,
                                 m_resumed_from, damaged.why));
    }
  }

  /// Whether something after this update looks at the weights or the messages of all ranks.
  bool settles_after(std::int64_t step) const {
    const auto every = [&](std::int64_t period) { return period > 0 && step % period == 0; };
    return step == m_config.train.steps || every(m_config.train.log_every) ||
           every(m_config.train.eval_every) || every(m_config.sdp.hash_every);
  }
  /// Waits for the weights of the other owners, as part of the update.
  void settle(StepTimes& times) {
    const Timer timer;
    m_worker->exchange().finish_return();
    kernels::fence(m_exec, "sdp::train::settle");
    const double waited = timer.milliseconds();
    times.exchange += waited;
    times.step += waited;
  }

  /// plan.json and mask.json of the present mask; only rank 0 calls it.
  void write_arrangement() const {
    write_file(m_folder.plan(), plan_json(plan_of_run(m_world, m_config, m_state.step)));
    if (m_config.sdp.regime != Regime::none)
      write_file(m_folder.mask(), mask_text());
    else
      std::filesystem::remove(m_folder.mask());
  }
  std::string mask_text() const {
    Arrangement const& a = m_worker->arrangement();
    return m_config.sdp.regime == Regime::none ? "" : mask_to_json(a.units, a.mask);
  }

  void count_flops() {
    m_update_flops = static_cast<double>(m_config.train.global_batch / m_world.size()) *
                     static_cast<double>(
                         worker_flops(m_config, m_worker->arrangement(), m_world.worker()).total());
  }

  bool remask_due() const {
    const std::int64_t every = m_config.sdp.remask_every;
    return m_config.sdp.regime != Regime::none && every > 0 && m_state.step % every == 0 &&
           m_state.step != m_arranged_for;
  }

  void remask(Progress& progress) {
    heartbeat::phase("changing the mask");
    m_worker->exchange().finish_return();
    m_worker->rearrange(arranged_at(m_world, m_config, m_state.step));
    m_replicas.emplace(m_world, m_worker->arrangement());
    m_arranged_for = m_state.step;
    count_flops();
    m_world.collectively([&] {
      if (m_world.is_root()) write_arrangement();
    });
    progress.note(fmt::format("step {}  new mask", m_state.step));
  }

  bool is_llama() const { return m_config.model.kind == ModelKind::llama; }
  std::int64_t tokens_of_update() const {
    return is_llama() ? m_config.train.global_batch * m_config.train.seq_len : 0;
  }
  /// Tokens or images.
  double targets_of_update() const {
    return static_cast<double>(is_llama() ? tokens_of_update() : m_config.train.global_batch);
  }

  void announce(Progress& progress) {
    TrainConfig const& c = m_config.train;
    progress.note(fmt::format(
        "{} on {} rank{}: {} with {} parameters, {}, batch of {} {} = {} x {} x {} accumulated",
        m_config.run.name, m_world.size(), m_world.size() == 1 ? "" : "s",
        model_title(m_config.model),
        short_count(static_cast<double>(model_parameters(m_config.model))),
        to_string(m_config.run.precision), c.global_batch,
        is_llama() ? fmt::format("x {} tokens", c.seq_len) : std::string("images"), m_world.size(),
        c.micro_batch, m_step->plan().accumulation()));
    progress.note(fmt::format(
        "training data: {}, {:.2f} epochs in {} steps{}", describe_data(*m_data.train),
        static_cast<double>(c.steps) * static_cast<double>(c.global_batch) /
            static_cast<double>(m_data.train->num_samples()),
        c.steps, m_state.step > 0 ? fmt::format(" (continued after step {})", m_state.step) : ""));
    if (m_config.sdp.regime != Regime::none)
      progress.note(describe_subnetworks(m_config, m_worker->arrangement()));
    if (m_deck.train.match == Match::flops && m_config.train.steps != m_deck.train.steps)
      progress.note(fmt::format("{} updates spend the FLOPs of {} dense ones", m_config.train.steps,
                                m_deck.train.steps));
    if (m_world.is_root())
      for (std::string const& warning : m_worker->arrangement().mask.warnings)
        log::warning(warning);
  }

  bool wants_to_stop() const { return m_stop.requested() || m_stop_rule.ends_run(m_stop.age()); }

  /// Counts an update that was skipped; true when there were too many in a row.
  bool count_skipped(bool skipped) {
    m_skipped_in_a_row = skipped ? m_skipped_in_a_row + 1 : 0;
    if (!skipped) return false;
    m_state.skipped += 1;
    if (m_world.is_root())
      log::warning(
          fmt::format("step {}: loss or gradient is not finite; update skipped", m_state.step));
    return m_skipped_in_a_row >= m_config.train.max_nonfinite;
  }
  [[noreturn]] void give_up() const {
    throw on_all_ranks(NonFiniteError(
        fmt::format("step {}: {} updates in a row had a loss or gradient that is not finite "
                    "(train.max_nonfinite)",
                    m_state.step, m_skipped_in_a_row)));
  }

  bool evaluates_after(std::int64_t step) const {
    TrainConfig const& c = m_config.train;
    return step >= c.steps || (c.eval_every > 0 && step % c.eval_every == 0);
  }
  /// Whether the step that this start continues from was to be evaluated, and was not: the order to
  /// stop came first. The last one is evaluated in any case, for the summary.
  bool owes_evaluation() const {
    if (!m_data.val || m_state.step == 0 || !evaluates_after(m_state.step)) return false;
    return m_state.step >= m_config.train.steps || !has_evaluation();
  }
  bool has_evaluation() const {
    return m_world.any(m_world.is_root() && m_metrics.has_evaluation(m_state.step));
  }

  void record(Progress& progress, StepTimes const& times, UpdateResult const& result,
              double elapsed_ms, std::int64_t steps) {
    ExchangeStatistics const& traffic = m_worker->exchange().statistics();
    TrainRecord r;
    r.step = m_state.step;
    r.loss = m_step->loss(m_exec);
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
    (is_llama() ? r.tokens_per_s : r.images_per_s) = targets_of_update() / (r.step_ms * 1e-3);
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

  /// False where `check` broke it off; then only the state of the run is still there, not the
  /// model.
  /// `recorded`: metrics.jsonl has this evaluation already.
  bool run_evaluation(Progress& progress, EvalCheck const& check, bool recorded = false) {
    heartbeat::phase("evaluation");
    const Timer timer;
    EvalRecord r;
    r.step = m_state.step;
    m_worker->exchange().finish_return();
    TrainConfig const& c = m_config.train;
    const EvalScope scope{*m_data.val, c.global_batch, c.micro_batch, c.eval_batches};
    try {
      if (m_config.sdp.regime == Regime::forward) {
        r.ensemble_loss =
            evaluate_ensemble(m_world, m_exec, m_worker->model(), m_worker->weights(),
                              m_worker->arrangement().subnetwork_of_worker, scope, check);
        evaluate_merged_model(scope, check, r);
      } else {
        const EvalResult result =
            evaluate(m_world, m_exec, m_worker->model(), m_worker->weights(), scope, check);
        r.val_loss = result.val_loss;
        r.val_accuracy = result.accuracy;
      }
    } catch (Error const& error) {
      if (error.code() != ExitCode::stopped) throw;
      return false;
    }
    m_val_loss = r.val_loss;
    m_val_accuracy = r.val_accuracy;
    m_ensemble_loss = r.ensemble_loss;
    if (std::isfinite(r.val_loss))
      m_state.best_val_loss = std::min(m_state.best_val_loss.value_or(r.val_loss), r.val_loss);
    m_world.collectively([&] {
      if (m_world.is_root() && !recorded) m_metrics.append(r);
    });
    progress.evaluation(r, timer.seconds());
    return true;
  }

  /// The merged model, in the memory that activations and gradients have during an update.
  void evaluate_merged_model(EvalScope const& scope, EvalCheck const& check, EvalRecord& r) {
    m_worker->release_model();
    evaluate_in_free_memory(scope, check, r);
    m_worker->rebuild_model();
  }
  void evaluate_in_free_memory(EvalScope const& scope, EvalCheck const& check, EvalRecord& r) {
    PoolRegion memory;
    PoolScope in_region(memory);
    Arrangement const& a = m_worker->arrangement();
    Delivery<V> delivery(m_world, delivery_options(m_config.system), m_exec);
    const DeliverySource source = owned_source(a.layout, a.buckets, BufferLayout::weights);
    if (is_llama()) {
      const MergedModel<V> merged{m_config.model.llama, m_worker->subnetwork().weights,
                                  m_worker->weights(), source};
      r.val_loss =
          evaluate_merged(m_world, m_exec, delivery, merged, free_buffer(), scope, check).val_loss;
    } else {
      const RecalibratedResult result =
          evaluate_merged_resnet(m_world, m_exec, delivery, m_config, source, m_worker->weights(),
                                 *m_data.train, scope, check);
      r.val_loss = result.after.val_loss;
      r.val_accuracy = result.after.accuracy;
      r.val_accuracy_no_recalibration = result.before.accuracy;
    }
  }

  /// The memory of the gradients, which hold nothing between updates.
  View1<V> free_buffer() const {
    auto const& grads = m_worker->grads();
    return View1<V>(reinterpret_cast<V*>(grads.data()),
                    grads.extent(0) * sizeof(*grads.data()) / sizeof(V));
  }

  void save(Progress& progress) {
    CheckpointHeader header;
    header.model = m_config.model;
    header.state = m_state;
    header.state.data_tokens = m_data.train->recorded_size();
    header.deck = to_toml(m_deck);
    header.mask = mask_text();
    m_worker->exchange().finish_return();
    const std::optional<std::string> group = m_worker->not_finite();
    if (m_world.any(group.has_value())) {
      m_saver->finish(progress);
      m_world.collectively([&] {
        if (group)
          throw NonFiniteError(fmt::format(
              "step {}: {} has values that are not finite, so no checkpoint of them is written",
              m_state.step, *group == k_group_model ? "the model" : *group));
      });
    }
    m_saver->save(header, *m_worker, progress);
    // In the background, the one before may have to end first.
    m_stop_rule.save_took(m_saver->longest_seconds() * (m_config.checkpoint.async ? 2 : 1));
  }

  void finish(Progress& progress, double wall_seconds) {
    RunSummary s;
    s.name = m_config.run.name;
    s.steps = m_state.step;
    s.samples = m_state.samples;
    s.tokens = m_state.tokens;
    s.val_loss = m_val_loss;
    s.best_val_loss = m_state.best_val_loss;
    s.ensemble_loss = m_ensemble_loss;
    s.val_accuracy = m_val_accuracy;
    s.wall_seconds = m_world.max(wall_seconds);
    s.skipped = m_state.skipped;
    s.checkpoints = list_checkpoints(m_folder.checkpoints().string());
    if (!m_step_times.empty()) {
      auto middle = m_step_times.begin() + static_cast<std::ptrdiff_t>(m_step_times.size() / 2);
      std::nth_element(m_step_times.begin(), middle, m_step_times.end());
      s.step_ms = m_world.max(*middle);
      (is_llama() ? s.tokens_per_s : s.images_per_s) = targets_of_update() / (*s.step_ms * 1e-3);
    }
    account(m_world, m_config, *m_worker, m_flops, s);
    s.process_model_bytes =
        m_world.min_mean_max(static_cast<double>(peak_resident_bytes() - m_resident_before));
    s.sent_bytes_measured = m_sent_bytes;
    m_world.collectively([&] {
      if (m_world.is_root()) write_file(m_folder.summary(), to_json(s));
    });
    progress.note(closing_table(s));
  }

  World const& m_world;
  Config m_deck;
  Config m_config;
  RunFolder m_folder;
  MetricsLog m_metrics;
  DataSets m_data;
  QueueFactory m_transport;
  StopRequest m_stop;
  StopRule m_stop_rule;
  ExecSpace m_exec;
  std::int64_t m_resident_before;
  TrainingState m_state;
  std::optional<WorkerState<V>> m_worker;
  std::optional<ReplicaCheck<V>> m_replicas;
  std::optional<TrainingStep<V>> m_step;
  std::optional<CheckpointSaver<V>> m_saver;
  std::string m_resumed_from;             // checkpoint; empty: none
  std::vector<std::string> m_unreadable;  // checkpoints that were passed over
  int m_skipped_in_a_row = 0;
  std::int64_t m_arranged_for = 0;   // update that the mask was made for
  double m_update_flops = 0;         // of this rank in one update
  double m_flops = 0;                // of this rank; those of earlier starts as with this mask
  std::vector<double> m_step_times;  // (updates) ms
  std::optional<double> m_val_loss;
  std::optional<double> m_val_accuracy;
  std::optional<double> m_ensemble_loss;
  std::optional<double> m_sent_bytes;
};

TrainEnd train_in(World const& world, Config const& deck) {
  const Timer wall;
  Watchdog watchdog(world.rank(), static_cast<double>(deck.system.watchdog_seconds));
  heartbeat::phase("opening data");
  DataSets data = open_data(world, deck, true);
  heartbeat::phase("dividing the model");
  RunSetup setup = set_up_run(world, deck);
  Config const& config = setup.config;
  StartPoint start = find_start(world, config, *data.train);
  if (start.finished) {
    if (world.is_root())
      fmt::print("the run in {} has done its {} steps already; nothing to do\n", config.run.out_dir,
                 config.train.steps);
    return TrainEnd::finished;
  }
  if (start.resume && config.sdp.remask_every > 0)
    setup.arrangement = arranged_at(world, config, start.resume->info().header.state.step);
  // Timed, unlike what follows: ranks that cannot reach each other would wait for ever.
  heartbeat::phase("connecting");
  const QueueFactory transport = exchange_transport(world, config.system);
  const auto run = [&]<class V>(V) {
    // A rank that has read its part of a checkpoint waits for the others, however long they take.
    auto pause = std::make_unique<Watchdog::Pause>(watchdog);
    Trainer<V> trainer(world, deck, config, std::move(setup.arrangement), transport,
                       std::move(data), std::move(start));
    pause.reset();
    return trainer.run(wall, watchdog);
  };
  switch (config.run.precision) {
    case Precision::bf16:
      return run(kernels::bf16());
    case Precision::fp64:
      return run(double());
    default:
      return run(float());
  }
}

}  // namespace

TrainEnd train(World const& world, Config const& deck) {
  const std::optional<World> declared = declared_world(world, deck);
  return train_in(declared ? *declared : world, deck);
}

}  // namespace sdp
