// SPDX-License-Identifier: Apache-2.0
// The schema in words: values as TOML, what is allowed, the resolved deck and the reference deck.
#include <fmt/format.h>

#include <cmath>
#include <type_traits>

#include "config/load.hpp"
#include "config/schema.hpp"

namespace sdp {

namespace {

/// A float of TOML needs a point or an exponent; fmt gives the shortest text with the same bits.
std::string float_text(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string list_text(std::vector<std::string> const& items) {
  std::string out = "[";
  for (auto const& item : items) out += (out.size() > 1 ? ", " : "") + toml_string(item);
  return out + "]";
}

/// "1", "0.5", "1000000000000": without an exponent where the number is whole.
std::string limit_text(double value) {
  return value == std::floor(value) ? fmt::format("{:.0f}", value) : fmt::format("{}", value);
}

std::string range_text(Limits const& limits) {
  const bool low = std::isfinite(limits.min), high = std::isfinite(limits.max);
  std::string out;
  if (low && high && !limits.open_min && !limits.open_max)
    return fmt::format(" from {} to {}", limit_text(limits.min), limit_text(limits.max));
  if (low)
    out += fmt::format(" {} {}", limits.open_min ? "above" : "of at least", limit_text(limits.min));
  if (high)
    out += fmt::format("{} {} {}", low ? " and" : "", limits.open_max ? "below" : "at most",
                       limit_text(limits.max));
  return out;
}

/// "default 64", "default: global_batch / ranks" or "required".
std::string default_text(Key const& key) {
  if (key.required()) return "required";
  return key.rule.empty() ? "default " + value_text(key, Config{})
                          : "default: " + std::string(key.rule);
}

}  // namespace

std::string toml_string(std::string const& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (code < 0x20 || code == 0x7f)
      out += fmt::format("\\u{:04X}", code);
    else
      out += c;
  }
  return out + '"';
}

std::string allowed_text(Key const& key) {
  Config scratch;
  return std::visit(
      [&](auto field) -> std::string {
        using F = decltype(field);
        if constexpr (std::is_same_v<F, bool*>) {
          return "true or false";
        } else if constexpr (std::is_same_v<F, std::int64_t*> ||
                             std::is_same_v<F, std::uint64_t*>) {
          return "an integer" + range_text(key.limits);
        } else if constexpr (std::is_same_v<F, double*>) {
          return "a number" + range_text(key.limits);
        } else if constexpr (std::is_same_v<F, std::string*>) {
          return key.may_be_empty ? "a string" : "a string that is not empty";
        } else if constexpr (std::is_same_v<F, std::vector<std::string>*>) {
          return key.may_be_empty ? "a list of strings" : "a list of at least one string";
        } else {
          std::string out;
          for (std::size_t i = 0; i < field.words.size(); ++i)
            out +=
                fmt::format("{}\"{}\"", i == 0 ? "" : (i + 1 == field.words.size() ? " or " : ", "),
                            field.words[i]);
          return out;
        }
      },
      key.field(scratch));
}

std::string value_text(Key const& key, Config const& config) {
  // The field is only read; the table knows one way to reach a member.
  return std::visit(
      [](auto field) -> std::string {
        using F = decltype(field);
        if constexpr (std::is_same_v<F, bool*>) {
          return *field ? "true" : "false";
        } else if constexpr (std::is_same_v<F, std::int64_t*> ||
                             std::is_same_v<F, std::uint64_t*>) {
          return std::to_string(*field);
        } else if constexpr (std::is_same_v<F, double*>) {
          return float_text(*field);
        } else if constexpr (std::is_same_v<F, std::string*>) {
          return toml_string(*field);
        } else if constexpr (std::is_same_v<F, std::vector<std::string>*>) {
          return list_text(*field);
        } else {
          return toml_string(
              std::string(field.words[static_cast<std::size_t>(field.get(field.member))]));
        }
      },
      key.field(const_cast<Config&>(config)));
}

std::string to_toml(Config const& config) {
  std::string out;
  std::string_view section;
  for (Key const& key : schema()) {
    if (!belongs(key, config.model.kind)) continue;
    if (key.section() != section) {
      section = key.section();
      out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    }
    out += fmt::format("{} = {}\n", key.leaf(), value_text(key, config));
  }
  return out;
}

std::string reference_deck() {
  std::string minimal;
  for (Key const& key : schema())
    if (key.required()) minimal += fmt::format("{} = {}\n", key.name, key.example);
  const Config example = parse_deck(minimal, "reference", {}, Launch{});

  std::string out =
      "# SPDX-License-Identifier: Apache-2.0\n"
      "# Every key of a deck, with its default. Lines that are commented out have a default that\n"
      "# depends on other keys or on the launch, or belong to resnet18. Unknown keys, wrong types "
      "and\n"
      "# values out of range are errors. Keys can be given on the command line too:\n"
      "#   sdp train inputs/reference.toml train.steps=100 optimizer.lr=1e-3\n";
  std::string_view section;
  for (Key const& key : schema()) {
    if (key.section() != section) {
      section = key.section();
      out += fmt::format("\n[{}]\n", section);
    }
    std::string allowed = allowed_text(key);
    allowed.erase(0, allowed.starts_with("an ") ? 3 : allowed.starts_with("a ") ? 2 : 0);
    out += fmt::format("# {}\n#   {}; {}", key.doc, allowed, default_text(key));
    if (key.belongs != Belongs::everywhere)
      out += key.belongs == Belongs::llama ? "; llama only" : "; resnet18 only";
    const bool off = key.belongs == Belongs::resnet18 || !key.rule.empty();
    out += fmt::format("\n{}{} = {}\n", off ? "# " : "", key.leaf(), value_text(key, example));
  }
  return out;
}

}  // namespace sdp
