// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "base/error.hpp"
#include "base/version.hpp"
#include "checkpoint/checkpoint.hpp"
#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/crc_blocks.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/h5.hpp"
#include "comm/mpi_error.hpp"

namespace sdp {

namespace layout = checkpoint_layout;

namespace {

/// The ranks that write together, or one process without MPI.
class Writers {
 public:
  explicit Writers(World const* world) : m_world(world) {}

  bool is_root() const { return m_world == nullptr || m_world->is_root(); }
  template <class T>
  void broadcast(std::vector<T>& values) const {
    if (m_world != nullptr) m_world->broadcast(values);
  }
  template <class F>
  void together(F&& f) const {
    if (m_world != nullptr)
      m_world->collectively(std::forward<F>(f));
    else
      f();
  }
  /// values[i] = the reduction of that element over ranks, in place.
  template <class T>
  void reduce(std::vector<T>& values, MPI_Datatype type, MPI_Op op) const {
    if (m_world == nullptr) return;
    constexpr std::size_t k_most = std::size_t{1} << 28;
    for (std::size_t begin = 0; begin < values.size(); begin += k_most)
      check_mpi(MPI_Allreduce(MPI_IN_PLACE, values.data() + begin,
                              static_cast<int>(std::min(k_most, values.size() - begin)), type, op,
                              m_world->comm()),
                "MPI_Allreduce");
  }

 private:
  World const* m_world;
};

std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

std::string tensor_list(std::vector<TensorSpec> const& tensors) {
  std::string text;
  for (TensorSpec const& tensor : tensors)
    text += tensor.name + file_io::shape_text(tensor.shape) + (tensor.transposed ? "t" : "") + ";";
  return text;
}

/// Cuts the request into pieces, those of each group sorted by tensor, and checks that the ranks
/// together cover every element once.
template <class T>
std::vector<std::vector<FlatPiece>> cut_request(Writers const& writers, std::string const& path,
                                                std::vector<CheckpointBuffer<T>> const& buffers) {
  std::vector<std::vector<FlatPiece>> pieces;
  std::vector<std::int64_t> extremes(2, 0);
  writers.together([&] {
    if (buffers.empty() || buffers.front().group != k_group_model)
      throw std::invalid_argument("write_checkpoint: the first buffer must be the model");
    std::string request;
    for (CheckpointBuffer<T> const& buffer : buffers) {
      request += buffer.group + ":" + tensor_list(buffer.table->tensors());
      pieces.push_back(flat_pieces(*buffer.table, buffer.owned, buffer.packed));
    }
    const auto id = static_cast<std::int64_t>(
        crc32_of(request.data(), static_cast<std::int64_t>(request.size())));
    extremes = {id, -id};
  });
  writers.reduce(extremes, MPI_INT64_T, MPI_MAX);
  if (extremes[0] != -extremes[1])
    throw DataError("cannot write " + path + ": the ranks name different tensors");

  // The pieces tile a tensor exactly when their lengths add up to its size and all inner boundaries
  // cancel in pairs.
  std::vector<std::uint64_t> lengths;
  std::vector<std::uint64_t> boundaries;
  for (std::size_t b = 0; b < buffers.size(); ++b) {
    const std::size_t first = lengths.size();
    lengths.resize(first + buffers[b].table->tensors().size(), 0);
    boundaries.resize(lengths.size(), 0);
    for (FlatPiece const& piece : pieces[b]) {
      lengths[first + piece.tensor] += static_cast<std::uint64_t>(piece.count);
      boundaries[first + piece.tensor] ^=
          mix(static_cast<std::uint64_t>(piece.begin) + 1) ^
          mix(static_cast<std::uint64_t>(piece.begin + piece.count) + 1);
    }
  }
  writers.reduce(lengths, MPI_UINT64_T, MPI_SUM);
  writers.reduce(boundaries, MPI_UINT64_T, MPI_BXOR);
  std::size_t at = 0;
  for (CheckpointBuffer<T> const& buffer : buffers) {
    for (TensorSpec const& tensor : buffer.table->tensors()) {
      const auto size = static_cast<std::uint64_t>(tensor.size());
      if (lengths[at] != size || boundaries[at] != (mix(1) ^ mix(size + 1)))
        throw DataError("cannot write " + path + ": the ranks give " + std::to_string(lengths[at]) +
                        " elements of /" + buffer.group + "/" + tensor.name +
                        ", which do not cover its " + std::to_string(size) + " once each");
      ++at;
    }
  }
  return pieces;
}

/// `place` is where the file is made, `path` what it will be called.
h5::Id create_file(std::string const& place, std::string const& path) {
  const std::string what = "cannot create " + path;
  const h5::Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, what);
  const h5::Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, what);
  // Format 1.8: object headers and groups with checksums, and no mark of an open file that would
  // outlive a killed process.
  h5::check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST), what);
  h5::check(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), what);
  h5::disable_locking(access, what);
  h5::check(H5Pset_obj_track_times(creation, false), what);
  return h5::Id(H5Fcreate(place.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose, what);
}

h5::Id create_group(hid_t file, std::string const& name, std::string const& path) {
  const std::string what = "cannot create /" + name + " in " + path;
  const h5::Id creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, what);
  h5::check(H5Pset_obj_track_times(creation, false), what);
  return h5::Id(H5Gcreate2(file, name.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), H5Gclose, what);
}

/// Contiguous storage, never filled, no time stamps.
h5::Id create_dataset(hid_t file, std::string const& name, hid_t type, hid_t space,
                      std::string const& path) {
  const std::string what = "cannot create /" + name + " in " + path;
  const h5::Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, what);
  h5::check(H5Pset_obj_track_times(creation, false), what);
  h5::check(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER), what);
  h5::check(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY), what);
  return h5::Id(H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT),
                H5Dclose, what);
}

template <class T>
hid_t file_type() {
  return std::is_same_v<T, double> ? H5T_IEEE_F64LE : H5T_IEEE_F32LE;
}
void write_header(hid_t file, CheckpointHeader const& header, std::string const& path) {
  const std::string what = "cannot write the header of " + path;
  h5::write_attribute(file, "format", std::string(layout::k_format), what);
  h5::write_attribute(file, "format_version", std::int64_t{k_checkpoint_version}, what);
  h5::write_attribute(file, "written_by", std::string("sdp ") + version() + " (" + git_hash() + ")",
                      what);
  const h5::Id model = create_group(file, "model", path);
  h5::write_attribute(model, "kind", std::string(layout::kind_name(header.model.kind)), what);
  if (header.model.kind == ModelKind::llama) {
    LlamaConfig const& llama = header.model.llama;
    for (auto const& field : layout::k_llama_sizes)
      h5::write_attribute(model, field.name, std::int64_t{llama.*field.member}, what);
    for (auto const& field : layout::k_llama_reals)
      h5::write_attribute(model, field.name, llama.*field.member, what);
    h5::write_attribute(model, "tie_embeddings", std::int64_t{llama.tie_embeddings}, what);
  } else {
    for (auto const& field : layout::k_resnet_sizes)
      h5::write_attribute(model, field.name, std::int64_t{header.model.resnet.*field.member}, what);
  }
  const h5::Id state = create_group(file, "state", path);
  h5::write_attribute(state, "step", header.state.step, what);
  h5::write_attribute(state, "samples", header.state.samples, what);
  h5::write_attribute(state, "tokens", header.state.tokens, what);
  h5::write_attribute(state, "skipped", header.state.skipped, what);
  h5::write_attribute(state, "data_tokens", header.state.data_tokens, what);
  h5::write_attribute(state, "seed", header.state.seed, what);
  if (header.state.best_val_loss)
    h5::write_attribute(state, "best_val_loss", *header.state.best_val_loss, what);
  const h5::Id crc = create_group(file, "crc", path);
  h5::write_attribute(crc, "algorithm", std::string(layout::k_crc_algorithm), what);
  h5::write_attribute(crc, "block_elements", std::int64_t{layout::k_block_elements}, what);
}

void write_text(hid_t file, std::string const& name, std::string const& text,
                std::string const& path) {
  if (text.empty()) return;
  const std::string what = "cannot write /" + name + " in " + path;
  const h5::Id type = h5::text_type(text.size(), what);
  const h5::Id scalar(H5Screate(H5S_SCALAR), H5Sclose, what);
  const h5::Id dataset = create_dataset(file, name, type, scalar, path);
  h5::check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()), what);
  const hsize_t one = 1;
  const std::uint32_t crc = crc32_of(text.data(), static_cast<std::int64_t>(text.size()));
  const h5::Id space(H5Screate_simple(1, &one, nullptr), H5Sclose, what);
  const h5::Id crc_dataset = create_dataset(file, "crc/" + name, H5T_STD_U32LE, space, path);
  h5::check(H5Dwrite(crc_dataset, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, &crc), what);
}

/// Byte offset of the storage of a dataset in its file.
std::int64_t offset_of(hid_t dataset, std::string const& what) {
  const haddr_t offset = H5Dget_offset(dataset);
  if (offset != HADDR_UNDEF) return static_cast<std::int64_t>(offset);
  if (H5Dget_storage_size(dataset) > 0) throw DataError(what + ": no space was allocated");
  return 0;
}

/// Size of the file, from above: what the tensors take, and what describes them.
template <class T>
std::int64_t largest_size(CheckpointHeader const& header,
                          std::vector<CheckpointBuffer<T>> const& buffers) {
  constexpr std::int64_t k_per_file = 65536;
  constexpr std::int64_t k_per_tensor = 4096;
  std::int64_t bytes = k_per_file + static_cast<std::int64_t>(header.deck.size()) +
                       static_cast<std::int64_t>(header.mask.size());
  for (CheckpointBuffer<T> const& buffer : buffers)
    for (TensorSpec const& tensor : buffer.table->tensors())
      bytes +=
          k_per_tensor + tensor.size() * static_cast<std::int64_t>(sizeof(T)) +
          layout::block_count(tensor.size()) * static_cast<std::int64_t>(sizeof(std::uint32_t));
  return bytes;
}

/// Creates a file that lacks nothing but the elements of the tensors and their checksums, with
/// space reserved for them. Returns, group by group, the offset of each tensor and then that of the
/// checksums.
///
/// HDF5 works in memory, where it cannot fail half-way: HDF5 1.10 that meets a full disk while it
/// closes a file keeps the broken file and crashes at the end of the process.
template <class T>
std::vector<std::int64_t> create_skeleton(std::string const& path, CheckpointHeader const& header,
                                          std::vector<CheckpointBuffer<T>> const& buffers) {
  file_io::check_size_limit(path, largest_size(header, buffers));
  file_io::File target = file_io::File::create(path);
  file_io::ScratchFile memory(path);
  std::vector<std::int64_t> offsets;
  h5::Id file = create_file(memory.path(), path);
  memory.unlink();
  write_header(file, header, path);
  write_text(file, "config", header.deck, path);
  write_text(file, "mask", header.mask, path);
  const std::string what = "cannot prepare " + path;
  for (std::size_t b = 0; b < buffers.size(); ++b) {
    std::string const& group = buffers[b].group;
    if (b == 1) {
      create_group(file, "optimizer", path);
      create_group(file, "crc/optimizer", path);
    }
    if (b > 0) create_group(file, group, path);
    hsize_t blocks = 0;
    for (TensorSpec const& tensor : buffers[b].table->tensors()) {
      const std::vector<hsize_t> extents(tensor.shape.begin(), tensor.shape.end());
      const h5::Id space(
          H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), H5Sclose,
          what);
      const h5::Id dataset =
          create_dataset(file, group + "/" + tensor.name, file_type<T>(), space, path);
      h5::write_attribute(dataset, "crc_begin", static_cast<std::int64_t>(blocks), what);
      if (tensor.transposed) h5::write_attribute(dataset, "transposed", std::int64_t{1}, what);
      offsets.push_back(offset_of(dataset, what));
      blocks += static_cast<hsize_t>(layout::block_count(tensor.size()));
    }
    const h5::Id space(H5Screate_simple(1, &blocks, nullptr), H5Sclose, what);
    const h5::Id dataset = create_dataset(file, "crc/" + group, H5T_STD_U32LE, space, path);
    offsets.push_back(offset_of(dataset, what));
  }
  h5::check(H5Fflush(file, H5F_SCOPE_LOCAL), "cannot write " + path);
  if (!file.reset()) throw DataError("cannot close " + path + ": " + h5::last_error());
  target.reserve(memory.size());
  memory.copy_to(target);
  return offsets;
}

/// Writes the pieces of this rank of one group, and adds them to its checksums.
template <class T>
void write_pieces(file_io::File& file, CheckpointBuffer<T> const& buffer,
                  std::vector<FlatPiece> const& pieces, std::int64_t const* offsets,
                  std::vector<T>& staging, CrcBlocks& crcs) {
  for (FlatPiece const& piece : pieces) {
    for (index_t done = 0; done < piece.count; done += k_chunk_elements) {
      const index_t count = std::min(k_chunk_elements, piece.count - done);
      const index_t begin = piece.begin + done;
      if (staging.size() < static_cast<std::size_t>(count)) staging.resize(count);
      buffer.fetch(piece.source + done, count, staging.data());
      crcs.add(piece.tensor, begin, count, staging.data());
      constexpr auto k_width = static_cast<std::int64_t>(sizeof(T));
      file.write(offsets[piece.tensor] + begin * k_width, staging.data(), count * k_width);
    }
  }
}

}  // namespace

template <class T>
void write_checkpoint(World const* world, std::string const& path, CheckpointHeader const& header,
                      std::vector<CheckpointBuffer<T>> const& buffers) {
  const h5::QuietErrors quiet;
  const Writers writers(world);
  const std::vector<std::vector<FlatPiece>> pieces = cut_request(writers, path, buffers);
  const std::string temporary = path + ".tmp";
  try {
    std::vector<std::int64_t> offsets;
    writers.together([&] {
      if (writers.is_root()) offsets = create_skeleton(temporary, header, buffers);
    });
    writers.broadcast(offsets);
    std::optional<file_io::File> file;
    writers.together([&] { file = file_io::File::open_to_write(temporary); });
    std::int64_t const* group_offsets = offsets.data();
    std::vector<T> staging;
    for (std::size_t b = 0; b < buffers.size(); ++b) {
      std::vector<index_t> sizes;
      for (TensorSpec const& tensor : buffers[b].table->tensors()) sizes.push_back(tensor.size());
      CrcBlocks crcs(sizes, sizeof(T));
      writers.together(
          [&] { write_pieces(*file, buffers[b], pieces[b], group_offsets, staging, crcs); });
      writers.reduce(crcs.values(), MPI_UINT32_T, MPI_BXOR);
      writers.together([&] {
        if (!writers.is_root()) return;
        file->write(group_offsets[sizes.size()], crcs.values().data(),
                    static_cast<std::int64_t>(crcs.values().size() * sizeof(std::uint32_t)));
      });
      group_offsets += sizes.size() + 1;
    }
    writers.together([&] { file->sync(); });
    file.reset();
    writers.together([&] {
      if (writers.is_root()) file_io::publish(temporary, path);
    });
  } catch (...) {
    if (writers.is_root()) file_io::remove_quietly(temporary);
    throw;
  }
}

template void write_checkpoint(World const*, std::string const&, CheckpointHeader const&,
                               std::vector<CheckpointBuffer<float>> const&);
template void write_checkpoint(World const*, std::string const&, CheckpointHeader const&,
                               std::vector<CheckpointBuffer<double>> const&);

}  // namespace sdp
