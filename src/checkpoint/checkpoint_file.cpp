// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/checkpoint_file.hpp"

#include <limits>
#include <utility>

#include "base/error.hpp"
#include "base/version.hpp"
#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/crc_blocks.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/h5.hpp"

namespace sdp::checkpoint_file {

namespace layout = checkpoint_layout;

namespace {

/// A new HDF5 file in memory, on its way to the disk.
///
/// HDF5 works in memory, where it cannot fail half-way: HDF5 1.10 that meets a full disk while it
/// closes a file keeps the broken file and crashes at the end of the process.
class Skeleton {
 public:
  /// `path` is where the file goes; at most `largest` bytes.
  Skeleton(std::string const& path, std::int64_t largest)
      : m_path(path), m_target(create_target(path, largest)), m_memory(path) {
    const std::string what = "cannot create " + path;
    const h5::Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, what);
    const h5::Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, what);
    // Format 1.8: object headers and groups with checksums, and no mark of an open file that would
    // outlive a killed process.
    h5::check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST), what);
    h5::check(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), what);
    h5::disable_locking(access, what);
    h5::check(H5Pset_obj_track_times(creation, false), what);
    m_file =
        h5::Id(H5Fcreate(m_memory.path().c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose, what);
    m_memory.unlink();
  }

  hid_t file() const { return m_file; }
  std::string const& path() const { return m_path; }

  /// Closes the file, reserves its space on the disk and copies what is written so far. Returns its
  /// size.
  std::int64_t finish() {
    h5::check(H5Fflush(m_file, H5F_SCOPE_LOCAL), "cannot write " + m_path);
    if (!m_file.reset()) throw DataError("cannot close " + m_path + ": " + h5::last_error());
    m_target.reserve(m_memory.size());
    m_memory.copy_to(m_target);
    return m_memory.size();
  }

  h5::Id create_group(std::string const& name) const {
    const std::string what = "cannot create /" + name + " in " + m_path;
    const h5::Id creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, what);
    h5::check(H5Pset_obj_track_times(creation, false), what);
    return h5::Id(H5Gcreate2(m_file, name.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), H5Gclose,
                  what);
  }

  /// Contiguous storage, never filled, no time stamps.
  h5::Id create_dataset(std::string const& name, hid_t type, hid_t space) const {
    const std::string what = "cannot create /" + name + " in " + m_path;
    const h5::Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, what);
    h5::check(H5Pset_obj_track_times(creation, false), what);
    h5::check(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER), what);
    h5::check(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY), what);
    return h5::Id(H5Dcreate2(m_file, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT),
                  H5Dclose, what);
  }

  /// No storage of its own: each mapping says which elements lie in the dataset of the same name of
  /// another file. Elements of a file that is missing read as NaN.
  struct Mapping {
    std::string file;  ///< relative to the folder of this one
    std::vector<IndexRange> const* runs;
  };
  h5::Id create_virtual(std::string const& name, hid_t type, hid_t space,
                        std::vector<hsize_t> const& extents,
                        std::vector<Mapping> const& mappings) const {
    const std::string what = "cannot create /" + name + " in " + m_path;
    const h5::Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, what);
    h5::check(H5Pset_obj_track_times(creation, false), what);
    const double missing = std::numeric_limits<double>::quiet_NaN();
    h5::check(H5Pset_fill_value(creation, H5T_NATIVE_DOUBLE, &missing), what);
    const h5::Id selected(H5Scopy(space), H5Sclose, what);
    for (Mapping const& mapping : mappings) {
      std::vector<h5::Range> ranges;
      hsize_t elements = 0;
      for (IndexRange const& run : *mapping.runs) {
        ranges.push_back({run.begin, run.size()});
        elements += static_cast<hsize_t>(run.size());
      }
      h5::select(selected, extents, ranges, what);
      const h5::Id source(H5Screate_simple(1, &elements, nullptr), H5Sclose, what);
      h5::check(
          H5Pset_virtual(creation, selected, mapping.file.c_str(), ("/" + name).c_str(), source),
          what);
    }
    return h5::Id(H5Dcreate2(m_file, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT),
                  H5Dclose, what);
  }

 private:
  static file_io::File create_target(std::string const& path, std::int64_t largest) {
    file_io::check_size_limit(path, largest);
    return file_io::File::create(path);
  }

  std::string m_path;
  file_io::File m_target;
  file_io::ScratchFile m_memory;
  h5::Id m_file;
};

hid_t element_type(std::int64_t element_bytes) {
  return element_bytes == 8 ? H5T_IEEE_F64LE : H5T_IEEE_F32LE;
}

void write_versions(hid_t file, char const* format, std::string const& what) {
  h5::write_attribute(file, "format", std::string(format), what);
  h5::write_attribute(file, "format_version", std::int64_t{k_checkpoint_version}, what);
  h5::write_attribute(file, "written_by", std::string("sdp ") + version() + " (" + git_hash() + ")",
                      what);
}

void write_header(Skeleton const& skeleton, CheckpointHeader const& header) {
  const std::string what = "cannot write the header of " + skeleton.path();
  write_versions(skeleton.file(), layout::k_format, what);
  const h5::Id model = skeleton.create_group("model");
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
  const h5::Id state = skeleton.create_group("state");
  h5::write_attribute(state, "step", header.state.step, what);
  h5::write_attribute(state, "samples", header.state.samples, what);
  h5::write_attribute(state, "tokens", header.state.tokens, what);
  h5::write_attribute(state, "skipped", header.state.skipped, what);
  h5::write_attribute(state, "data_tokens", header.state.data_tokens, what);
  h5::write_attribute(state, "seed", header.state.seed, what);
  if (header.state.best_val_loss)
    h5::write_attribute(state, "best_val_loss", *header.state.best_val_loss, what);
  const h5::Id crc = skeleton.create_group("crc");
  h5::write_attribute(crc, "algorithm", std::string(layout::k_crc_algorithm), what);
  h5::write_attribute(crc, "block_elements", std::int64_t{layout::k_block_elements}, what);
}

void write_text(Skeleton const& skeleton, std::string const& name, std::string const& text) {
  if (text.empty()) return;
  const std::string what = "cannot write /" + name + " in " + skeleton.path();
  const h5::Id type = h5::text_type(text.size(), what);
  const h5::Id scalar(H5Screate(H5S_SCALAR), H5Sclose, what);
  const h5::Id dataset = skeleton.create_dataset(name, type, scalar);
  h5::check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()), what);
  const hsize_t one = 1;
  const std::uint32_t crc = crc32_of(text.data(), static_cast<std::int64_t>(text.size()));
  const h5::Id space(H5Screate_simple(1, &one, nullptr), H5Sclose, what);
  const h5::Id crc_dataset = skeleton.create_dataset("crc/" + name, H5T_STD_U32LE, space);
  h5::check(H5Dwrite(crc_dataset, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, &crc), what);
}

void write_parts(Skeleton const& skeleton, Parts const& parts) {
  const std::string what = "cannot write /parts in " + skeleton.path();
  const h5::Id group = skeleton.create_group("parts");
  const auto count = static_cast<int>(parts.bytes.size());
  h5::write_attribute(group, "count", std::int64_t{count}, what);
  h5::write_attribute(group, "folder", parts.folder, what);
  h5::write_attribute(group, "checkpoint_id", parts.id, what);
  for (int part = 0; part < count; ++part) {
    const h5::Id entry = skeleton.create_group("parts/" + layout::part_name(part, count));
    const IndexRange ranks = ranks_of_part(part, count, parts.ranks);
    h5::write_attribute(entry, "bytes", parts.bytes[part], what);
    h5::write_attribute(entry, "first_rank", ranks.begin, what);
    h5::write_attribute(entry, "last_rank", ranks.end - 1, what);
  }
}

/// Byte offset of the storage of a dataset in its file.
std::int64_t offset_of(hid_t dataset, std::string const& what) {
  const haddr_t offset = H5Dget_offset(dataset);
  if (offset != HADDR_UNDEF) return static_cast<std::int64_t>(offset);
  if (H5Dget_storage_size(dataset) > 0) throw DataError(what + ": no space was allocated");
  return 0;
}

constexpr std::int64_t k_per_file = 65536;   // bytes that describe a file, from above
constexpr std::int64_t k_per_tensor = 4096;  // the same of a tensor
constexpr std::int64_t k_per_part = 1024;    // of a part
constexpr std::int64_t k_per_run = 64;       // of a run of elements in a mapping

/// Size of the file, from above.
std::int64_t largest_size(CheckpointHeader const& header, std::vector<WriteGroup> const& groups,
                          std::int64_t element_bytes, Parts const* parts) {
  std::int64_t bytes = k_per_file + static_cast<std::int64_t>(header.deck.size()) +
                       static_cast<std::int64_t>(header.mask.size());
  for (WriteGroup const& group : groups)
    for (TensorSpec const& tensor : group.tensors)
      bytes += k_per_tensor + (parts == nullptr ? tensor.size() * element_bytes : 0) +
               layout::block_count(tensor.size()) * std::int64_t{sizeof(std::uint32_t)};
  if (parts != nullptr)
    for (auto const& contents : parts->contents) {
      bytes += k_per_part;
      for (PartTensor const& tensor : contents)
        bytes += k_per_part + k_per_run * static_cast<std::int64_t>(tensor.runs.size());
    }
  return bytes;
}

}  // namespace

Offsets create(std::string const& path, CheckpointHeader const& header,
               std::vector<WriteGroup> const& groups, std::int64_t element_bytes,
               Parts const* parts) {
  Skeleton skeleton(path, largest_size(header, groups, element_bytes, parts));
  write_header(skeleton, header);
  write_text(skeleton, "config", header.deck);
  write_text(skeleton, "mask", header.mask);
  if (parts != nullptr) write_parts(skeleton, *parts);
  const std::string what = "cannot prepare " + path;
  Offsets offsets;
  // What comes next in each part: its contents are in the order of the groups and tensors.
  std::vector<std::size_t> next(parts == nullptr ? 0 : parts->contents.size(), 0);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::string const& group = groups[g].name;
    if (g == 1) {
      skeleton.create_group("optimizer");
      skeleton.create_group("crc/optimizer");
    }
    if (g > 0) skeleton.create_group(group);
    hsize_t blocks = 0;
    for (std::size_t t = 0; t < groups[g].tensors.size(); ++t) {
      TensorSpec const& tensor = groups[g].tensors[t];
      const std::string name = group + "/" + tensor.name;
      const std::vector<hsize_t> extents(tensor.shape.begin(), tensor.shape.end());
      const h5::Id space(
          H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), H5Sclose,
          what);
      h5::Id dataset;
      if (parts == nullptr) {
        dataset = skeleton.create_dataset(name, element_type(element_bytes), space);
        offsets.tensors.push_back(offset_of(dataset, what));
      } else {
        std::vector<Skeleton::Mapping> mappings;
        for (std::size_t p = 0; p < next.size(); ++p) {
          auto const& contents = parts->contents[p];
          if (next[p] == contents.size() || contents[next[p]].group != static_cast<int>(g) ||
              contents[next[p]].tensor != static_cast<int>(t))
            continue;
          mappings.push_back(
              {parts->folder + "/" +
                   layout::part_name(static_cast<int>(p), static_cast<int>(next.size())),
               &contents[next[p]].runs});
          ++next[p];
        }
        dataset =
            skeleton.create_virtual(name, element_type(element_bytes), space, extents, mappings);
      }
      h5::write_attribute(dataset, "crc_begin", static_cast<std::int64_t>(blocks), what);
      if (tensor.transposed) h5::write_attribute(dataset, "transposed", std::int64_t{1}, what);
      blocks += static_cast<hsize_t>(layout::block_count(tensor.size()));
    }
    const h5::Id space(H5Screate_simple(1, &blocks, nullptr), H5Sclose, what);
    const h5::Id dataset = skeleton.create_dataset("crc/" + group, H5T_STD_U32LE, space);
    offsets.crcs.push_back(offset_of(dataset, what));
  }
  offsets.file_bytes = skeleton.finish();
  return offsets;
}

Offsets create_part(std::string const& path, std::string const& name, int part, int parts,
                    IndexRange ranks, std::vector<WriteGroup> const& groups,
                    std::vector<PartTensor> const& contents, std::int64_t element_bytes) {
  std::int64_t largest = k_per_file;
  for (PartTensor const& tensor : contents)
    largest += k_per_tensor + tensor.elements() * element_bytes;
  Skeleton skeleton(path, largest);
  const std::string what = "cannot prepare " + path;
  write_versions(skeleton.file(), layout::k_part_format, what);
  h5::write_attribute(skeleton.file(), "part", std::int64_t{part + 1}, what);
  h5::write_attribute(skeleton.file(), "parts", std::int64_t{parts}, what);
  h5::write_attribute(skeleton.file(), "first_rank", ranks.begin, what);
  h5::write_attribute(skeleton.file(), "last_rank", ranks.end - 1, what);
  h5::write_attribute(skeleton.file(), "description",
                      "the elements that these ranks own, in ascending order; " + name +
                          " shows the tensors as a whole",
                      what);
  Offsets offsets;
  {
    const h5::Id type = h5::text_type(layout::k_id_length, what);
    const h5::Id scalar(H5Screate(H5S_SCALAR), H5Sclose, what);
    offsets.id = offset_of(skeleton.create_dataset(layout::k_part_id, type, scalar), what);
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (g == 1) skeleton.create_group("optimizer");
    skeleton.create_group(groups[g].name);
  }
  for (PartTensor const& tensor : contents) {
    WriteGroup const& group = groups[tensor.group];
    const auto elements = static_cast<hsize_t>(tensor.elements());
    const h5::Id space(H5Screate_simple(1, &elements, nullptr), H5Sclose, what);
    const h5::Id dataset = skeleton.create_dataset(
        group.name + "/" + group.tensors[tensor.tensor].name, element_type(element_bytes), space);
    offsets.tensors.push_back(offset_of(dataset, what));
  }
  offsets.file_bytes = skeleton.finish();
  return offsets;
}

}  // namespace sdp::checkpoint_file
