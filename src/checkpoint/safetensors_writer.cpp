// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "base/error.hpp"
#include "checkpoint/element_convert.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/safetensors.hpp"
#include "checkpoint/safetensors_json.hpp"

namespace sdp {

using safetensors_json::json_string;

struct SafetensorsWriter::File {
  file_io::File file;
  std::string path;  ///< final name
  bool published = false;
};

namespace {

constexpr index_t k_chunk = index_t{1} << 20;

std::string temporary(std::string const& path) {
  return path + ".tmp";
}

/// Header of one file, length and padding included, for tensors with these byte counts.
std::string header_of(std::vector<SafetensorsOutput const*> const& tensors,
                      std::vector<std::int64_t> const& bytes, char const* type_name) {
  std::string json = R"({"__metadata__":{"format":"pt"})";
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    json += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        json_string(tensors[i]->name), tensors[i]->integer ? "I64" : type_name,
                        fmt::join(tensors[i]->shape, ","), offset, offset + bytes[i]);
    offset += bytes[i];
  }
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');
  const std::uint64_t length = json.size();
  std::string header(sizeof(length), '\0');
  std::memcpy(header.data(), &length, sizeof(length));
  return header.append(json);
}

template <class T>
void narrow(T const* from, index_t count, TensorType type, char* to) {
  if (type == TensorType::f32) {
    auto* out = reinterpret_cast<float*>(to);
    for (index_t i = 0; i < count; ++i) out[i] = static_cast<float>(from[i]);
  } else {
    auto* out = reinterpret_cast<kernels::bf16*>(to);
    for (index_t i = 0; i < count; ++i) out[i] = kernels::bf16(from[i]);
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string folder,
                                     std::vector<SafetensorsOutput> const& tensors, TensorType type,
                                     std::int64_t max_shard_bytes)
    : m_folder(std::move(folder)), m_type(type), m_width(type == TensorType::f32 ? 4 : 2) {
  if (type != TensorType::f32 && type != TensorType::bf16)
    throw std::invalid_argument("SafetensorsWriter: only F32 and BF16 are written");
  std::vector<std::int64_t> bytes;
  std::vector<std::vector<std::size_t>> shards;
  std::int64_t shard_bytes = 0;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    index_t elements = 1;
    for (index_t extent : tensors[i].shape) elements *= extent;
    bytes.push_back(elements * (tensors[i].integer ? 8 : m_width));
    if (shards.empty() || (shard_bytes > 0 && shard_bytes + bytes[i] > max_shard_bytes)) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().push_back(i);
    shard_bytes += bytes[i];
    total += bytes[i];
    const index_t rows = tensors[i].shape.empty() ? 1 : tensors[i].shape.front();
    const bool is_new =
        m_places.emplace(tensors[i].name, Place{0, 0, rows, rows ? elements / rows : 0, 0}).second;
    if (!is_new) throw std::invalid_argument("SafetensorsWriter: two tensors " + tensors[i].name);
  }
  if (shards.empty()) shards.emplace_back();
  std::string weight_map;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    std::vector<SafetensorsOutput const*> members;
    std::vector<std::int64_t> member_bytes;
    for (std::size_t i : shards[s]) {
      members.push_back(&tensors[i]);
      member_bytes.push_back(bytes[i]);
    }
    const std::string header =
        header_of(members, member_bytes, type == TensorType::f32 ? "F32" : "BF16");
    auto offset = static_cast<std::int64_t>(header.size());
    for (std::size_t i : shards[s]) {
      Place& place = m_places.at(tensors[i].name);
      place.file = s;
      place.offset = offset;
      offset += bytes[i];
      if (!weight_map.empty()) weight_map += ",\n    ";
      weight_map += fmt::format("{}: \"{}\"", json_string(tensors[i].name), name);
    }
    const std::string path = m_folder + "/" + name;
    m_paths.push_back(path);
    try {
      m_files.push_back(
          std::make_unique<File>(File{file_io::File::create(temporary(path)), path, false}));
      m_files.back()->file.write(0, header.data(), static_cast<std::int64_t>(header.size()));
      for (SafetensorsOutput const* tensor : members) {
        if (!tensor->integer) continue;
        Place& place = m_places.at(tensor->name);
        m_files.back()->file.write(place.offset, &*tensor->integer, sizeof(std::int64_t));
        place.written = 1;
      }
    } catch (...) {
      for (auto const& file : m_files) file_io::remove_quietly(temporary(file->path));
      throw;
    }
  }
  if (shards.size() > 1) {
    m_index = fmt::format(
        "{{\n  \"metadata\": {{\"total_size\": {}}},\n  \"weight_map\": {{\n    {}\n  }}\n}}\n",
        total, weight_map);
    m_paths.push_back(m_folder + "/model.safetensors.index.json");
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (m_finished) return;
  for (auto const& file : m_files)
    file_io::remove_quietly(file->published ? file->path : temporary(file->path));
}

template <class T>
void SafetensorsWriter::write_block(std::string const& name, index_t row_begin, index_t rows,
                                    index_t col_begin, index_t cols, T const* values) {
  Place& place = m_places.at(name);
  if (cols < 0) cols = place.cols - col_begin;
  if (row_begin < 0 || rows < 0 || rows > place.rows - row_begin || col_begin < 0 || cols < 0 ||
      cols > place.cols - col_begin)
    throw std::out_of_range("write_block: block outside of tensor " + name);
  file_io::File& file = m_files[place.file]->file;
  const bool whole_rows = cols == place.cols;
  const index_t runs = whole_rows ? 1 : rows;
  const index_t run = whole_rows ? rows * cols : cols;
  std::vector<char> buffer(static_cast<std::size_t>(std::min(k_chunk, run) * m_width));
  for (index_t r = 0; r < runs; ++r, values += run) {
    const std::int64_t begin = place.offset + ((row_begin + r) * place.cols + col_begin) * m_width;
    for (index_t done = 0; done < run; done += k_chunk) {
      const index_t count = std::min(k_chunk, run - done);
      narrow(values + done, count, m_type, buffer.data());
      file.write(begin + done * m_width, buffer.data(), count * m_width);
    }
  }
  place.written += rows * cols;
}

template void SafetensorsWriter::write_block(std::string const&, index_t, index_t, index_t, index_t,
                                             float const*);
template void SafetensorsWriter::write_block(std::string const&, index_t, index_t, index_t, index_t,
                                             double const*);

void SafetensorsWriter::finish() {
  for (auto const& [name, place] : m_places)
    if (place.written != place.rows * place.cols)
      throw DataError(fmt::format("{}: {} of the {} elements of tensor \"{}\" were written",
                                  m_files[place.file]->path, place.written, place.rows * place.cols,
                                  name));
  for (auto const& file : m_files) file->file.sync();
  for (auto const& file : m_files) {
    file_io::publish(temporary(file->path), file->path);
    file->published = true;
  }
  if (!m_index.empty()) file_io::write_text(m_paths.back(), m_index);
  m_finished = true;
}

}  // namespace sdp
