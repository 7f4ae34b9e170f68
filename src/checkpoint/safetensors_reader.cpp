// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "base/error.hpp"
#include "checkpoint/element_convert.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/safetensors.hpp"
#include "checkpoint/safetensors_json.hpp"

namespace sdp {

namespace fs = std::filesystem;
using file_io::in_quotes;
using file_io::shape_text;

namespace {

constexpr std::int64_t k_longest_header = 100'000'000;
constexpr std::int64_t k_longest_index = 100'000'000;
constexpr std::int64_t k_buffer_bytes = std::int64_t{1} << 22;

TensorType type_of(std::string const& name) {
  if (name == "F64") return TensorType::f64;
  if (name == "F32") return TensorType::f32;
  if (name == "F16") return TensorType::f16;
  if (name == "BF16") return TensorType::bf16;
  return TensorType::other;
}

std::int64_t bytes_of(TensorType type) {
  return type == TensorType::f64 ? 8 : type == TensorType::f32 ? 4 : 2;
}

/// Checks type, shape and size of one entry on its own.
SafetensorsTensor check_entry(std::string const& path, safetensors_json::Entry const& entry) {
  const std::string where = path + ": tensor " + in_quotes(entry.name);
  const std::int64_t width = safetensors_json::element_bytes(entry.type_name);
  if (width == 0)
    throw ConfigError(where + " has the unknown element type " + in_quotes(entry.type_name));
  SafetensorsTensor tensor;
  tensor.name = entry.name;
  tensor.type = type_of(entry.type_name);
  tensor.type_name = entry.type_name;
  std::int64_t elements = 1;
  bool overflow = false;
  for (std::uint64_t extent : entry.shape) {
    overflow = overflow || extent > static_cast<std::uint64_t>(INT64_MAX) ||
               __builtin_mul_overflow(elements, static_cast<std::int64_t>(extent), &elements);
    tensor.shape.push_back(static_cast<index_t>(extent));
  }
  overflow = overflow || __builtin_mul_overflow(elements, width, &tensor.bytes);
  if (overflow)
    throw ConfigError(where + " has the shape " + shape_text(entry.shape) +
                      ", whose size overflows 64 bits");
  tensor.elements = elements;
  return tensor;
}

/// Checks that the data of all entries fill [0, data_bytes) once.
void check_offsets(std::string const& path, std::vector<safetensors_json::Entry> const& entries,
                   std::vector<SafetensorsTensor> const& tensors, std::uint64_t data_bytes) {
  std::vector<std::size_t> order(entries.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(entries[a].begin, entries[a].end) <
           std::pair(entries[b].begin, entries[b].end);
  });
  std::uint64_t filled = 0;
  std::string previous;
  for (std::size_t i : order) {
    safetensors_json::Entry const& entry = entries[i];
    const std::string where = path + ": tensor " + in_quotes(entry.name);
    const std::string offsets =
        "data_offsets [" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + "]";
    if (entry.begin > entry.end) throw ConfigError(where + " has the reversed " + offsets);
    if (entry.end > data_bytes)
      throw ConfigError(where + " has the " + offsets + " beyond the " +
                        std::to_string(data_bytes) + " bytes of data in the file");
    const auto bytes = static_cast<std::uint64_t>(tensors[i].bytes);
    if (entry.end - entry.begin != bytes)
      throw ConfigError(where + " has the " + offsets + ", " +
                        std::to_string(entry.end - entry.begin) + " bytes, but its shape " +
                        shape_text(entry.shape) + " of " + entry.type_name + " needs " +
                        std::to_string(bytes));
    if (entry.begin < filled)
      throw ConfigError(where + " has the " + offsets + ", which overlap those of tensor " +
                        in_quotes(previous));
    if (entry.begin > filled)
      throw ConfigError(where + " has the " + offsets + ", which leave a hole from " +
                        std::to_string(filled));
    filled = entry.end;
    previous = entry.name;
  }
  if (filled != data_bytes)
    throw ConfigError(path + " has " + std::to_string(data_bytes) +
                      " bytes of data, but its tensors fill only " + std::to_string(filled));
}

template <class T>
void convert(TensorType type, char const* from, std::int64_t count, T* to) {
  switch (type) {
    case TensorType::f64:
      return widen<double>(from, count, to);
    case TensorType::f32:
      return widen<float>(from, count, to);
    case TensorType::f16:
      return widen_half(from, count, to);
    case TensorType::bf16:
      return widen_bf16(from, count, to);
    case TensorType::other:
      break;
  }
  throw std::logic_error("convert: element type without a conversion");
}

}  // namespace

struct SafetensorsReader::File {
  file_io::File file;
};

SafetensorsReader::SafetensorsReader(std::vector<std::string> files) {
  std::vector<std::pair<SafetensorsTensor, Place>> found;
  for (std::string const& path : files) {
    file_io::File file = file_io::File::open(path);
    if (file.size() < 8)
      throw ConfigError(path + " has " + std::to_string(file.size()) +
                        " bytes; a safetensors file starts with a header length of 8 bytes");
    std::uint64_t length = 0;
    file.read(0, &length, 8);
    if (length > static_cast<std::uint64_t>(k_longest_header))
      throw ConfigError(path + " declares a safetensors header of " + std::to_string(length) +
                        " bytes; at most " + std::to_string(k_longest_header) + " are allowed");
    const auto header_bytes = static_cast<std::int64_t>(length);
    if (header_bytes > file.size() - 8)
      throw ConfigError(path + " declares a safetensors header of " + std::to_string(length) +
                        " bytes, but has only " + std::to_string(file.size() - 8) +
                        " bytes after the length");
    std::string header(static_cast<std::size_t>(header_bytes), '\0');
    file.read(8, header.data(), header_bytes);
    if (header.empty() || header.front() != '{')
      throw ConfigError(path + " is no safetensors file: its header does not start with {");
    const auto entries = safetensors_json::parse_header(path, header);
    std::vector<SafetensorsTensor> tensors;
    for (auto const& entry : entries) tensors.push_back(check_entry(path, entry));
    const std::int64_t data_begin = 8 + header_bytes;
    check_offsets(path, entries, tensors, static_cast<std::uint64_t>(file.size() - data_begin));
    for (std::size_t i = 0; i < entries.size(); ++i)
      found.emplace_back(
          std::move(tensors[i]),
          Place{m_files.size(), data_begin + static_cast<std::int64_t>(entries[i].begin)});
    m_files.push_back(std::make_unique<File>(File{std::move(file)}));
  }
  std::sort(found.begin(), found.end(),
            [](auto const& a, auto const& b) { return a.first.name < b.first.name; });
  for (auto& [tensor, place] : found) {
    if (!m_tensors.empty() && m_tensors.back().name == tensor.name)
      throw ConfigError(m_files[place.file]->file.path() + " and " +
                        m_files[m_places.back().file]->file.path() + " both hold tensor " +
                        in_quotes(tensor.name));
    m_tensors.push_back(std::move(tensor));
    m_places.push_back(place);
  }
}

SafetensorsReader::~SafetensorsReader() = default;
SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;
SafetensorsReader& SafetensorsReader::operator=(SafetensorsReader&&) noexcept = default;

SafetensorsTensor const* SafetensorsReader::find(std::string const& name) const {
  auto at = std::lower_bound(m_tensors.begin(), m_tensors.end(), name,
                             [](SafetensorsTensor const& tensor, std::string const& wanted) {
                               return tensor.name < wanted;
                             });
  return at != m_tensors.end() && at->name == name ? &*at : nullptr;
}

std::size_t SafetensorsReader::index_of(std::string const& name) const {
  SafetensorsTensor const* tensor = find(name);
  if (tensor == nullptr) {
    const std::string file = m_files.empty() ? "the model" : m_files.front()->file.path();
    throw ConfigError(file + " has no tensor " + in_quotes(name));
  }
  return static_cast<std::size_t>(tensor - m_tensors.data());
}

std::string const& SafetensorsReader::file_of(std::string const& name) const {
  return m_files[m_places[index_of(name)].file]->file.path();
}

template <class T>
void SafetensorsReader::read_block(std::string const& name, index_t row_begin, index_t rows,
                                   index_t col_begin, index_t cols, T* out) const {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
  const std::size_t index = index_of(name);
  SafetensorsTensor const& tensor = m_tensors[index];
  file_io::File const& file = m_files[m_places[index].file]->file;
  const index_t all_cols = tensor.cols();
  if (cols < 0) cols = all_cols - col_begin;
  if (row_begin < 0 || rows < 0 || rows > tensor.rows() - row_begin || col_begin < 0 || cols < 0 ||
      cols > all_cols - col_begin)
    throw std::out_of_range("read_block: block outside of tensor " + name);
  if (tensor.type == TensorType::other)
    throw ConfigError(file.path() + ": tensor " + in_quotes(name) + " has the element type " +
                      tensor.type_name + "; F32, F16, BF16 or F64 is expected");
  const std::int64_t width = bytes_of(tensor.type);
  const bool whole_rows = cols == all_cols;
  const index_t runs = whole_rows ? 1 : rows;
  const index_t run = whole_rows ? rows * cols : cols;
  const bool direct = tensor.type == (std::is_same_v<T, float> ? TensorType::f32 : TensorType::f64);
  std::vector<char> buffer(
      direct ? 0 : static_cast<std::size_t>(std::min(k_buffer_bytes, run * width)));
  for (index_t r = 0; r < runs; ++r, out += run) {
    const std::int64_t begin =
        m_places[index].offset + ((row_begin + r) * all_cols + col_begin) * width;
    if (direct) {
      file.read(begin, out, run * width);
      continue;
    }
    const index_t chunk = k_buffer_bytes / width;
    for (index_t done = 0; done < run; done += chunk) {
      const index_t count = std::min(chunk, run - done);
      file.read(begin + done * width, buffer.data(), count * width);
      convert(tensor.type, buffer.data(), count, out + done);
    }
  }
}

template void SafetensorsReader::read_block(std::string const&, index_t, index_t, index_t, index_t,
                                            float*) const;
template void SafetensorsReader::read_block(std::string const&, index_t, index_t, index_t, index_t,
                                            double*) const;

namespace {

SafetensorsReader open_index(fs::path const& index) {
  const std::string path = index.string();
  const auto weight_map =
      safetensors_json::parse_index(path, file_io::read_text(path, k_longest_index));
  std::vector<std::string> files;
  std::unordered_map<std::string, std::string> path_of;  // of a file name in the map
  for (auto const& [tensor, file] : weight_map) {
    if (path_of.count(file)) continue;
    if (file.empty() || fs::path(file).filename() != fs::path(file) || file == "." || file == "..")
      throw ConfigError(path + ": tensor " + in_quotes(tensor) + " lies in " + in_quotes(file) +
                        ", which is no plain file name");
    const fs::path shard = index.parent_path() / file;
    std::error_code ignored;
    if (!fs::exists(shard, ignored))
      throw ConfigError(path + ": tensor " + in_quotes(tensor) + " lies in " + in_quotes(file) +
                        ", a file that does not exist");
    path_of.emplace(file, shard.string());
    files.push_back(shard.string());
  }
  SafetensorsReader reader(std::move(files));
  for (auto const& [tensor, file] : weight_map) {
    if (reader.find(tensor) == nullptr)
      throw ConfigError(path_of[file] + " has no tensor " + in_quotes(tensor) + ", which " + path +
                        " places there");
    if (reader.file_of(tensor) != path_of[file])
      throw ConfigError(path + " places tensor " + in_quotes(tensor) + " in " + in_quotes(file) +
                        ", but it lies in " + reader.file_of(tensor));
  }
  for (SafetensorsTensor const& tensor : reader.tensors())
    if (!weight_map.count(tensor.name))
      throw ConfigError(reader.file_of(tensor.name) + " holds tensor " + in_quotes(tensor.name) +
                        ", which " + path + " does not name");
  return reader;
}

}  // namespace

SafetensorsReader open_safetensors(std::string const& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    const fs::path single = fs::path(path) / "model.safetensors";
    const fs::path index = fs::path(path) / "model.safetensors.index.json";
    if (fs::exists(single, ignored)) return SafetensorsReader({single.string()});
    if (fs::exists(index, ignored)) return open_index(index);
    throw ConfigError("the folder " + path +
                      " holds neither model.safetensors nor model.safetensors.index.json");
  }
  constexpr std::string_view k_index_end = ".index.json";
  if (path.size() > k_index_end.size() &&
      path.compare(path.size() - k_index_end.size(), k_index_end.size(), k_index_end) == 0)
    return open_index(path);
  return SafetensorsReader({path});
}

}  // namespace sdp
