// SPDX-License-Identifier: Apache-2.0
#include "config/load.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/error.hpp"
#include "config/schema.hpp"
#include "config/supported.hpp"
#include "config/toml_parse.hpp"
#include "config/validate.hpp"

namespace sdp {

namespace {

constexpr std::size_t k_deck_bytes_max = 16u << 20;

/// Text of a deck in an error: at most 60 bytes, cut at a character.
std::string shortened(std::string text) {
  constexpr std::size_t k_max = 60;
  if (text.size() <= k_max) return text;
  std::size_t end = k_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

std::string_view type_text(toml::node const& node) {
  switch (node.type()) {
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number with a point";
    case toml::node_type::boolean:
      return "a boolean";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::table:
      return "a table";
    default:
      return "a date or time";
  }
}

/// "\"abc\" (a string)"
std::string found_text(toml::node const& node) {
  std::ostringstream out;
  node.visit([&](auto const& value) {
    using N = std::decay_t<decltype(value)>;
    if constexpr (toml::is_table<N> || toml::is_array<N>)
      out << toml::toml_formatter{value, toml::format_flags::none};
    else if constexpr (toml::is_string<N>)
      out << toml_string(*value);
    else
      out << value;
  });
  std::string text = out.str();
  if (node.is_table() && text.find('\n') != std::string::npos) text = "{...}";
  return fmt::format("{} ({})", shortened(std::move(text)), type_text(node));
}

[[noreturn]] void unknown_key(std::string const& where, std::string const& name) {
  const std::string nearest = nearest_name(name);
  deck_error(where, fmt::format("{} is not a key of a deck{}", shortened(name),
                                nearest.empty() ? "; inputs/reference.toml lists them all"
                                                : "; did you mean " + nearest + "?"));
}

/// The values of a deck by key, after the command line has had its say.
class Deck {
 public:
  Deck(std::string_view text, std::string const& source) : m_origin(source) {
    try {
      m_file = Details::parse_toml(text);
    } catch (Details::TomlError const& error) {
      deck_error(fmt::format("{}:{}:{}", source, error.where.line, error.where.column),
                 fmt::format("not valid TOML: {}", error.what));
    }
    // Tables are sorted by name: report the first fault of the file, not of the alphabet.
    std::vector<std::pair<std::string, toml::node const*>> entries;
    for (auto const& [section, node] : m_file) {
      std::string name(section.str());
      if (!is_section(name) || !node.is_table()) {
        entries.emplace_back(name, &node);
        continue;
      }
      for (auto const& [leaf, value] : *node.as_table())
        entries.emplace_back(name + "." + std::string(leaf.str()), &value);
    }
    std::ranges::stable_sort(entries, {}, [](auto const& e) { return e.second->source().begin; });
    for (auto const& [name, node] : entries) {
      const unsigned line = node->source().begin.line;
      const std::string where = line ? fmt::format("{}:{}", source, line) : source;
      if (is_section(name))
        deck_error(where, fmt::format("{} is {}, but [{}] is a section with keys", name,
                                      found_text(*node), name));
      if (!find_key(name)) unknown_key(where, name);
      m_origin.note(name, line);
      m_values.insert_or_assign(name, node);
    }
  }

  /// Applies "section.key=value".
  void override_with(std::string const& text) {
    const std::string where = fmt::format("command line, {}", shortened(text));
    const auto equals = text.find('=');
    if (equals == std::string::npos) deck_error(where, "an override is written section.key=value");
    const auto trim = [](std::string part) {
      const auto first = part.find_first_not_of(" \t");
      const auto last = part.find_last_not_of(" \t");
      return first == std::string::npos ? std::string() : part.substr(first, last - first + 1);
    };
    const std::string name = trim(text.substr(0, equals));
    const std::string value = trim(text.substr(equals + 1));
    if (is_section(name))
      deck_error(where, fmt::format("{} is a section; name a key in it, section.key=value", name));
    if (!find_key(name)) unknown_key(where, name);
    m_overrides.push_back(std::make_unique<toml::table>(override_value(where, value)));
    m_origin.note(name, 0);
    m_values.insert_or_assign(name, m_overrides.back()->get("value"));
  }

  toml::node const* find(std::string_view name) const {
    const auto found = m_values.find(name);
    return found == m_values.end() ? nullptr : found->second;
  }
  Origin const& origin() const { return m_origin; }

 private:
  static toml::table override_value(std::string const& where, std::string const& value) {
    try {
      auto table = Details::parse_toml("value = " + value);
      if (table.size() == 1) return table;
    } catch (Details::TomlError const&) {
      // Not TOML: a string.
    }
    try {
      // Checks that the bytes are text; a comment has no escapes to interpret, and is one line.
      std::string comment = "# " + value;
      std::ranges::replace(comment, '\n', ' ');
      (void)Details::parse_toml(comment);
    } catch (Details::TomlError const&) {
      deck_error(where, "the value is not valid UTF-8 text");
    }
    return toml::table{{"value", value}};
  }

  toml::table m_file;
  std::vector<std::unique_ptr<toml::table>> m_overrides;
  std::map<std::string, toml::node const*, std::less<>> m_values;
  Origin m_origin;
};

[[noreturn]] void wrong_value(Key const& key, toml::node const& node, Origin const& origin) {
  deck_error(origin.at(key.name), fmt::format("{} is {}, but it must be {}", key.name,
                                              found_text(node), allowed_text(key)));
}

bool within(double value, Limits const& limits) {
  return std::isfinite(value) && value >= limits.min && value <= limits.max &&
         !(limits.open_min && value == limits.min) && !(limits.open_max && value == limits.max);
}

bool within(std::int64_t value, Limits const& limits) {
  // The limits of integer keys are whole, closed and at most 2^53.
  return value >= static_cast<std::int64_t>(limits.min) &&
         value <= static_cast<std::int64_t>(limits.max);
}

/// Writes the value of a node into its member; false when type or range do not fit.
bool assign(Key const& key, toml::node const& node, Config& config) {
  return std::visit(
      [&](auto field) -> bool {
        using F = decltype(field);
        if constexpr (std::is_same_v<F, bool*>) {
          if (!node.is_boolean()) return false;
          *field = **node.as_boolean();
        } else if constexpr (std::is_same_v<F, std::int64_t*> ||
                             std::is_same_v<F, std::uint64_t*>) {
          if (!node.is_integer() || !within(**node.as_integer(), key.limits)) return false;
          *field = static_cast<std::remove_pointer_t<F>>(**node.as_integer());
        } else if constexpr (std::is_same_v<F, double*>) {
          if (!node.is_number()) return false;
          const double value = node.is_integer() ? static_cast<double>(**node.as_integer())
                                                 : **node.as_floating_point();
          if (!within(value, key.limits)) return false;
          *field = value;
        } else if constexpr (std::is_same_v<F, std::string*>) {
          if (!node.is_string() || (!key.may_be_empty && (*node.as_string())->empty()))
            return false;
          *field = **node.as_string();
        } else if constexpr (std::is_same_v<F, std::vector<std::string>*>) {
          auto const* list = node.as_array();
          if (!list || (!key.may_be_empty && list->empty())) return false;
          std::vector<std::string> items;
          for (auto const& item : *list) {
            if (!item.is_string()) return false;
            items.push_back(**item.as_string());
          }
          *field = std::move(items);
        } else {
          if (!node.is_string()) return false;
          const auto found = std::ranges::find(field.words, std::string_view(**node.as_string()));
          if (found == field.words.end()) return false;
          field.set(field.member, static_cast<int>(found - field.words.begin()));
        }
        return true;
      },
      key.field(config));
}

void set_key(Key const& key, Deck const& deck, Config& config) {
  if (auto const* node = deck.find(key.name); node && !assign(key, *node, config))
    wrong_value(key, *node, deck.origin());
}

void require_key(Key const& key, Deck const& deck) {
  if (key.required() && !deck.find(key.name))
    deck_error(deck.origin().file(),
               fmt::format("{} is missing; it must be {}", key.name, allowed_text(key)));
}

}  // namespace

std::string read_deck(std::string const& path) {
  const auto unreadable = [&](int code) {
    deck_error(path, fmt::format("cannot read the deck: {}", std::strerror(code)));
  };
  if (path.empty()) deck_error("command line", "no deck was named; a TOML file is expected");
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) unreadable(errno);
  if (S_ISDIR(info.st_mode)) deck_error(path, "a folder was given, but a deck is a TOML file");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) unreadable(errno ? errno : EIO);
  std::string text;
  std::vector<char> block(1 << 16);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0) {
    text.append(block.data(), static_cast<std::size_t>(file.gcount()));
    if (text.size() > k_deck_bytes_max)
      deck_error(path, "larger than 16 MiB, which no deck is; a TOML file is expected");
  }
  if (file.bad()) unreadable(errno ? errno : EIO);
  return text;
}

Config parse_deck(std::string_view text, std::string const& source,
                  std::vector<std::string> const& overrides, Launch const& launch) {
  Deck deck(text, source);
  for (auto const& item : overrides) deck.override_with(item);

  Config config;
  Key const& kind = *find_key("model.kind");
  require_key(kind, deck);
  set_key(kind, deck, config);
  for (Key const& key : schema())
    if (deck.find(key.name) && !belongs(key, config.model.kind))
      deck_error(deck.origin().at(key.name),
                 fmt::format("{} belongs to model.kind \"{}\", but model.kind is \"{}\"", key.name,
                             key.belongs == Belongs::llama ? "llama" : "resnet18",
                             key.belongs == Belongs::llama ? "resnet18" : "llama"));
  for (Key const& key : schema()) set_key(key, deck, config);
  for (Key const& key : schema())
    if (belongs(key, config.model.kind)) require_key(key, deck);
  for (Key const& key : schema())
    if (key.derive && belongs(key, config.model.kind) && !deck.find(key.name))
      key.derive(config, launch);
  validate(config, launch, deck.origin());
  return config;
}

Config load_deck(std::string const& path, std::vector<std::string> const& overrides,
                 Launch const& launch) {
  Config config = parse_deck(read_deck(path), path, overrides, launch);
  try {
    require_supported(config);
  } catch (ConfigError const& error) {
    deck_error(path, error.what());
  }
  return config;
}

}  // namespace sdp
