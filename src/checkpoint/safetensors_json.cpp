// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors_json.hpp"

#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_set>
#include <utility>

#include "base/error.hpp"
#include "checkpoint/file_io.hpp"

namespace sdp::safetensors_json {

namespace {

using file_io::in_quotes;
using nlohmann::json;

constexpr std::size_t k_most_axes = 32;

/// What both documents share: an event handler that refuses every value, so that a derived handler
/// accepts by overriding, and that knows where in the document it is.
class Handler {
 public:
  using number_integer_t = json::number_integer_t;
  using number_unsigned_t = json::number_unsigned_t;
  using number_float_t = json::number_float_t;
  using string_t = json::string_t;
  using binary_t = json::binary_t;

  Handler(std::string const& path, char const* what) : m_path(path), m_what(what) {}
  virtual ~Handler() = default;

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a boolean"); }
  bool number_integer(number_integer_t value) {
    return unexpected("the negative number " + std::to_string(value));
  }
  bool number_float(number_float_t, string_t const& text) {
    return unexpected("the number " + in_quotes(text) + " that is no 64-bit integer");
  }
  bool binary(binary_t&) { return unexpected("binary data"); }
  bool number_unsigned(number_unsigned_t value) {
    on_number(value);
    return true;
  }
  bool string(string_t& text) {
    on_string(text);
    return true;
  }
  bool key(string_t& text) {
    on_key(text);
    return true;
  }
  bool start_object(std::size_t) {
    on_start_object();
    ++m_depth;
    return true;
  }
  bool end_object() {
    --m_depth;
    on_end_object();
    return true;
  }
  bool start_array(std::size_t) {
    on_start_array();
    return true;
  }
  bool end_array() {
    on_end_array();
    return true;
  }
  bool parse_error(std::size_t position, std::string const&, json::exception const&) {
    throw ConfigError(m_path + ": the " + m_what + " is not valid JSON at its byte " +
                      std::to_string(position));
  }

 protected:
  virtual void on_number(std::uint64_t value) { unexpected("the number " + std::to_string(value)); }
  virtual void on_string(std::string& text) { unexpected("the string " + in_quotes(text)); }
  virtual void on_key(std::string& text) = 0;
  virtual void on_start_object() = 0;
  virtual void on_end_object() {}
  virtual void on_start_array() { unexpected("a list"); }
  virtual void on_end_array() {}
  /// Where the document is, for messages.
  virtual std::string place() const = 0;

  bool unexpected(std::string const& found) const {
    throw ConfigError(m_path + ": " + place() + " is " + found + ", which is not allowed there");
  }
  [[noreturn]] void fail(std::string const& text) const { throw ConfigError(m_path + ": " + text); }
  int depth() const { return m_depth; }

 private:
  std::string const& m_path;
  char const* m_what;
  int m_depth = 0;
};

class HeaderHandler final : public Handler {
 public:
  explicit HeaderHandler(std::string const& path) : Handler(path, "safetensors header") {}
  std::vector<Entry> entries;

 private:
  enum class Field { none, dtype, shape, data_offsets };

  std::string place() const override {
    if (depth() == 0) return "the safetensors header";
    const std::string owner = m_metadata ? "__metadata__" : "tensor " + in_quotes(m_name);
    if (depth() == 1 || m_field_name.empty()) return owner;
    return m_field_name + " of " + owner;
  }

  void on_key(std::string& text) override {
    if (depth() == 1) {
      m_name = text;
      m_field_name.clear();
      m_metadata = text == "__metadata__";
      if (!m_names.insert(text).second) fail("the header names " + in_quotes(text) + " twice");
      if (!m_metadata) entries.push_back({text, {}, {}, 0, 0});
      m_fields.clear();
      return;
    }
    m_field_name = m_metadata ? in_quotes(text) : text;
    if (!m_fields.insert(text).second)
      fail((m_metadata ? "__metadata__" : "tensor " + in_quotes(m_name)) + " has the key " +
           in_quotes(text) + " twice");
    if (m_metadata) return;
    m_field = text == "dtype"          ? Field::dtype
              : text == "shape"        ? Field::shape
              : text == "data_offsets" ? Field::data_offsets
                                       : Field::none;
    if (m_field == Field::none)
      fail("tensor " + in_quotes(m_name) + " has the unknown key " + in_quotes(text) +
           "; dtype, shape and data_offsets are expected");
  }
  void on_start_object() override {
    if (depth() >= 2) unexpected("an object");
    m_field = Field::none;
  }
  void on_end_object() override {
    if (depth() == 0 || m_metadata) return;
    for (char const* needed : {"dtype", "shape", "data_offsets"})
      if (!m_fields.count(needed)) fail("tensor " + in_quotes(m_name) + " lacks " + needed);
    if (m_offsets != 2)
      fail("tensor " + in_quotes(m_name) + " has " + std::to_string(m_offsets) +
           " data_offsets; two are expected");
    m_offsets = 0;
  }
  void on_start_array() override {
    const bool list_expected = m_field == Field::shape || m_field == Field::data_offsets;
    if (depth() != 2 || m_metadata || !list_expected || m_in_list) unexpected("a list");
    m_in_list = true;
  }
  void on_end_array() override { m_in_list = false; }
  void on_number(std::uint64_t value) override {
    if (!m_in_list) unexpected("the number " + std::to_string(value));
    Entry& entry = entries.back();
    if (m_field == Field::shape) {
      if (entry.shape.size() == k_most_axes)
        fail("tensor " + in_quotes(m_name) + " has more than " + std::to_string(k_most_axes) +
             " axes");
      entry.shape.push_back(value);
    } else {
      if (m_offsets == 0) entry.begin = value;
      if (m_offsets == 1) entry.end = value;
      ++m_offsets;
    }
  }
  void on_string(std::string& text) override {
    if (depth() == 2 && m_metadata) return;
    if (depth() != 2 || m_field != Field::dtype) unexpected("the string " + in_quotes(text));
    entries.back().type_name = text;
  }

  std::unordered_set<std::string> m_names;
  std::set<std::string> m_fields;  ///< of the entry being read
  std::string m_name;
  std::string m_field_name;
  bool m_metadata = false;
  bool m_in_list = false;
  Field m_field = Field::none;
  std::size_t m_offsets = 0;
};

/// The index: {"metadata": {...}, "weight_map": {name: file}}; other keys are passed over.
class IndexHandler final : public Handler {
 public:
  explicit IndexHandler(std::string const& path) : Handler(path, "index") {}
  std::map<std::string, std::string> weight_map;
  bool found = false;

 private:
  std::string place() const override {
    return depth() == 0 ? "the index"
           : m_in_map   ? "the file of " + in_quotes(m_key)
                        : in_quotes(m_key);
  }
  void on_key(std::string& text) override {
    m_key = text;
    if (depth() == 1) {
      m_in_map = text == "weight_map";
      if (m_in_map && std::exchange(found, true)) fail("the index has weight_map twice");
    } else if (m_in_map && weight_map.count(text)) {
      fail("the index names tensor " + in_quotes(text) + " twice");
    }
  }
  void on_start_object() override {
    if (m_in_map && depth() != 1) unexpected("an object");
  }
  void on_string(std::string& text) override {
    if (!m_in_map) return;
    if (depth() != 2) unexpected("the string " + in_quotes(text));
    weight_map.emplace(m_key, text);
  }
  void on_number(std::uint64_t value) override {
    if (m_in_map || depth() == 0) unexpected("the number " + std::to_string(value));
  }
  void on_start_array() override {
    if (m_in_map || depth() == 0) unexpected("a list");
  }

  std::string m_key;
  bool m_in_map = false;
};

}  // namespace

std::vector<Entry> parse_header(std::string const& path, std::string const& text) {
  HeaderHandler handler(path);
  json::sax_parse(text, &handler);
  return std::move(handler.entries);
}

std::map<std::string, std::string> parse_index(std::string const& path, std::string const& text) {
  IndexHandler handler(path);
  json::sax_parse(text, &handler);
  if (!handler.found) throw ConfigError(path + " has no weight_map");
  return std::move(handler.weight_map);
}

std::string json_string(std::string const& text) {
  return json(text).dump();
}

std::int64_t element_bytes(std::string_view type_name) {
  static constexpr std::array<std::pair<std::string_view, std::int64_t>, 17> k_types{
      {{"BOOL", 1},
       {"U8", 1},
       {"I8", 1},
       {"F8_E5M2", 1},
       {"F8_E4M3", 1},
       {"F8_E8M0", 1},
       {"I16", 2},
       {"U16", 2},
       {"F16", 2},
       {"BF16", 2},
       {"I32", 4},
       {"U32", 4},
       {"F32", 4},
       {"F64", 8},
       {"I64", 8},
       {"U64", 8},
       {"C64", 8}}};
  for (auto const& [name, bytes] : k_types)
    if (name == type_name) return bytes;
  return 0;
}

}  // namespace sdp::safetensors_json
