// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "config/config.hpp"
#include "config/load.hpp"

namespace sdp {

/// Which keys a deck gave itself, and where: what an error sentence names.
class Origin {
 public:
  explicit Origin(std::string file) : m_file(std::move(file)) {}

  std::string const& file() const { return m_file; }
  /// Notes that a key was given at a line of the file, or on the command line when line is 0.
  void note(std::string const& key, unsigned line) { m_lines[key] = line; }
  bool given(std::string_view key) const { return m_lines.contains(key); }
  /// "deck.toml:12" or "command line" for a key that was given, else "deck.toml".
  std::string at(std::string_view key) const;

 private:
  std::string m_file;
  std::map<std::string, unsigned, std::less<>> m_lines;
};

/// Throws ConfigError with the text on one line: control characters become spaces.
[[noreturn]] void deck_error(std::string const& where, std::string const& problem);

/// Checks what involves more than one key, or a key and the launch. Throws ConfigError.
void validate(Config const& config, Launch const& launch, Origin const& origin);

}  // namespace sdp
