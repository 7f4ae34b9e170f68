// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/index.hpp"

namespace sdp {

struct SampleOptions {
  std::string checkpoint;
  std::string tokenizer;
  std::string prompt;
  index_t tokens = 128;
  double temperature = 0.8;  ///< 0: always the likeliest token
  index_t top_k = 50;        ///< 0: all tokens
  std::uint64_t seed = 1;
};

/// One draw from the softmax of logits / temperature among the k largest logits; u in [0, 1)
/// chooses. Ties go to the lower token. temperature 0 gives the largest logit.
std::int32_t draw_token(std::vector<double> const& logits, double temperature, index_t top_k,
                        double u);

/// Continues the prompt token by token and hands the text to `emit` as it grows, the prompt first.
/// The model sees at most its last max_seq_len tokens. Stops early at the tokenizer's EOS.
/// ConfigError when the tokenizer does not fit the model.
void sample(SampleOptions const& options, std::function<void(std::string const&)> const& emit);

}  // namespace sdp
