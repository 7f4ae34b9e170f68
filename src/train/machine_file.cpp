// SPDX-License-Identifier: Apache-2.0
#include "train/machine_file.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.hpp"
#include "config/schema.hpp"
#include "config/toml_parse.hpp"

namespace sdp {

namespace {

struct MachineKey {
  char const* name;
  double Machine::*member;
  double least;
  double most;
};

constexpr MachineKey k_keys[] = {
    {"flops_fp32", &Machine::flops_fp32, 1.0, 1e18},
    {"flops_bf16", &Machine::flops_bf16, 1.0, 1e18},
    {"flops_fp64", &Machine::flops_fp64, 1.0, 1e18},
    {"memory_bandwidth", &Machine::memory_bandwidth, 1.0, 1e18},
    {"node_bandwidth", &Machine::node_bandwidth, 1.0, 1e18},
    {"node_latency", &Machine::node_latency, 0.0, 60.0},
    {"network_bandwidth", &Machine::network_bandwidth, 1.0, 1e18},
    {"network_latency", &Machine::network_latency, 0.0, 60.0},
    {"overlap", &Machine::overlap, 0.0, 1.0},
};

constexpr std::uintmax_t k_largest_file = 1u << 20;
constexpr std::int64_t k_most_ranks_per_node = 1024;

[[noreturn]] void fail(std::string const& source, std::string const& problem) {
  throw ConfigError(source + ": " + problem);
}

void check_keys(toml::table const& table, std::string const& source) {
  std::string known = "name, ranks_per_node, node_memory";
  for (MachineKey const& key : k_keys) known += std::string(", ") + key.name;
  for (auto const& [key, value] : table) {
    const std::string_view name = key.str();
    bool found = name == "name" || name == "ranks_per_node" || name == "node_memory";
    for (MachineKey const& each : k_keys) found |= name == each.name;
    if (!found)
      fail(source, fmt::format("\"{}\" is no key of a machine; allowed are {}", name, known));
  }
}

}  // namespace

Machine parse_machine(std::string_view text, std::string const& source) {
  toml::table table;
  try {
    table = Details::parse_toml(text);
  } catch (Details::TomlError const& error) {
    fail(fmt::format("{}:{}", source, error.where.line), error.what);
  }
  check_keys(table, source);
  Machine machine;
  const auto name = table["name"].value_exact<std::string>();
  if (!name || name->empty()) fail(source, "name must be a string, such as \"8 x H200, NDR\"");
  machine.name = *name;
  const auto ranks = table["ranks_per_node"].value_exact<std::int64_t>();
  if (!ranks || *ranks < 1 || *ranks > k_most_ranks_per_node)
    fail(source,
         fmt::format("ranks_per_node must be a whole number from 1 to {}", k_most_ranks_per_node));
  machine.ranks_per_node = static_cast<int>(*ranks);
  if (toml::node const* node = table.get("node_memory")) {
    const auto shared = node->value_exact<bool>();
    if (!shared) fail(source, "node_memory must be true or false");
    machine.node_memory = *shared;
  }
  for (MachineKey const& key : k_keys) {
    toml::node const* node = table.get(key.name);
    if (node == nullptr)
      fail(source, fmt::format("{} is missing; a number from {} to {} is needed", key.name,
                               key.least, key.most));
    const auto value = node->is_number() ? node->value<double>() : toml::optional<double>{};
    if (!value || !(*value >= key.least && *value <= key.most))
      fail(source, fmt::format("{} must be a number from {} to {}", key.name, key.least, key.most));
    machine.*key.member = *value;
  }
  return machine;
}

std::string machine_text(Machine const& machine) {
  std::string text =
      fmt::format("name = {}\nranks_per_node = {}\nnode_memory = {}\n", toml_string(machine.name),
                  machine.ranks_per_node, machine.node_memory);
  for (MachineKey const& key : k_keys)
    text += fmt::format("{} = {:.4g}\n", key.name, machine.*key.member);
  return text;
}

Machine read_machine(std::string const& path) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed))
    fail(path,
         "there is no such file; --machine must name a TOML file such as "
         "inputs/machines/h200.toml");
  if (std::filesystem::file_size(path, failed) > k_largest_file || failed)
    fail(path, "larger than 1 MiB, which no machine file is");
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) fail(path, "the file cannot be read");
  return parse_machine(text.str(), path);
}

}  // namespace sdp
