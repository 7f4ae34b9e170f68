// SPDX-License-Identifier: Apache-2.0
#include "subnet/mask_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.hpp"
#include "kernels/random/philox.hpp"

namespace sdp {

namespace {

using nlohmann::json;

constexpr int k_format_version = 1;
constexpr std::uintmax_t k_largest_file = 256u << 20;

std::string hex(std::uint64_t value) {
  return fmt::format("{:016x}", value);
}

std::string short_text(json const& value) {
  constexpr std::size_t k_most = 60;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > k_most) text = text.substr(0, k_most) + "...";
  return text;
}

/// One mask document while it is checked; every fault is one sentence that begins with the source.
class Reader {
 public:
  Reader(std::string const& text, std::string const& source, UnitSet const& units)
      : m_source(source), m_units(units) {
    m_document = json::parse(text, nullptr, false);
    if (m_document.is_discarded()) fail("the file is not valid JSON; a mask.json was expected");
    if (!m_document.is_object()) fail("the file is not a JSON object; a mask.json was expected");
  }

  Mask read(int subnetworks) {
    const std::int64_t version = whole(m_document, "format_version", "the mask", 1, 1'000'000);
    if (version != k_format_version)
      fail(fmt::format("format_version is {}; this program reads version {}", version,
                       k_format_version));
    Mask mask;
    mask.subnetworks =
        static_cast<int>(whole(m_document, "subnetworks", "the mask", 1, k_max_subnetworks));
    if (mask.subnetworks != subnetworks)
      fail(fmt::format("the mask is for {} subnetworks; {} were expected (sdp.subnetworks)",
                       mask.subnetworks, subnetworks));
    mask.holders_per_unit =
        static_cast<int>(whole(m_document, "holders_per_unit", "the mask", 1, subnetworks));
    mask.design = design();
    json const& seed = member(m_document, "seed", "the mask");
    if (!seed.is_number_unsigned())
      fail(fmt::format("seed of the mask is {}; a whole number was expected", short_text(seed)));
    mask.seed = seed.get<std::uint64_t>();
    read_units(mask);
    json const& fingerprint = member(m_document, "unit_fingerprint", "the mask");
    const std::string expected = hex(unit_fingerprint(m_units));
    if (fingerprint != expected)
      fail(fmt::format("the mask is for another model: unit_fingerprint is {}; \"{}\" was expected",
                       short_text(fingerprint), expected));
    describe_mask(m_units, mask);
    return mask;
  }

 private:
  [[noreturn]] void fail(std::string const& problem) const {
    throw ConfigError(m_source + ": " + problem);
  }

  json const& member(json const& object, char const* key, std::string const& owner) const {
    const auto found = object.find(key);
    if (found == object.end()) fail(fmt::format("{} has no \"{}\"", owner, key));
    return *found;
  }

  std::int64_t whole(json const& object, char const* key, std::string const& owner,
                     std::int64_t least, std::int64_t most) const {
    json const& value = member(object, key, owner);
    return whole(value, fmt::format("{} of {}", key, owner), least, most);
  }

  std::int64_t whole(json const& value, std::string const& what, std::int64_t least,
                     std::int64_t most) const {
    const bool small = value.is_number_unsigned() &&
                       value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most);
    if (!small || value.get<std::int64_t>() < least)
      fail(fmt::format("{} is {}; a whole number from {} to {} was expected", what,
                       short_text(value), least, most));
    return value.get<std::int64_t>();
  }

  Design design() const {
    json const& word = member(m_document, "design", "the mask");
    for (std::size_t i = 1; i < k_design_names.size(); ++i)
      if (word == std::string(k_design_names[i])) return static_cast<Design>(i);
    fail(fmt::format("design of the mask is {}; a design other than \"auto\" was expected",
                     short_text(word)));
  }

  void read_units(Mask& mask) const {
    json const& list = member(m_document, "units", "the mask");
    if (!list.is_array())
      fail(fmt::format("units of the mask is {}; a list was expected", short_text(list)));
    for (std::size_t u = 0; u < std::min(list.size(), m_units.units.size()); ++u)
      mask.holders.push_back(read_unit(list[u], m_units.units[u], u, mask));
    if (list.size() != m_units.units.size())
      fail(fmt::format("the mask is for {} units; the model has {}", list.size(),
                       m_units.units.size()));
  }

  HolderSet read_unit(json const& entry, Unit const& expected, std::size_t number,
                      Mask const& mask) const {
    const std::string owner = fmt::format("unit {}", number);
    if (!entry.is_object())
      fail(fmt::format("{} is {}; an object was expected", owner, short_text(entry)));
    json const& name = member(entry, "name", owner);
    if (name != expected.name)
      fail(fmt::format("the mask is for another model or level: {} is {}; \"{}\" was expected",
                       owner, short_text(name), expected.name));
    json const& parameters = member(entry, "parameters", owner);
    if (parameters != expected.parameters)
      fail(fmt::format("the mask is for another model: {} has {} parameters; {} were expected",
                       expected.name, short_text(parameters), expected.parameters));
    json const& holders = member(entry, "holders", owner);
    if (!holders.is_array())
      fail(fmt::format("holders of {} is {}; a list of subnetworks was expected", expected.name,
                       short_text(holders)));
    HolderSet set = 0;
    for (json const& holder : holders) {
      const HolderSet bit =
          HolderSet{1} << whole(holder, "a holder of " + expected.name, 0, mask.subnetworks - 1);
      if ((set & bit) != 0)
        fail(fmt::format("{} has holder {} twice", expected.name, short_text(holder)));
      set |= bit;
    }
    if (std::popcount(set) != mask.holders_per_unit)
      fail(fmt::format("{} has {} holders; {} were expected (holders_per_unit)", expected.name,
                       std::popcount(set), mask.holders_per_unit));
    return set;
  }

  std::string const& m_source;
  UnitSet const& m_units;
  json m_document;
};

}  // namespace

std::uint64_t unit_fingerprint(UnitSet const& units) {
  std::string text;
  for (Unit const& unit : units.units) {
    text +=
        fmt::format("{}|{}", unit.name, units.classes[static_cast<std::size_t>(unit.unit_class)]);
    for (RowRange const& rows : unit.rows)
      text += fmt::format("|{}:{}+{}", rows.tensor, rows.begin, rows.count);
    text += fmt::format("|{}\n", unit.parameters);
  }
  return kernels::stream_key(text);
}

std::string mask_to_json(UnitSet const& units, Mask const& mask) {
  std::string out = "{\n";
  const auto line = [&](char const* key, json const& value) {
    out += fmt::format("  \"{}\": {},\n", key, value.dump());
  };
  line("format_version", k_format_version);
  line("subnetworks", mask.subnetworks);
  line("holders_per_unit", mask.holders_per_unit);
  line("coverage", mask.coverage());
  line("design", std::string(design_name(mask.design)));
  line("seed", mask.seed);
  line("holder_sets", mask.distinct_sets().size());
  line("rho", mask.rho);
  line("rho_bound", mask.rho_bound);
  line("unit_fingerprint", hex(unit_fingerprint(units)));
  out += "  \"units\": [";
  for (std::size_t u = 0; u < units.units.size(); ++u) {
    Unit const& unit = units.units[u];
    std::vector<int> holders;
    for (int i = 0; i < mask.subnetworks; ++i)
      if (mask.holds(i, static_cast<int>(u))) holders.push_back(i);
    out +=
        fmt::format("{}\n    {{\"name\": {}, \"class\": {}, \"parameters\": {}, \"holders\": {}}}",
                    u == 0 ? "" : ",", json(unit.name).dump(),
                    json(units.classes[static_cast<std::size_t>(unit.unit_class)]).dump(),
                    unit.parameters, json(holders).dump());
  }
  return out + "\n  ]\n}\n";
}

Mask mask_from_json(std::string const& text, std::string const& source, UnitSet const& units,
                    int subnetworks) {
  return Reader(text, source, units).read(subnetworks);
}

Mask read_mask(std::string const& path, UnitSet const& units, int subnetworks) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed))
    throw ConfigError(path + ": there is no such file; sdp.mask_file must name a mask.json");
  const auto size = std::filesystem::file_size(path, failed);
  if (failed || size > k_largest_file)
    throw ConfigError(path + ": the file is larger than 256 MiB; a mask.json was expected");
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || text.str().size() != size) throw ConfigError(path + ": the file cannot be read");
  return mask_from_json(text.str(), path, units, subnetworks);
}

}  // namespace sdp
