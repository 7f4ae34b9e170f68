// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/config.hpp"
#include "config/load.hpp"

namespace sdp {

/// A member of type enumeration, as the index of one of its words.
struct Choice {
  std::span<std::string_view const> words;
  void* member;
  int (*get)(void const* member);
  void (*set)(void* member, int index);
};

/// Where a key's value lives in a Config; the alternative is the key's type.
using Field = std::variant<bool*, std::int64_t*, std::uint64_t*, double*, std::string*,
                           std::vector<std::string>*, Choice>;

/// Allowed values of a number; `open_*` excludes the end itself.
struct Limits {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;
  bool open_max = false;
};

/// Which decks may have a key: image decks have no vocabulary and token decks no channels.
enum class Belongs { everywhere, llama, resnet18 };

/// One key of the deck, declared once: reading, writing, limits, defaults and documentation follow.
struct Key {
  std::string_view name;  ///< "section.key"
  Field (*field)(Config&);
  std::string_view doc;
  Limits limits{};
  Belongs belongs = Belongs::everywhere;
  /// TOML of a value for inputs/reference.toml; a key with an example has no default.
  std::string_view example{};
  /// A default that depends on other keys or the launch, in words and as a rule. Keys without one
  /// start from Config{}. Rules run in schema order after all keys of the deck are set.
  std::string_view rule{};
  void (*derive)(Config&, Launch const&) = nullptr;
  bool may_be_empty = true;  ///< for strings and lists

  bool required() const { return !example.empty(); }
  std::string_view section() const { return name.substr(0, name.find('.')); }
  std::string_view leaf() const { return name.substr(name.find('.') + 1); }
};

/// Every key, section by section, in the order of inputs/reference.toml.
std::span<Key const> schema();

/// nullptr when there is no such key.
Key const* find_key(std::string_view name);
bool is_section(std::string_view name);

/// The key of the schema, or the section, that was probably meant; empty when nothing is near.
std::string nearest_name(std::string_view name);

bool belongs(Key const& key, ModelKind kind);

/// What a value must be, to follow "must be": "an integer from 1 to 64", "true or false".
std::string allowed_text(Key const& key);

/// A text as a basic string of TOML, in quotes and escaped.
std::string toml_string(std::string const& text);

/// The value of a key as TOML; numbers read back to the same bits.
std::string value_text(Key const& key, Config const& config);

/// A text of inputs/reference.toml: every key with its documentation, default and allowed values.
/// Keys without a fixed default, and keys of the other model kind, are commented out.
std::string reference_deck();

}  // namespace sdp
