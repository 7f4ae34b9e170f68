// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>
#include <cstring>
#include <map>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "base/error.hpp"
#include "checkpoint/checkpoint.hpp"
#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/crc_blocks.hpp"
#include "checkpoint/element_convert.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/h5.hpp"

namespace sdp {

namespace layout = checkpoint_layout;
using file_io::in_quotes;
using file_io::shape_text;

namespace {

/// Compares names with the numbers inside by value: layers.2 before layers.10.
bool natural_less(std::string const& a, std::string const& b) {
  auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  std::size_t i = 0;
  std::size_t j = 0;
  while (i < a.size() && j < b.size()) {
    if (digit(a[i]) && digit(b[j])) {
      std::size_t i_end = i;
      std::size_t j_end = j;
      while (i_end < a.size() && digit(a[i_end])) ++i_end;
      while (j_end < b.size() && digit(b[j_end])) ++j_end;
      if (i_end - i != j_end - j) return i_end - i < j_end - j;
      const int order = a.compare(i, i_end - i, b, j, j_end - j);
      if (order != 0) return order < 0;
      i = i_end;
      j = j_end;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i;
      ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

h5::Id open_file(std::string const& path) {
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

/// Whether there is an object of this type; DataError where the answer cannot be read.
bool is_a(hid_t file, std::string const& name, H5O_type_t type, std::string const& path) {
  const std::string what = "cannot read " + path + ": /" + name;
  for (std::size_t at = 0; at < name.size();) {  // every step of the name must exist
    const std::size_t slash = std::min(name.find('/', at), name.size());
    const htri_t exists = H5Lexists(file, name.substr(0, slash).c_str(), H5P_DEFAULT);
    h5::check(exists, what);
    if (exists == 0) return false;
    at = slash + 1;
  }
  H5O_info_t info;
  h5::check(H5Oget_info_by_name(file, name.c_str(), &info, H5P_DEFAULT), what);
  return info.type == type;
}

/// A dataset that is open, and what its own header says.
struct Dataset {
  h5::Id id;
  std::vector<hsize_t> extents;
  index_t elements = 0;
  H5T_class_t type_class = H5T_NO_CLASS;
  std::int64_t width = 0;  ///< bytes of an element
  std::int64_t crc_begin = 0;
};

Dataset open_dataset(hid_t file, std::string const& name, std::string const& path) {
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
  bool overflow = false;
  for (hsize_t extent : dataset.extents) {
    overflow =
        overflow || extent > static_cast<hsize_t>(INT64_MAX) ||
        __builtin_mul_overflow(dataset.elements, static_cast<index_t>(extent), &dataset.elements);
  }
  overflow = overflow || __builtin_mul_overflow(bytes, dataset.elements, &bytes);
  if (overflow || dataset.width <= 0 || H5Pget_layout(creation) != H5D_CONTIGUOUS ||
      H5Dget_storage_size(dataset.id) != static_cast<hsize_t>(bytes))
    throw DataError(path + ": dataset /" + name + " is not stored in one piece of " +
                    std::to_string(bytes) + " bytes");
  if (h5::has_attribute(dataset.id, "crc_begin", what))
    dataset.crc_begin = h5::read_integer(dataset.id, "crc_begin", what);
  return dataset;
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

struct CheckpointReader::Impl {
  h5::Id file;
  std::map<std::string, std::vector<std::uint32_t>> crcs;  ///< of the groups read so far
  std::string open_name;  ///< the dataset that is open: a tensor is read in many chunks
  Dataset open;
  std::vector<char> buffer;
};

CheckpointReader::CheckpointReader(std::string const& path) : m_impl(std::make_unique<Impl>()) {
  const h5::QuietErrors quiet;
  m_info.path = path;
  m_impl->file = open_file(path);
  const hid_t file = m_impl->file;
  if (!h5::has_attribute(file, "format", path) ||
      h5::read_text(file, "format", path) != layout::k_format)
    throw DataError(path + " is an HDF5 file but no sdp checkpoint: its attribute format is not " +
                    in_quotes(layout::k_format));
  const std::int64_t version = h5::read_integer(file, "format_version", path);
  if (version < 1 || version > k_checkpoint_version)
    throw DataError(path + " has format version " + std::to_string(version) +
                    "; this program reads versions 1 to " + std::to_string(k_checkpoint_version));
  m_info.version = static_cast<int>(version);
  m_info.written_by = h5::read_text(file, "written_by", path);
  if (!is_a(file, "model", H5O_TYPE_GROUP, path)) throw DataError(path + " has no group /model");
  const h5::Id model(H5Gopen2(file, "model", H5P_DEFAULT), H5Gclose, "cannot read " + path);
  m_info.header.model = read_model(model, path);
  m_info.header.state = read_state(file, path);
  m_info.header.deck = read_text(file, "config", path);
  m_info.header.mask = read_text(file, "mask", path);
  if (!is_a(file, "crc", H5O_TYPE_GROUP, path)) throw DataError(path + " has no group /crc");
  const h5::Id crc(H5Gopen2(file, "crc", H5P_DEFAULT), H5Gclose, "cannot read " + path);
  if (h5::read_text(crc, "algorithm", path + ": /crc") != layout::k_crc_algorithm ||
      h5::read_integer(crc, "block_elements", path + ": /crc") != layout::k_block_elements)
    throw DataError(path + ": /crc describes checksums that this program does not know");

  for (std::string const& name : h5::link_names(model, "cannot list /model of " + path)) {
    const Dataset dataset = open_dataset(file, "model/" + name, path);
    if (dataset.type_class != H5T_FLOAT || (dataset.width != 4 && dataset.width != 8) ||
        dataset.extents.empty())
      throw DataError(path + ": dataset /model/" + name + " is no array of float32 or float64");
    const bool is_double = dataset.width == 8;
    if (!m_info.tensors.empty() && is_double != m_info.is_double)
      throw DataError(path + ": dataset /model/" + name + " has " + std::to_string(dataset.width) +
                      "-byte elements, unlike the others");
    m_info.is_double = is_double;
    StoredTensor tensor;
    tensor.name = name;
    tensor.shape.assign(dataset.extents.begin(), dataset.extents.end());
    tensor.elements = dataset.elements;
    tensor.transposed = h5::has_attribute(dataset.id, "transposed", path + ": /model/" + name) &&
                        h5::read_integer(dataset.id, "transposed", path + ": /model/" + name) != 0;
    if (tensor.transposed && tensor.shape.size() != 2)
      throw DataError(path + ": dataset /model/" + name + " is marked transposed but has " +
                      std::to_string(tensor.shape.size()) + " axes");
    m_info.parameters += tensor.elements;
    m_info.tensors.push_back(std::move(tensor));
  }
  std::sort(m_info.tensors.begin(), m_info.tensors.end(),
            [](auto const& a, auto const& b) { return natural_less(a.name, b.name); });
  if (is_a(file, "optimizer", H5O_TYPE_GROUP, path)) {
    const h5::Id optimizer(H5Gopen2(file, "optimizer", H5P_DEFAULT), H5Gclose,
                           "cannot read " + path);
    for (std::string const& name : h5::link_names(optimizer, "cannot list /optimizer of " + path))
      m_info.moments.push_back("optimizer/" + name);
  }
  hsize_t bytes = 0;
  h5::check(H5Fget_filesize(file, &bytes), "cannot read " + path);
  m_info.bytes = static_cast<std::int64_t>(bytes);
}

CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;

StoredTensor const* CheckpointReader::find(std::string const& name) const {
  auto at = std::lower_bound(m_info.tensors.begin(), m_info.tensors.end(), name,
                             [](StoredTensor const& tensor, std::string const& key) {
                               return natural_less(tensor.name, key);
                             });
  return at != m_info.tensors.end() && at->name == name ? &*at : nullptr;
}

bool CheckpointReader::has_group(std::string const& group) const {
  return group == k_group_model ||
         std::find(m_info.moments.begin(), m_info.moments.end(), group) != m_info.moments.end();
}

void CheckpointReader::check_tensor(TensorSpec const& tensor) const {
  StoredTensor const* stored = find(tensor.name);
  if (stored == nullptr) throw DataError(m_info.path + " has no dataset /model/" + tensor.name);
  if (stored->shape != tensor.shape || stored->transposed != tensor.transposed)
    throw DataError(m_info.path + ": dataset /model/" + tensor.name + " has the shape " +
                    shape_text(stored->shape) + (stored->transposed ? " (transposed)" : "") + "; " +
                    shape_text(tensor.shape) + (tensor.transposed ? " (transposed)" : "") +
                    " is expected");
}

void CheckpointReader::check_tensors(std::vector<TensorSpec> const& tensors) const {
  std::vector<std::string> names;
  for (TensorSpec const& tensor : tensors) {
    check_tensor(tensor);
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  for (StoredTensor const& stored : m_info.tensors)
    if (!std::binary_search(names.begin(), names.end(), stored.name))
      throw DataError(m_info.path + " has the dataset /model/" + stored.name +
                      ", which the model does not have");
}

template <class T>
void CheckpointReader::read_elements(std::string const& group, std::string const& tensor,
                                     index_t begin, index_t count, T* out) const {
  const h5::QuietErrors quiet;
  std::string const& path = m_info.path;
  const std::string name = group + "/" + tensor;
  Impl& impl = *m_impl;
  if (impl.open_name != name) {
    impl.open_name.clear();
    impl.open = open_dataset(impl.file, name, path);
    StoredTensor const* stored = find(tensor);
    if (impl.open.type_class != H5T_FLOAT || impl.open.width != (m_info.is_double ? 8 : 4) ||
        stored == nullptr ||
        !std::equal(impl.open.extents.begin(), impl.open.extents.end(), stored->shape.begin(),
                    stored->shape.end(),
                    [](hsize_t a, index_t b) { return static_cast<index_t>(a) == b; }))
      throw DataError(path + ": dataset /" + name + " has the shape " +
                      shape_text(impl.open.extents) + "; that of /model/" + tensor +
                      " is expected");
    if (!impl.crcs.count(group)) impl.crcs.emplace(group, read_crcs(impl.file, group, path));
    impl.open_name = name;
  }
  Dataset const& dataset = impl.open;
  std::vector<std::uint32_t> const& crcs = impl.crcs.at(group);
  const index_t blocks = layout::block_count(dataset.elements);
  if (dataset.crc_begin < 0 || blocks > static_cast<index_t>(crcs.size()) - dataset.crc_begin)
    throw DataError(path + ": dataset /crc/" + group + " has " + std::to_string(crcs.size()) +
                    " checksums, too few for /" + name);
  if (begin < 0 || count < 0 || count > dataset.elements - begin)
    throw std::out_of_range("read_elements: elements outside of " + name);

  const std::int64_t width = dataset.width;
  const bool same_type = width == static_cast<std::int64_t>(sizeof(T));
  const std::string what = "cannot read " + path + ": dataset /" + name;
  const h5::Id file_space(H5Dget_space(dataset.id), H5Sclose, what);
  const index_t end = begin + count;
  index_t at = begin / layout::k_block_elements * layout::k_block_elements;
  while (at < end) {
    const index_t block_end = layout::block_count(end) * layout::k_block_elements;
    const index_t chunk_end = std::min({at + k_chunk_elements, block_end, dataset.elements});
    const bool in_place = same_type && at >= begin && chunk_end <= end;
    if (!in_place) impl.buffer.resize(static_cast<std::size_t>((chunk_end - at) * width));
    char* data = in_place ? reinterpret_cast<char*>(out + (at - begin)) : impl.buffer.data();
    h5::select(file_space, dataset.extents, {{at, chunk_end - at}}, what);
    const auto length = static_cast<hsize_t>(chunk_end - at);
    const h5::Id memory_space(H5Screate_simple(1, &length, nullptr), H5Sclose, what);
    h5::check(H5Dread(dataset.id, width == 8 ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT, memory_space,
                      file_space, H5P_DEFAULT, data),
              what);
    for (index_t b = at; b < chunk_end; b += layout::k_block_elements) {
      const index_t b_end = std::min(b + layout::k_block_elements, chunk_end);
      const std::uint32_t crc = crc32_of(data + (b - at) * width, (b_end - b) * width);
      if (crc != crcs[dataset.crc_begin + b / layout::k_block_elements])
        throw DataError(path + ": dataset /" + name + " is damaged: the checksum of elements " +
                        std::to_string(b) + " to " + std::to_string(b_end - 1) + " does not match");
    }
    if (!in_place) {
      const index_t first = std::max(at, begin);
      const index_t last = std::min(chunk_end, end);
      char const* from = data + (first - at) * width;
      if (width == 8)
        widen<double>(from, last - first, out + (first - begin));
      else
        widen<float>(from, last - first, out + (first - begin));
    }
    at = chunk_end;
  }
}

template void CheckpointReader::read_elements(std::string const&, std::string const&, index_t,
                                              index_t, float*) const;
template void CheckpointReader::read_elements(std::string const&, std::string const&, index_t,
                                              index_t, double*) const;

}  // namespace sdp
