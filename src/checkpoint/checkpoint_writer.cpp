// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
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

  World const* world() const { return m_world; }
  bool is_root() const { return m_world == nullptr || m_world->is_root(); }
  void barrier() const {
    if (m_world != nullptr) m_world->barrier();
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

/// What one rank writes of one group.
struct GroupPlan {
  std::vector<std::vector<FlatPiece>> pieces;  ///< of each tensor, ascending
  std::vector<std::int64_t> rounds;            ///< of each tensor, maximum over ranks
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

/// Checks the request and cuts it into pieces.
template <class T>
std::vector<GroupPlan> make_plans(Writers const& writers, std::string const& path,
                                  std::vector<CheckpointBuffer<T>> const& buffers) {
  std::vector<GroupPlan> plans(buffers.size());
  std::vector<std::int64_t> extremes(2, 0);
  writers.together([&] {
    if (buffers.empty() || buffers.front().group != k_group_model)
      throw std::invalid_argument("write_checkpoint: the first buffer must be the model");
    std::string request;
    for (std::size_t b = 0; b < buffers.size(); ++b) {
      auto const& tensors = buffers[b].table->tensors();
      request += buffers[b].group + ":" + tensor_list(tensors);
      plans[b].pieces.resize(tensors.size());
      plans[b].rounds.resize(tensors.size());
      for (FlatPiece const& piece :
           flat_pieces(*buffers[b].table, buffers[b].owned, buffers[b].packed))
        plans[b].pieces[piece.tensor].push_back(piece);
    }
    const auto id = static_cast<std::int64_t>(
        crc32_of(request.data(), static_cast<std::int64_t>(request.size())));
    extremes = {id, -id};
  });
  writers.reduce(extremes, MPI_INT64_T, MPI_MAX);
  if (extremes[0] != -extremes[1])
    throw DataError("cannot write " + path + ": the ranks name different tensors");

  // The ranks' pieces tile a tensor exactly when their lengths add up to its size and all inner
  // boundaries cancel in pairs.
  std::vector<std::uint64_t> lengths;
  std::vector<std::uint64_t> boundaries;
  std::vector<std::int64_t> rounds;
  for (GroupPlan const& plan : plans) {
    for (auto const& pieces : plan.pieces) {
      std::uint64_t length = 0;
      std::uint64_t boundary = 0;
      for (FlatPiece const& piece : pieces) {
        length += static_cast<std::uint64_t>(piece.count);
        boundary ^= mix(static_cast<std::uint64_t>(piece.begin) + 1) ^
                    mix(static_cast<std::uint64_t>(piece.begin + piece.count) + 1);
      }
      lengths.push_back(length);
      boundaries.push_back(boundary);
      rounds.push_back((static_cast<index_t>(length) + k_chunk_elements - 1) / k_chunk_elements);
    }
  }
  writers.reduce(lengths, MPI_UINT64_T, MPI_SUM);
  writers.reduce(boundaries, MPI_UINT64_T, MPI_BXOR);
  writers.reduce(rounds, MPI_INT64_T, MPI_MAX);
  std::size_t at = 0;
  for (std::size_t b = 0; b < buffers.size(); ++b) {
    for (std::size_t t = 0; t < plans[b].pieces.size(); ++t, ++at) {
      TensorSpec const& tensor = buffers[b].table->tensors()[t];
      const auto size = static_cast<std::uint64_t>(tensor.size());
      if (lengths[at] != size || boundaries[at] != (mix(1) ^ mix(size + 1)))
        throw DataError("cannot write " + path + ": the ranks give " + std::to_string(lengths[at]) +
                        " elements of /" + buffers[b].group + "/" + tensor.name +
                        ", which do not cover its " + std::to_string(size) + " once each");
      plans[b].rounds[t] = rounds[at];
    }
  }
  return plans;
}

h5::Id create_file(Writers const& writers, std::string const& path) {
  const std::string what = "cannot create " + path;
  const h5::Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, what);
  const h5::Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, what);
  // Format 1.8: object headers and groups with checksums, and no mark of an open file that would
  // outlive a killed process.
  h5::check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST), what);
  h5::check(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), what);
  h5::check(H5Pset_obj_track_times(creation, false), what);
  if (writers.world() != nullptr) {
    h5::check(H5Pset_fapl_mpio(access, writers.world()->comm(), MPI_INFO_NULL), what);
    h5::check(H5Pset_all_coll_metadata_ops(access, true), what);
    h5::check(H5Pset_coll_metadata_write(access, true), what);
  }
  return h5::Id(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose, what);
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

std::vector<hsize_t> extents_of(std::vector<index_t> const& shape) {
  return std::vector<hsize_t>(shape.begin(), shape.end());
}

template <class T>
hid_t file_type() {
  return std::is_same_v<T, double> ? H5T_IEEE_F64LE : H5T_IEEE_F32LE;
}
template <class T>
hid_t memory_type() {
  return std::is_same_v<T, double> ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT;
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
  h5::write_attribute(state, "seed", header.state.seed, what);
  if (header.state.best_val_loss)
    h5::write_attribute(state, "best_val_loss", *header.state.best_val_loss, what);
  const h5::Id crc = create_group(file, "crc", path);
  h5::write_attribute(crc, "algorithm", std::string(layout::k_crc_algorithm), what);
  h5::write_attribute(crc, "block_elements", std::int64_t{layout::k_block_elements}, what);
}

/// One file, from creation to close.
template <class T>
class FileWriter {
 public:
  FileWriter(Writers const& writers, std::string const& path, CheckpointHeader const& header,
             std::vector<CheckpointBuffer<T>> const& buffers, std::vector<GroupPlan> const& plans)
      : m_writers(writers), m_path(path), m_header(header), m_buffers(buffers), m_plans(plans) {}

  void write() {
    m_writers.together([&] { m_file = create_file(m_writers, m_path); });
    m_writers.together([&] { create_everything(); });
    for (std::size_t b = 0; b < m_buffers.size(); ++b) write_group(b);
    write_text("config", m_header.deck);
    write_text("mask", m_header.mask);
    m_writers.together([&] {
      m_transfer.reset();
      m_datasets.clear();
      m_crc_datasets.clear();
      h5::check(H5Fflush(m_file, H5F_SCOPE_LOCAL), "cannot flush " + m_path);
    });
    m_writers.together([&] {
      if (!m_file.reset()) throw DataError("cannot close " + m_path + ": " + h5::last_error());
    });
  }

 private:
  void create_everything() {
    write_header(m_file, m_header, m_path);
    const std::string what = "cannot prepare " + m_path;
    m_transfer = h5::Id(H5Pcreate(H5P_DATASET_XFER), H5Pclose, what);
    if (m_writers.world() != nullptr)
      h5::check(H5Pset_dxpl_mpio(m_transfer, H5FD_MPIO_COLLECTIVE), what);
    bool have_optimizer = false;
    for (CheckpointBuffer<T> const& buffer : m_buffers) {
      if (buffer.group != k_group_model) {
        if (!std::exchange(have_optimizer, true)) {
          create_group(m_file, "optimizer", m_path);
          create_group(m_file, "crc/optimizer", m_path);
        }
        create_group(m_file, buffer.group, m_path);
      }
      auto const& tensors = buffer.table->tensors();
      std::vector<index_t> sizes;
      for (TensorSpec const& tensor : tensors) sizes.push_back(tensor.size());
      m_crcs.emplace_back(sizes, sizeof(T));
      m_datasets.emplace_back();
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        const std::vector<hsize_t> extents = extents_of(tensors[t].shape);
        const h5::Id space(
            H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), H5Sclose,
            what);
        h5::Id dataset = create_dataset(m_file, buffer.group + "/" + tensors[t].name,
                                        file_type<T>(), space, m_path);
        h5::write_attribute(dataset, "crc_begin",
                            std::int64_t{m_crcs.back().first(static_cast<int>(t))}, what);
        if (tensors[t].transposed)
          h5::write_attribute(dataset, "transposed", std::int64_t{1}, what);
        m_datasets.back().push_back(std::move(dataset));
      }
      const hsize_t blocks = m_crcs.back().values().size();
      const h5::Id space(H5Screate_simple(1, &blocks, nullptr), H5Sclose, what);
      m_crc_datasets.push_back(
          create_dataset(m_file, "crc/" + buffer.group, H5T_STD_U32LE, space, m_path));
    }
  }

  void write_group(std::size_t b) {
    std::vector<T> staging;
    for (std::size_t t = 0; t < m_plans[b].pieces.size(); ++t) write_tensor(b, t, staging);
    std::vector<std::uint32_t>& crcs = m_crcs[b].values();
    m_writers.reduce(crcs, MPI_UINT32_T, MPI_BXOR);
    m_writers.together([&] {
      write_at_root(m_crc_datasets[b], H5T_NATIVE_UINT32, crcs.data(),
                    "cannot write /crc/" + m_buffers[b].group + " in " + m_path);
    });
  }

  /// Every rank writes up to k_chunk_elements of what it owns in each round.
  void write_tensor(std::size_t b, std::size_t t, std::vector<T>& staging) {
    auto const& pieces = m_plans[b].pieces[t];
    auto const& tensor = m_buffers[b].table->tensors()[t];
    const std::string what =
        "cannot write /" + m_buffers[b].group + "/" + tensor.name + " in " + m_path;
    const std::vector<hsize_t> extents = extents_of(tensor.shape);
    std::size_t piece = 0;
    index_t done = 0;  // elements of that piece
    for (std::int64_t round = 0; round < m_plans[b].rounds[t]; ++round) {
      std::exception_ptr failure;  // from here to the write all ranks must go on
      std::vector<h5::Range> ranges;
      index_t filled = 0;
      try {
        while (piece < pieces.size() && filled < k_chunk_elements) {
          const index_t count = std::min(k_chunk_elements - filled, pieces[piece].count - done);
          const index_t begin = pieces[piece].begin + done;
          if (staging.size() < static_cast<std::size_t>(filled + count))
            staging.resize(filled + count);
          m_buffers[b].fetch(pieces[piece].source + done, count, staging.data() + filled);
          m_crcs[b].add(static_cast<int>(t), begin, count, staging.data() + filled);
          ranges.push_back({begin, count});
          filled += count;
          done += count;
          if (done == pieces[piece].count) {
            ++piece;
            done = 0;
          }
        }
      } catch (...) {
        failure = std::current_exception();
        ranges.clear();
        filled = 0;
      }
      m_writers.together([&] {
        const h5::Id file_space(H5Dget_space(m_datasets[b][t]), H5Sclose, what);
        h5::select(file_space, extents, ranges, what);
        const hsize_t length = static_cast<hsize_t>(std::max<index_t>(filled, 1));
        const h5::Id memory_space(H5Screate_simple(1, &length, nullptr), H5Sclose, what);
        if (filled == 0) h5::check(H5Sselect_none(memory_space), what);
        h5::check(H5Dwrite(m_datasets[b][t], memory_type<T>(), memory_space, file_space, m_transfer,
                           staging.data()),
                  what);
        if (failure) std::rethrow_exception(failure);
      });
    }
  }

  /// A whole dataset from rank 0; the others take part with nothing.
  void write_at_root(hid_t dataset, hid_t type, void const* data, std::string const& what) {
    const h5::Id space(H5Dget_space(dataset), H5Sclose, what);
    if (!m_writers.is_root()) h5::check(H5Sselect_none(space), what);
    h5::check(H5Dwrite(dataset, type, space, space, m_transfer, data), what);
  }

  void write_text(std::string const& name, std::string const& text) {
    if (text.empty()) return;
    const std::string what = "cannot write /" + name + " in " + m_path;
    m_writers.together([&] {
      const h5::Id type = h5::text_type(text.size(), what);
      const h5::Id space(H5Screate(H5S_SCALAR), H5Sclose, what);
      const h5::Id dataset = create_dataset(m_file, name, type, space, m_path);
      h5::write_attribute(dataset, "crc_begin", std::int64_t{0}, what);
      write_at_root(dataset, type, text.data(), what);
    });
    m_writers.together([&] {
      const hsize_t one = 1;
      const std::uint32_t crc = crc32_of(text.data(), static_cast<std::int64_t>(text.size()));
      const h5::Id space(H5Screate_simple(1, &one, nullptr), H5Sclose, what);
      const h5::Id dataset = create_dataset(m_file, "crc/" + name, H5T_STD_U32LE, space, m_path);
      write_at_root(dataset, H5T_NATIVE_UINT32, &crc, what);
    });
  }

  Writers const& m_writers;
  std::string const& m_path;
  CheckpointHeader const& m_header;
  std::vector<CheckpointBuffer<T>> const& m_buffers;
  std::vector<GroupPlan> const& m_plans;
  h5::Id m_file;  // outlives every identifier below
  h5::Id m_transfer;
  std::vector<std::vector<h5::Id>> m_datasets;  ///< of each group and tensor
  std::vector<h5::Id> m_crc_datasets;           ///< of each group
  std::vector<CrcBlocks> m_crcs;                ///< of each group
};

}  // namespace

template <class T>
void write_checkpoint(World const* world, std::string const& path, CheckpointHeader const& header,
                      std::vector<CheckpointBuffer<T>> const& buffers) {
  const h5::QuietErrors quiet;
  const Writers writers(world);
  const std::vector<GroupPlan> plans = make_plans(writers, path, buffers);
  const std::string temporary = path + ".tmp";
  try {
    FileWriter<T>(writers, temporary, header, buffers, plans).write();
    writers.barrier();
    writers.together([&] {
      if (!writers.is_root()) return;
      file_io::sync_file(temporary);
      file_io::publish(temporary, path);
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
