// SPDX-License-Identifier: Apache-2.0
#include "train/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace sdp {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void print(std::string const& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

/// Launchers give ranks a pseudo-terminal even where their own output goes to a file.
bool has_launcher() {
  for (char const* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_PROCID"})
    if (std::getenv(variable)) return true;
  return false;
}

std::string rate(std::optional<double> tokens, std::optional<double> images) {
  return images ? short_count(*images) + " images/s"
                : short_count(tokens.value_or(0)) + " tokens/s";
}

std::string accuracy(EvalRecord const& r) {
  std::string text = fmt::format("accuracy {:.2f} %", 100 * *r.val_accuracy);
  if (r.val_accuracy_no_recalibration)
    text += fmt::format(" ({:.2f} % before recalibration)", 100 * *r.val_accuracy_no_recalibration);
  return text;
}

}  // namespace

std::string short_count(double value) {
  if (value < 1e3) return fmt::format("{:.0f}", value);
  if (value < 1e6) return fmt::format("{:.1f}k", value / 1e3);
  if (value < 1e9) return fmt::format("{:.2f}M", value / 1e6);
  return fmt::format("{:.3f}B", value / 1e9);
}

std::string short_bytes(double bytes) {
  char const* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024.0 && unit < 4) {
    bytes /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string short_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto total = static_cast<long long>(seconds + 0.5);
  if (total < 60) return fmt::format("{}s", total);
  if (total < 3600) return fmt::format("{}m{:02}s", total / 60, total % 60);
  return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
}

Progress::Progress(bool active, std::int64_t first_step, std::int64_t steps)
    : m_active(active),
      m_terminal(active && !has_launcher() && ::isatty(STDOUT_FILENO) != 0),
      m_first_step(first_step),
      m_steps(steps),
      m_started(now()) {}

double Progress::remaining_seconds(std::int64_t step) const {
  const double done = static_cast<double>(step - m_first_step);
  return done > 0 ? (now() - m_started) / done * static_cast<double>(m_steps - step) : NAN;
}

void Progress::clear_live() {
  if (m_live_shown) print("\r\033[K");
  m_live_shown = false;
}

void Progress::line(TrainRecord const& r) {
  if (!m_active) return;
  clear_live();
  const auto width = fmt::formatted_size("{}", m_steps);
  print(
      fmt::format("step {:>{}}/{}  loss {:.4f}  |g| {:.3f}  lr {:.2e}  {:>7.1f} ms/step  {:>7}  "
                  "ETA {}{}\n",
                  r.step, width, m_steps, r.loss, r.grad_norm, r.lr, r.step_ms,
                  rate(r.tokens_per_s, r.images_per_s), short_duration(remaining_seconds(r.step)),
                  r.skipped ? fmt::format("  skipped {}", r.skipped) : ""));
}

void Progress::live(std::int64_t step) {
  if (!m_terminal || now() - m_last_live < 0.2) return;
  m_last_live = now();
  constexpr int k_width = 30;
  const int filled = static_cast<int>(k_width * step / m_steps);
  print(fmt::format("\r[{}{}] step {}/{}  ETA {}\033[K", std::string(filled, '#'),
                    std::string(k_width - filled, '.'), step, m_steps,
                    short_duration(remaining_seconds(step))));
  m_live_shown = true;
}

void Progress::evaluation(EvalRecord const& r, double seconds) {
  if (!m_active) return;
  clear_live();
  print(fmt::format(
      "step {}  validation loss {:.4f}  {}{}  ({})\n", r.step, r.val_loss,
      r.val_accuracy ? accuracy(r) : fmt::format("perplexity {:.2f}", std::exp(r.val_loss)),
      r.ensemble_loss ? fmt::format("  ensemble loss {:.4f}", *r.ensemble_loss) : "",
      short_duration(seconds)));
}

void Progress::note(std::string const& text) {
  if (!m_active) return;
  clear_live();
  print(text + "\n");
}

std::string closing_table(RunSummary const& s) {
  std::string out;
  const auto row = [&](char const* what, std::string const& value) {
    out += fmt::format("  {:<26}{}\n", what, value);
  };
  out += "run finished\n";
  const bool images = s.tokens == 0;
  row("steps", fmt::format("{} ({} {}{})", s.steps,
                           short_count(static_cast<double>(images ? s.samples : s.tokens)),
                           images ? "images" : "tokens",
                           s.skipped ? fmt::format(", {} skipped", s.skipped) : ""));
  if (s.val_loss)
    row("validation loss",
        fmt::format("{:.4f} ({}best {:.4f})", *s.val_loss,
                    images ? "" : fmt::format("perplexity {:.2f}; ", std::exp(*s.val_loss)),
                    s.best_val_loss.value_or(*s.val_loss)));
  if (s.val_accuracy) row("validation accuracy", fmt::format("{:.2f} %", 100 * *s.val_accuracy));
  if (s.ensemble_loss)
    row("ensemble loss", fmt::format("{:.4f} (mean over the masked models)", *s.ensemble_loss));
  const auto shares = [](MinMeanMax const& m) {
    return fmt::format("{:.1f} % ({:.1f} to {:.1f})", 100 * m.mean, 100 * m.min, 100 * m.max);
  };
  if (s.regime != "none") {
    row("subnetworks", fmt::format("{} in {} holder sets, {} masking, coverage {:.4g}, rho {:.4f}",
                                   s.subnetworks, s.holder_sets, s.regime, s.coverage, s.rho));
    row("parameters per rank", shares(s.true_fraction) + " of the model");
    row("FLOPs per rank and step", shares(s.flop_share) + " of the dense model's");
  }
  if (s.step_ms)
    row("step time",
        fmt::format("{:.1f} ms (median), {}", *s.step_ms, rate(s.tokens_per_s, s.images_per_s)));
  row("wall time", short_duration(s.wall_seconds));
  if (s.sent_bytes_measured)
    row("sent per step and rank",
        fmt::format("{} (predicted {})", short_bytes(*s.sent_bytes_measured),
                    short_bytes(s.sent_bytes_predicted)));
  out += fmt::format("  {:<26}{:>12}{:>12}{:>12}{:>12}\n", "peak memory per rank", "predicted",
                     "min", "mean", "max");
  for (int i = 0; i < k_memory_categories; ++i) {
    const MinMeanMax& m = s.memory_measured[i];
    if (m.max <= 0) continue;
    out += fmt::format("    {:<24}{:>12}{:>12}{:>12}{:>12}\n", name(static_cast<MemoryCategory>(i)),
                       s.memory_predicted[i] ? short_bytes(*s.memory_predicted[i]) : "-",
                       short_bytes(m.min), short_bytes(m.mean), short_bytes(m.max));
  }
  out += fmt::format("    {:<24}{:>12}{:>12}{:>12}{:>12}\n", "all of these", "",
                     short_bytes(s.memory_total.min), short_bytes(s.memory_total.mean),
                     short_bytes(s.memory_total.max));
  out += fmt::format("    {:<24}{:>12}{:>12}{:>12}{:>12}\n", "whole process", "",
                     short_bytes(s.process_peak_bytes.min), short_bytes(s.process_peak_bytes.mean),
                     short_bytes(s.process_peak_bytes.max));
  return out;
}

}  // namespace sdp
