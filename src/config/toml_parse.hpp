// SPDX-License-Identifier: Apache-2.0
#pragma once

// The TOML parser, for sources that read TOML and no header. Its internal checks guard against a
// few malformed texts,
// "[#" among them, that would be undefined behaviour where NDEBUG removes the checks and an abort
// where it does not. Here they throw in every build.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace sdp::Details {
/// A check inside the TOML parser failed.
struct TomlCheckFailed {};

constexpr void check_toml(bool passed) {
  if (!passed) throw TomlCheckFailed{};
}
}  // namespace sdp::Details

#undef NDEBUG
#define TOML_ASSERT(expression) ::sdp::Details::check_toml(static_cast<bool>(expression))
#include <toml++/toml.h>

namespace sdp::Details {

/// A text that is not TOML, and why.
struct TomlError {
  toml::source_position where;
  std::string what;
};

/// The line that makes the parser's check fail: the last of the shortest run of leading lines that
/// does. Everything before it is well formed, so the property is monotonic in the number of lines.
inline toml::source_index line_of_failed_check(std::string_view text) {
  std::vector<std::size_t> ends;
  for (std::size_t i = 0; i < text.size(); ++i)
    if (text[i] == '\n') ends.push_back(i + 1);
  const auto fails = [&](std::size_t end) {
    try {
      (void)toml::parse(text.substr(0, end));
    } catch (TomlCheckFailed const&) {
      return true;
    } catch (toml::parse_error const&) {
      // The cut fell inside a value.
    }
    return false;
  };
  const auto first =
      std::partition_point(ends.begin(), ends.end(), [&](std::size_t end) { return !fails(end); });
  return static_cast<toml::source_index>(first - ends.begin() + 1);
}

/// The line of the first name of more than k_most_dots + 1 parts, 0 where there is none. The parser
/// makes a table of each part and goes through tables by recursion, to the end of the stack.
inline toml::source_index line_of_long_name(std::string_view text) {
  constexpr int k_most_dots = 32;
  toml::source_index line = 1;
  int dots = 0;
  char quote = '\0';
  bool comment = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      dots = 0;
      quote = '\0';
      comment = false;
    } else if (comment) {
      continue;
    } else if (quote != '\0') {
      if (c == quote)
        quote = '\0';
      else if (c == '\\' && quote == '"' && i + 1 < text.size() && text[i + 1] != '\n')
        ++i;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#') {
      comment = true;
    } else if (c == '.') {
      if (++dots > k_most_dots) return line;
    } else if (std::string_view(",=[]{}").find(c) != std::string_view::npos) {
      dots = 0;
    }
  }
  return 0;
}

/// Parses a text. Throws TomlError with line and column (column 0 when it is not known).
inline toml::table parse_toml(std::string_view text) {
  if (const auto line = line_of_long_name(text); line != 0)
    throw TomlError{{line, 0}, "a name has more parts than any in use"};
  try {
    return toml::parse(text);
  } catch (toml::parse_error const& error) {
    throw TomlError{error.source().begin, std::string(error.description())};
  } catch (TomlCheckFailed const&) {
    throw TomlError{{line_of_failed_check(text), 0}, "the line cannot be understood"};
  }
}

}  // namespace sdp::Details
