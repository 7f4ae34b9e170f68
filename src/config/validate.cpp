// SPDX-License-Identifier: Apache-2.0
#include "config/validate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "config/names.hpp"

namespace sdp {

std::string Origin::at(std::string_view key) const {
  const auto found = m_lines.find(key);
  if (found == m_lines.end()) return m_file;
  return found->second ? fmt::format("{}:{}", m_file, found->second) : "command line";
}

void deck_error(std::string const& where, std::string const& problem) {
  std::string text = where + ": " + problem;
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  throw ConfigError(text);
}

namespace {

/// Elements of one model and tokens of one run stay below this, so that bytes and sums of them fit
/// 64 bits and counts are exact in double.
constexpr double k_product_max = 9007199254740992.0;  // 2^53

/// "4", "4 and 8": the multiples of `step` next to `value`, at least one step.
std::string nearest_multiples(std::int64_t value, std::int64_t step) {
  const std::int64_t below = value / step * step;
  return below == 0 ? fmt::format("{}", step) : fmt::format("{} and {}", below, below + step);
}

/// The divisors of `value` next to `near`, from below and above.
std::string nearest_divisors(std::int64_t value, std::int64_t near) {
  std::int64_t below = 1, above = value;
  for (std::int64_t d = 1; d <= value / d; ++d) {
    if (value % d != 0) continue;
    for (const std::int64_t divisor : {d, value / d}) {
      if (divisor <= near) below = std::max(below, divisor);
      if (divisor >= near) above = std::min(above, divisor);
    }
  }
  return near >= value || below == above ? fmt::format("{}", below)
                                         : fmt::format("{} and {}", below, above);
}

void check_llama(Config const& config, Origin const& origin) {
  auto const& m = config.model.llama;
  if (!origin.given("model.head_dim") && m.hidden_size % m.num_heads != 0)
    deck_error(
        origin.at("model.num_heads"),
        fmt::format("model.num_heads is {}, which does not divide model.hidden_size ({}); "
                    "nearest that work: {} (or give model.head_dim)",
                    m.num_heads, m.hidden_size, nearest_divisors(m.hidden_size, m.num_heads)));
  if (m.num_heads % m.num_kv_heads != 0)
    deck_error(
        origin.at("model.num_kv_heads"),
        fmt::format("model.num_kv_heads is {}, which does not divide model.num_heads ({}); "
                    "nearest that work: {}",
                    m.num_kv_heads, m.num_heads, nearest_divisors(m.num_heads, m.num_kv_heads)));
  if (m.head_dim % 2 != 0) {
    if (origin.given("model.head_dim"))
      deck_error(origin.at("model.head_dim"),
                 fmt::format("model.head_dim is {}, but it must be even, because rotary embedding "
                             "turns pairs",
                             m.head_dim));
    deck_error(
        origin.at("model.hidden_size"),
        fmt::format("model.hidden_size / model.num_heads is {} / {} = {}, but the width of a "
                    "head must be even, because rotary embedding turns pairs",
                    m.hidden_size, m.num_heads, m.head_dim));
  }
  const auto d = [](index_t value) { return static_cast<double>(value); };
  const double attention = 2.0 * d(m.hidden_size) * d(m.head_dim) * d(m.num_heads + m.num_kv_heads);
  const double mlp = 3.0 * d(m.hidden_size) * d(m.intermediate_size);
  const double parameters = 2.0 * d(m.vocab_size) * d(m.hidden_size) +
                            d(m.num_layers) * (attention + mlp + 2.0 * d(m.hidden_size));
  if (parameters > k_product_max)
    deck_error(origin.file(),
               fmt::format("the sizes in [model] make {:.3g} parameters, but at most "
                           "{:.3g} can be counted",
                           parameters, k_product_max));
  const index_t widest =
      std::max({m.hidden_size, m.intermediate_size, m.num_heads * m.head_dim, m.vocab_size});
  const double activation = d(config.train.micro_batch) * d(config.train.seq_len) * d(widest);
  if (activation > k_product_max)
    deck_error(
        origin.at("train.micro_batch"),
        fmt::format("train.micro_batch {} x train.seq_len {} x the widest layer {} is {:.3g} "
                    "elements, but at most {:.3g} can be counted",
                    config.train.micro_batch, config.train.seq_len, widest, activation,
                    k_product_max));
  if (config.train.seq_len > m.max_seq_len)
    deck_error(origin.at(origin.given("model.max_seq_len") ? "model.max_seq_len" : "train.seq_len"),
               fmt::format("train.seq_len is {}, but model.max_seq_len is {}; it must be at least "
                           "train.seq_len",
                           config.train.seq_len, m.max_seq_len));
}

void check_data(Config const& config, Origin const& origin) {
  const bool tokens = config.data.kind == DataKind::tokens;
  if (tokens != (config.model.kind == ModelKind::llama))
    deck_error(origin.at("data.kind"),
               fmt::format("data.kind is \"{}\", but model.kind \"{}\" needs {}",
                           to_string(config.data.kind), to_string(config.model.kind),
                           tokens ? "\"cifar10\", \"cifar100\" or \"idx\"" : "\"tokens\""));
  for (auto const* key : {"data.train", "data.val"})
    for (auto const& glob :
         std::string_view(key) == "data.train" ? config.data.train : config.data.val)
      if (glob.empty())
        deck_error(origin.at(key), fmt::format("{} has an empty string; each entry must be a glob "
                                               "of files",
                                               key));
}

void check_batches(Config const& config, Launch const& launch, Origin const& origin) {
  auto const& train = config.train;
  const double per_sample =
      config.model.kind == ModelKind::llama ? static_cast<double>(train.seq_len) : 1.0;
  const double total =
      static_cast<double>(train.steps) * static_cast<double>(train.global_batch) * per_sample;
  if (total > k_product_max)
    deck_error(
        origin.at("train.steps"),
        fmt::format("train.steps {} x train.global_batch {}{} is {:.3g} in all, but at most "
                    "{:.3g} can be counted",
                    train.steps, train.global_batch,
                    per_sample > 1.0 ? fmt::format(" x train.seq_len {}", train.seq_len) : "",
                    total, k_product_max));
  if (!launch.training) return;
  const std::int64_t ranks = launch.ranks;
  if (train.global_batch % ranks != 0)
    deck_error(
        origin.at("train.global_batch"),
        fmt::format("train.global_batch is {}, which {} ranks cannot share equally; "
                    "nearest that work: {}",
                    train.global_batch, ranks, nearest_multiples(train.global_batch, ranks)));
  const std::int64_t per_rank = train.global_batch / ranks;
  if (per_rank % train.micro_batch != 0)
    deck_error(
        origin.at("train.micro_batch"),
        fmt::format("train.micro_batch is {}, which does not divide the {} samples of a rank "
                    "(train.global_batch {} / {} ranks); nearest that work: {}",
                    train.micro_batch, per_rank, train.global_batch, ranks,
                    nearest_divisors(per_rank, train.micro_batch)));
}

void check_schedule(Config const& config, Origin const& origin) {
  if (config.schedule.warmup_steps > config.train.steps)
    deck_error(origin.at("schedule.warmup_steps"),
               fmt::format("schedule.warmup_steps is {}, but it must be at most train.steps ({})",
                           config.schedule.warmup_steps, config.train.steps));
  if (config.train.eval_every > 0 && config.data.val.empty())
    deck_error(origin.at("train.eval_every"),
               fmt::format("train.eval_every is {}, but data.val names no files to evaluate on",
                           config.train.eval_every));
}

void check_sdp(Config const& config, Launch const& launch, Origin const& origin) {
  auto const& sdp = config.sdp;
  const bool llama = config.model.kind == ModelKind::llama;
  const std::int64_t blocks = llama ? config.model.llama.num_layers : 8;
  if (sdp.protect_first + sdp.protect_last > blocks)
    deck_error(
        origin.at(origin.given("sdp.protect_last") ? "sdp.protect_last" : "sdp.protect_first"),
        fmt::format("sdp.protect_first {} + sdp.protect_last {} is more than the {} blocks of "
                    "the model",
                    sdp.protect_first, sdp.protect_last, blocks));
  if (sdp.regime == Regime::none || !launch.training) return;
  if (sdp.subnetworks > launch.ranks)
    deck_error(origin.at("sdp.subnetworks"),
               fmt::format("sdp.subnetworks is {}, but it must be at most the number of ranks ({})",
                           sdp.subnetworks, launch.ranks));
  const auto n = static_cast<double>(sdp.subnetworks);
  const double holders = sdp.coverage * n;
  if (std::abs(holders - std::round(holders)) > 1e-9 * n || std::round(holders) < 1.0)
    deck_error(
        origin.at("sdp.coverage"),
        fmt::format("sdp.coverage {} x sdp.subnetworks {} is {:.6g}, but it must be a whole number "
                    "from 1 to {}; the nearest coverage is {}",
                    sdp.coverage, sdp.subnetworks, holders, sdp.subnetworks,
                    std::clamp(std::round(holders), 1.0, n) / n));
  const std::int64_t group = sdp.neuron_group;
  const index_t width = llama ? config.model.llama.intermediate_size : config.model.resnet.width;
  if (sdp.level == Level::neuron && group > 0 && width % group != 0)
    deck_error(origin.at("sdp.neuron_group"),
               fmt::format("sdp.neuron_group is {}, which does not divide {} ({}); nearest that "
                           "work: {}",
                           group, llama ? "model.intermediate_size" : "model.width", width,
                           nearest_divisors(width, group)));
}

}  // namespace

void validate(Config const& config, Launch const& launch, Origin const& origin) {
  check_data(config, origin);
  if (config.model.kind == ModelKind::llama) check_llama(config, origin);
  check_batches(config, launch, origin);
  check_schedule(config, origin);
  check_sdp(config, launch, origin);
}

}  // namespace sdp
