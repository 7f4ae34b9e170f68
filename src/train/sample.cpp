// SPDX-License-Identifier: Apache-2.0
#include "train/sample.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.hpp"
#include "base/types.hpp"
#include "checkpoint/checkpoint.hpp"
#include "data/tokenizer.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/random/philox.hpp"
#include "models/llama.hpp"

namespace sdp {

std::int32_t draw_token(std::vector<double> const& logits, double temperature, index_t top_k,
                        double u) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto count = static_cast<index_t>(logits.size());
  const index_t k = temperature == 0.0 ? 1 : (top_k > 0 ? std::min(top_k, count) : count);
  std::partial_sort(order.begin(), order.begin() + k, order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
                    });
  if (k == 1) return order[0];
  std::vector<double> weights;
  double total = 0;
  for (index_t i = 0; i < k; ++i) {
    weights.push_back(std::exp((logits[order[i]] - logits[order[0]]) / temperature));
    total += weights.back();
  }
  double left = u * total;
  for (index_t i = 0; i < k; ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[k - 1];
}

void sample(SampleOptions const& options, std::function<void(std::string const&)> const& emit) {
  const CheckpointReader reader(options.checkpoint);
  LlamaConfig const& config = reader.info().header.model.llama;
  Tokenizer tokenizer(options.tokenizer);
  if (tokenizer.vocab_size() > config.vocab_size)
    throw ConfigError("tokenizer \"" + options.tokenizer + "\" has " +
                      std::to_string(tokenizer.vocab_size()) + " pieces, the model of \"" +
                      options.checkpoint + "\" only " + std::to_string(config.vocab_size));
  if (!(options.temperature >= 0.0)) throw ConfigError("--temperature must be a number from 0 up");
  const ExecSpace exec;
  const ParameterTable table(llama_tensors(config));
  reader.check_tensors(table.tensors());
  View1<float> weights(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::train::weights"),
                       table.size());
  reader.read(k_group_model, table, weights);
  Llama<float> model(config, table, 1, config.max_seq_len, Recompute::none, false);
  View2<std::int32_t> window("sdp::train::sample_window", 1, config.max_seq_len);
  View2<float> logits("sdp::train::sample_logits", 1, config.vocab_size);
  auto host_window = Kokkos::create_mirror_view(window);
  auto host_logits = Kokkos::create_mirror_view(logits);

  std::vector<std::int32_t> text;
  if (tokenizer.bos_id() >= 0) text.push_back(tokenizer.bos_id());
  tokenizer.encode(options.prompt, false, text);
  if (text.empty())
    throw ConfigError("sample needs --prompt: the tokenizer has no BOS to start from");
  std::string shown;
  const auto show = [&] {
    // A piece may end inside a UTF-8 character; only whole ones are shown.
    const std::string now = tokenizer.decode(text);
    std::size_t end = now.size();
    if (const auto mark = now.rfind("\xEF\xBF\xBD"); mark != std::string::npos && mark + 3 == end)
      end = mark;
    if (end > shown.size() && now.compare(0, shown.size(), shown) == 0)
      emit(now.substr(shown.size(), end - shown.size()));
    if (end > shown.size()) shown = now.substr(0, end);
  };
  show();
  std::vector<double> values(static_cast<std::size_t>(config.vocab_size));
  for (index_t n = 0; n < options.tokens; ++n) {
    const auto length = static_cast<index_t>(text.size());
    const index_t seen = std::min(length, config.max_seq_len);
    for (index_t i = 0; i < seen; ++i) host_window(0, i) = text[length - seen + i];
    Kokkos::deep_copy(window, host_window);
    model.forward(exec, weights, typename Llama<float>::Tokens(window.data(), 1, seen));
    model.logits(exec, weights, seen - 1, logits);
    kernels::fence(exec, "sdp::train::sample");
    Kokkos::deep_copy(host_logits, logits);
    for (index_t v = 0; v < config.vocab_size; ++v) values[v] = host_logits(0, v);
    // Ids past the tokenizer's pad the vocabulary and have no text.
    for (index_t v = tokenizer.vocab_size(); v < config.vocab_size; ++v) values[v] = -INFINITY;
    const auto bits = kernels::stream_bits(options.seed, kernels::stream_key("sdp::train::sample"),
                                           static_cast<std::uint64_t>(n));
    const double u = static_cast<double>(bits[0]) * 0x1p-32;
    const std::int32_t next = draw_token(values, options.temperature, options.top_k, u);
    if (next == tokenizer.eos_id()) break;
    text.push_back(next);
    show();
  }
}

}  // namespace sdp
