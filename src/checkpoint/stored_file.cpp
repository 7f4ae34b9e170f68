// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/stored_file.hpp"

#include <utility>

#include "base/error.hpp"
#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/crc_blocks.hpp"
#include "checkpoint/file_io.hpp"

namespace sdp::stored_file {

namespace layout = checkpoint_layout;
using file_io::in_quotes;

h5::Id open(std::string const& path) {
  file_io::File::open(path);  // says whether it is there and a file
  const std::string what = "cannot open " + path;
  const h5::Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, what);
  h5::check(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), what);
  h5::disable_locking(access, what);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  if (file < 0) {
    const std::string reason = h5::last_error();
    if (H5Fis_hdf5(path.c_str()) <= 0)
      throw DataError(path + " is no checkpoint: it is not an HDF5 file, or its start is damaged");
    throw DataError(path + " is damaged or incomplete: " + reason);
  }
  return h5::Id(file, H5Fclose, what);
}

bool is_a(hid_t file, std::string const& name, H5O_type_t type, std::string const& path) {
  const std::string what = "cannot read " + path + ": /" + name;
  for (std::size_t at = 0; at < name.size();) {  // every step of the name must exist
    const std::size_t slash = std::min(name.find('/', at), name.size());
    const htri_t exists = H5Lexists(file, name.substr(0, slash).c_str(), H5P_DEFAULT);
    h5::check(exists, what);
    if (exists == 0) return false;
    at = slash + 1;
  }
#if H5_VERSION_GE(1, 12, 0)
  H5O_info2_t info;
  h5::check(H5Oget_info_by_name3(file, name.c_str(), &info, H5O_INFO_BASIC, H5P_DEFAULT), what);
#elif H5_VERSION_GE(1, 10, 3)
  H5O_info_t info;
  h5::check(H5Oget_info_by_name2(file, name.c_str(), &info, H5O_INFO_BASIC, H5P_DEFAULT), what);
#else
  H5O_info_t info;
  h5::check(H5Oget_info_by_name(file, name.c_str(), &info, H5P_DEFAULT), what);
#endif
  return info.type == type;
}

Dataset open_dataset(hid_t file, std::string const& name, std::string const& path,
                     bool may_be_virtual) {
  const std::string what = "cannot read " + path + ": dataset /" + name;
  if (!is_a(file, name, H5O_TYPE_DATASET, path)) throw DataError(path + " has no dataset /" + name);
  Dataset dataset;
  dataset.id = h5::Id(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, what);
  const h5::Id space(H5Dget_space(dataset.id), H5Sclose, what);
  const h5::Id type(H5Dget_type(dataset.id), H5Tclose, what);
  const h5::Id creation(H5Dget_create_plist(dataset.id), H5Pclose, what);
  dataset.type_class = H5Tget_class(type);
  dataset.width = static_cast<std::int64_t>(H5Tget_size(type));
  const int axes = H5Sget_simple_extent_ndims(space);
  if (axes < 0) throw DataError(what + ": " + h5::last_error());
  dataset.extents.resize(static_cast<std::size_t>(axes));
  if (axes > 0) H5Sget_simple_extent_dims(space, dataset.extents.data(), nullptr);
  std::int64_t bytes = dataset.width;
  dataset.elements = 1;
  bool overflow = dataset.width <= 0;
  for (hsize_t extent : dataset.extents) {
    overflow =
        overflow || extent > static_cast<hsize_t>(INT64_MAX) ||
        __builtin_mul_overflow(dataset.elements, static_cast<index_t>(extent), &dataset.elements);
  }
  overflow = overflow || __builtin_mul_overflow(bytes, dataset.elements, &bytes);
  const H5D_layout_t storage = H5Pget_layout(creation);
  dataset.is_virtual = storage == H5D_VIRTUAL;
  if (overflow || (dataset.is_virtual && !may_be_virtual) ||
      (!dataset.is_virtual && (storage != H5D_CONTIGUOUS ||
                               H5Dget_storage_size(dataset.id) != static_cast<hsize_t>(bytes))))
    throw DataError(path + ": dataset /" + name + " is not stored in one piece of " +
                    std::to_string(bytes) + " bytes");
  if (!dataset.is_virtual && bytes > 0) {
    const haddr_t offset = H5Dget_offset(dataset.id);
    if (offset == HADDR_UNDEF || offset > static_cast<haddr_t>(INT64_MAX - bytes))
      throw DataError(path + ": dataset /" + name + " has no place in the file");
    dataset.offset = static_cast<std::int64_t>(offset);
  }
  return dataset;
}

bool is_native_float(Dataset const& dataset, std::int64_t width) {
  const h5::Id type(H5Dget_type(dataset.id), H5Tclose, "cannot read a type");
  return dataset.width == width &&
         H5Tequal(type, width == 8 ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT) > 0;
}

std::vector<std::uint32_t> read_crcs(hid_t file, std::string const& group,
                                     std::string const& path) {
  const std::string name = "crc/" + group;
  const Dataset dataset = open_dataset(file, name, path);
  if (dataset.type_class != H5T_INTEGER || dataset.width != 4)
    throw DataError(path + ": dataset /" + name + " does not hold 32-bit integers");
  std::vector<std::uint32_t> values(static_cast<std::size_t>(dataset.elements));
  if (!values.empty())
    h5::check(H5Dread(dataset.id, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
              "cannot read " + path + ": dataset /" + name);
  return values;
}

namespace {

/// A text with its checksum; empty where there is none.
std::string read_text(hid_t file, std::string const& name, std::string const& path) {
  if (!is_a(file, name, H5O_TYPE_DATASET, path)) return {};
  const Dataset dataset = open_dataset(file, name, path);
  if (dataset.type_class != H5T_STRING || !dataset.extents.empty())
    throw DataError(path + ": dataset /" + name + " is no text");
  const std::string what = "cannot read " + path + ": dataset /" + name;
  std::string text(static_cast<std::size_t>(dataset.width), '\0');
  const h5::Id type(H5Dget_type(dataset.id), H5Tclose, what);
  h5::check(H5Dread(dataset.id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()), what);
  const auto crcs = read_crcs(file, name, path);
  if (crcs.size() != 1 || crcs[0] != crc32_of(text.data(), static_cast<std::int64_t>(text.size())))
    throw DataError(path + ": dataset /" + name + " is damaged: its checksum does not match");
  return text;
}

ModelConfig read_model(hid_t model, std::string const& path) {
  const std::string what = path + ": /model";
  ModelConfig config;
  const std::string kind = h5::read_text(model, "kind", what);
  std::vector<std::pair<char const*, index_t>> sizes;
  if (kind == layout::k_kind_llama) {
    config.kind = ModelKind::llama;
    for (auto const& field : layout::k_llama_sizes) {
      config.llama.*field.member = h5::read_integer(model, field.name, what);
      sizes.emplace_back(field.name, config.llama.*field.member);
    }
    for (auto const& field : layout::k_llama_reals)
      config.llama.*field.member = h5::read_real(model, field.name, what);
    config.llama.tie_embeddings = h5::read_integer(model, "tie_embeddings", what) != 0;
  } else if (kind == layout::k_kind_resnet18) {
    config.kind = ModelKind::resnet18;
    for (auto const& field : layout::k_resnet_sizes) {
      config.resnet.*field.member = h5::read_integer(model, field.name, what);
      sizes.emplace_back(field.name, config.resnet.*field.member);
    }
  } else {
    throw DataError(what + " is of the unknown kind " + in_quotes(kind));
  }
  for (auto const& [name, size] : sizes)
    if (size < 1 || size > INT32_MAX)
      throw DataError(what + " has " + name + " = " + std::to_string(size) +
                      "; 1 to 2147483647 is allowed");
  return config;
}

TrainingState read_state(hid_t file, std::string const& path) {
  const std::string what = path + ": /state";
  if (!is_a(file, "state", H5O_TYPE_GROUP, path)) throw DataError(path + " has no group /state");
  const h5::Id group(H5Gopen2(file, "state", H5P_DEFAULT), H5Gclose, what);
  TrainingState state;
  state.step = h5::read_integer(group, "step", what);
  state.samples = h5::read_integer(group, "samples", what);
  state.tokens = h5::read_integer(group, "tokens", what);
  state.skipped = h5::read_integer(group, "skipped", what);
  state.data_tokens = h5::read_integer(group, "data_tokens", what);
  state.seed = h5::read_unsigned(group, "seed", what);
  if (h5::has_attribute(group, "best_val_loss", what))
    state.best_val_loss = h5::read_real(group, "best_val_loss", what);
  return state;
}

}  // namespace

CheckpointHeader read_header(hid_t file, std::string const& path) {
  if (!is_a(file, "model", H5O_TYPE_GROUP, path)) throw DataError(path + " has no group /model");
  const h5::Id model(H5Gopen2(file, "model", H5P_DEFAULT), H5Gclose, "cannot read " + path);
  CheckpointHeader header;
  header.model = read_model(model, path);
  header.state = read_state(file, path);
  header.deck = read_text(file, "config", path);
  header.mask = read_text(file, "mask", path);
  return header;
}

std::optional<std::string> parts_folder_of(std::string const& path) {
  const h5::QuietErrors quiet;
  try {
    const h5::Id file = open(path);
    if (!is_a(file, "parts", H5O_TYPE_GROUP, path)) return std::string();
    const h5::Id group(H5Gopen2(file, "parts", H5P_DEFAULT), H5Gclose, path);
    return h5::read_text(group, "folder", path);
  } catch (Error const&) {
    return std::nullopt;
  }
}

}  // namespace sdp::stored_file
