// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <random>
#include <string>

namespace sdp::test {

/// At least `bytes` bytes of lines of English-like words, the same for the same seed. Words are
/// made of syllables, so that there are many and a few are frequent.
inline std::string english(std::size_t bytes, unsigned seed) {
  static constexpr std::array<char const*, 12> k_common = {
      "the", "of", "and", "to", "in", "is", "for", "it", "with", "that", "from", "as"};
  static constexpr std::array<char const*, 16> k_syllables = {
      "ba", "con", "der", "el",  "fi", "gra", "hu",   "in",
      "jo", "ker", "lo",  "men", "nu", "pro", "tion", "s"};
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < bytes) {
    if (random() % 2 == 0) {
      text += k_common[random() % k_common.size()];
    } else {
      for (unsigned n = 1 + random() % 3; n > 0; --n)
        text += k_syllables[random() % k_syllables.size()];
    }
    const unsigned mark = random() % 40;
    text += mark == 0   ? ".\n"
            : mark == 1 ? ", "
            : mark == 2 ? "\n\n    "
            : mark == 3 ? " 42 "
                        : " ";
  }
  return text;
}

}  // namespace sdp::test
