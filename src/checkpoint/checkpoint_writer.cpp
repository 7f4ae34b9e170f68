// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/checkpoint_writer.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "base/version.hpp"
#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/h5.hpp"
#include "checkpoint/parts_folder.hpp"
#include "checkpoint/seal.hpp"

namespace sdp {

namespace layout = checkpoint_layout;
namespace fs = std::filesystem;

namespace {

/// Sixteen hexadecimal digits that depend on every value and on their order.
class Digest {
 public:
  void add(std::int64_t value) {
    m_state = (m_state ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15u;
    m_state ^= m_state >> 29;
  }
  void add(std::string const& text) {
    add(static_cast<std::int64_t>(text.size()));
    for (char c : text) add(std::int64_t{c});
  }
  std::string text() const {
    char digits[layout::k_id_length + 1];
    std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(m_state));
    return digits;
  }

 private:
  std::uint64_t m_state = 0x243f6a8885a308d3u;
};

}  // namespace

template <class T>
CheckpointWriter<T>::CheckpointWriter(World const* world, std::string path, CheckpointHeader header,
                                      std::vector<CheckpointBuffer<T>> const& buffers, int files)
    : m_writers(world),
      m_path(std::move(path)),
      m_temporary(m_path + ".tmp"),
      m_header(std::move(header)),
      m_parts(std::clamp(files, 1, m_writers.size())),
      m_parts_folder(parts_folder::temporary(m_path)) {
  const h5::QuietErrors quiet;
  m_pieces = cut_request(m_writers, m_path, buffers);
  for (CheckpointBuffer<T> const& buffer : buffers) {
    m_groups.push_back({buffer.group, buffer.table->tensors()});
    std::vector<index_t> sizes;
    for (TensorSpec const& tensor : buffer.table->tensors()) sizes.push_back(tensor.size());
    m_crcs.emplace_back(sizes, sizeof(T));
  }
  try {
    if (m_parts == 1)
      lay_out();
    else
      lay_out_parts();
  } catch (...) {
    remove_unpublished();
    throw;
  }
}

template <class T>
CheckpointWriter<T>::~CheckpointWriter() {
  if (!m_published) remove_unpublished();
}

template <class T>
void CheckpointWriter<T>::remove_unpublished() noexcept {
  m_file.reset();
  if (!m_writers.is_root()) return;
  file_io::remove_quietly(m_temporary);
  if (m_parts > 1) parts_folder::remove(m_parts_folder);
}

/// One file, made by the root.
template <class T>
void CheckpointWriter<T>::lay_out() {
  m_writers.together([&] {
    if (m_writers.is_root())
      m_offsets = checkpoint_file::create(m_temporary, m_header, m_groups, sizeof(T), nullptr);
  });
  m_writers.broadcast(m_offsets.tensors);
  std::vector<std::size_t> first{0};
  for (WriteGroup const& group : m_groups) first.push_back(first.back() + group.tensors.size());
  for (WrittenPiece& piece : m_pieces)
    piece.offset = m_offsets.tensors[first[piece.group] + piece.tensor] +
                   piece.begin * static_cast<std::int64_t>(sizeof(T));
  m_writers.together([&] { m_file = file_io::File::open_to_write(m_temporary); });
}

/// One file for each group of ranks, made by the first rank of the group.
template <class T>
void CheckpointWriter<T>::lay_out_parts() {
  m_writers.together([&] {
    if (!m_writers.is_root()) return;
    parts_folder::remove(m_parts_folder);
    file_io::make_folder(m_parts_folder);
  });
  PartGroup group(m_writers, m_parts);
  m_part = group.part();
  m_leads = group.leads();
  const std::vector<PartTensor> contents = group.gather(m_pieces);
  const std::string path = (fs::path(m_parts_folder) / layout::part_name(m_part, m_parts)).string();
  m_writers.together([&] {
    if (m_leads)
      m_offsets = checkpoint_file::create_part(
          path, fs::path(m_path).filename().string(), m_part, m_parts,
          ranks_of_part(m_part, m_parts, m_writers.size()), m_groups, contents, sizeof(T));
  });
  group.place(m_offsets.tensors, sizeof(T), m_pieces);
  m_writers.together([&] { m_file = file_io::File::open_to_write(path); });

  m_index.bytes.assign(static_cast<std::size_t>(m_parts), 0);
  m_index.bytes[m_part] = m_leads ? m_offsets.file_bytes : 0;
  m_writers.reduce(m_index.bytes, MPI_INT64_T, MPI_SUM);
  m_index.contents = gather_parts(m_writers, m_parts, contents);
  m_index.ranks = m_writers.size();
}

template <class T>
index_t CheckpointWriter<T>::elements() const {
  index_t sum = 0;
  for (WrittenPiece const& piece : m_pieces) sum += piece.count;
  return sum;
}

template <class T>
void CheckpointWriter<T>::copy(std::vector<CheckpointBuffer<T>> const& buffers, T* host) const {
  for (WrittenPiece const& piece : m_pieces) {
    buffers[piece.group].fetch(piece.source, piece.count, host);
    host += piece.count;
  }
}

template <class T>
template <class Elements>
void CheckpointWriter<T>::write_pieces(Elements const& elements) {
  constexpr auto k_width = static_cast<std::int64_t>(sizeof(T));
  // Little enough to be in the cache still when the checksum is known.
  constexpr index_t k_step = 4 * layout::k_block_elements;
  for (WrittenPiece const& piece : m_pieces) {
    for (index_t done = 0; done < piece.count; done += k_chunk_elements) {
      const index_t count = std::min(k_chunk_elements, piece.count - done);
      T const* data = elements(piece, done, count);
      for (index_t at = 0; at < count; at += k_step) {
        const index_t step = std::min(k_step, count - at);
        m_crcs[piece.group].add(piece.tensor, piece.begin + done + at, step, data + at);
        m_file->write(piece.offset + (done + at) * k_width, data + at, step * k_width);
      }
    }
  }
  m_file->sync();
}

template <class T>
void CheckpointWriter<T>::write(std::vector<CheckpointBuffer<T>> const& buffers) {
  std::vector<T> staging;
  write_pieces([&](WrittenPiece const& piece, index_t done, index_t count) -> T const* {
    if (T const* host = buffers[piece.group].host) return host + piece.source + done;
    if (staging.size() < static_cast<std::size_t>(count)) staging.resize(count);
    buffers[piece.group].fetch(piece.source + done, count, staging.data());
    return staging.data();
  });
}

template <class T>
void CheckpointWriter<T>::write(T const* copied) {
  write_pieces([&](WrittenPiece const&, index_t, index_t count) {
    return std::exchange(copied, copied + count);
  });
}

template <class T>
std::int64_t CheckpointWriter<T>::publish() {
  const h5::QuietErrors quiet;
  for (CrcBlocks& crcs : m_crcs) m_writers.reduce(crcs.values(), MPI_UINT32_T, MPI_BXOR);
  if (m_parts > 1) publish_parts();
  std::int64_t bytes = 0;
  m_writers.together([&] {
    if (!m_writers.is_root()) return;
    if (m_parts > 1) {
      m_offsets = checkpoint_file::create(m_temporary, m_header, m_groups, sizeof(T), &m_index);
      m_file = file_io::File::open_to_write(m_temporary);
      for (std::int64_t part : m_index.bytes) bytes += part;
    }
    for (std::size_t g = 0; g < m_crcs.size(); ++g)
      m_file->write(m_offsets.crcs[g], m_crcs[g].values().data(),
                    static_cast<std::int64_t>(m_crcs[g].values().size() * sizeof(std::uint32_t)));
    m_file->sync();
    m_file.reset();
    if (m_parts > 1) {
      seal::append(m_temporary);
      bytes += seal::k_bytes;
    }
    file_io::publish(m_temporary, m_path);
    bytes += m_offsets.file_bytes;
  });
  m_published = true;
  m_file.reset();
  std::vector<std::int64_t> total{bytes};
  m_writers.broadcast(total);
  return total[0];
}

/// Marks the parts with the checkpoint that they belong to, and gives their folder its name.
template <class T>
void CheckpointWriter<T>::publish_parts() {
  std::vector<char> id;
  m_writers.together([&] {
    if (m_writers.is_root()) id = contents_id();
  });
  m_writers.broadcast(id);
  m_index.id.assign(id.begin(), id.end());
  const std::string folder = parts_folder::named(m_path, m_index.id);
  m_index.folder = fs::path(folder).filename().string();
  m_writers.together([&] {
    if (m_leads) {
      m_file->write(m_offsets.id, id.data(), static_cast<std::int64_t>(id.size()));
      m_file->sync();
    }
    m_file.reset();
  });
  m_writers.together([&] {
    if (m_writers.is_root()) parts_folder::publish(m_parts_folder, folder);
  });
  m_parts_folder = folder;
}

/// Names a checkpoint by all that decides the bytes of its parts, so that equal ones are equal.
template <class T>
std::vector<char> CheckpointWriter<T>::contents_id() {
  Digest digest;
  digest.add(fs::path(m_path).filename().string());
  digest.add(std::string(version()) + git_hash());
  digest.add(m_writers.size());
  digest.add(m_parts);
  for (WriteGroup const& group : m_groups) {
    digest.add(group.name);
    for (TensorSpec const& tensor : group.tensors) digest.add(tensor.name);
  }
  for (CrcBlocks& crcs : m_crcs)
    for (std::uint32_t crc : crcs.values()) digest.add(crc);
  for (auto const& contents : m_index.contents)
    for (PartTensor const& tensor : contents)
      for (IndexRange const& run : tensor.runs) {
        digest.add(run.begin);
        digest.add(run.end);
      }
  const std::string text = digest.text();
  return {text.begin(), text.end()};
}

template class CheckpointWriter<float>;
template class CheckpointWriter<double>;

template <class T>
void write_checkpoint(World const* world, std::string const& path, CheckpointHeader const& header,
                      std::vector<CheckpointBuffer<T>> const& buffers, int files) {
  CheckpointWriter<T> writer(world, path, header, buffers, files);
  Writers(world).together([&] { writer.write(buffers); });
  writer.publish();
}

template void write_checkpoint(World const*, std::string const&, CheckpointHeader const&,
                               std::vector<CheckpointBuffer<float>> const&, int);
template void write_checkpoint(World const*, std::string const&, CheckpointHeader const&,
                               std::vector<CheckpointBuffer<double>> const&, int);

}  // namespace sdp
