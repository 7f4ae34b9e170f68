// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "config/load.hpp"

namespace sdp::test {

/// Changes to a deck: "section.key" to TOML text; an empty text removes the key.
using Changes = std::vector<std::pair<std::string, std::string>>;

/// A deck as text with one key per line, sections in alphabetical order.
inline std::string deck_text(std::map<std::string, std::string> keys, Changes const& changes) {
  for (auto const& [key, value] : changes) keys[key] = value;
  std::string out, section;
  for (auto const& [key, value] : keys) {
    if (value.empty()) continue;
    const auto dot = key.find('.');
    if (key.substr(0, dot) != section) out += "[" + (section = key.substr(0, dot)) + "]\n";
    out += key.substr(dot + 1) + " = " + value + "\n";
  }
  return out;
}

/// The required keys of a small llama.
inline std::string llama_deck(Changes const& changes = {}) {
  return deck_text({{"run.out_dir", "\"runs/x\""},
                    {"model.kind", "\"llama\""},
                    {"model.vocab_size", "128"},
                    {"model.hidden_size", "48"},
                    {"model.intermediate_size", "96"},
                    {"model.num_layers", "2"},
                    {"model.num_heads", "4"},
                    {"data.kind", "\"tokens\""},
                    {"data.train", "[\"train*.bin\"]"},
                    {"train.steps", "20"},
                    {"train.global_batch", "8"},
                    {"train.seq_len", "16"}},
                   changes);
}

/// The required keys of a ResNet-18.
inline std::string resnet_deck(Changes const& changes = {}) {
  return deck_text({{"run.out_dir", "\"runs/x\""},
                    {"model.kind", "\"resnet18\""},
                    {"data.kind", "\"cifar10\""},
                    {"data.train", "[\"data_batch_*.bin\"]"},
                    {"train.steps", "20"},
                    {"train.global_batch", "8"}},
                   changes);
}

inline Config parse(std::string const& text, std::vector<std::string> const& overrides = {},
                    Launch const& launch = {}) {
  return parse_deck(text, "deck.toml", overrides, launch);
}

/// The sentence of the ConfigError that the call throws, or "no error".
template <class Call>
std::string error_of(Call const& call) {
  try {
    call();
  } catch (ConfigError const& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    const std::string text = error.what();
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  }
  return "no error";
}

}  // namespace sdp::test
