// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.hpp"

namespace sdp::safetensors_json {

/// One entry of a header as written there, nothing of it checked but its form.
struct Entry {
  std::string name;
  std::string type_name;
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// Parses the JSON of a header: an object of entries {dtype, shape, data_offsets} and at most one
/// __metadata__ of strings. Throws ConfigError naming file and tensor for anything else: duplicate
/// keys, negative, fractional or too large numbers, wrong types, text after the object.
std::vector<Entry> parse_header(std::string const& path, std::string const& text);

/// Parses model.safetensors.index.json: tensor name to file name. Throws ConfigError as above.
std::map<std::string, std::string> parse_index(std::string const& path, std::string const& text);

/// The text as a JSON string, quotes included.
std::string json_string(std::string const& text);

/// Bytes of one element of a type of the format, 0 for an unknown one.
std::int64_t element_bytes(std::string_view type_name);

}  // namespace sdp::safetensors_json
