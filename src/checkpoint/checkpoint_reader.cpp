// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
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
#include "checkpoint/stored_file.hpp"
#include "checkpoint/stored_parts.hpp"

namespace sdp {

namespace layout = checkpoint_layout;
using file_io::in_quotes;
using file_io::shape_text;
using stored_file::Dataset;
using stored_file::is_a;
using stored_file::is_native_float;
using stored_file::open_dataset;

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

}  // namespace

struct CheckpointReader::Impl {
  h5::Id hdf5;
  std::optional<file_io::File> file;
  StoredParts parts;
  std::map<std::string, std::vector<std::uint32_t>> crcs;  ///< of the groups read so far

  // The dataset that is open: a tensor is read in many chunks.
  std::string open_name;
  index_t elements = 0;
  std::int64_t crc_begin = 0;
  std::vector<Stretch> stretches;

  std::vector<char> buffer;

  /// f(file, byte, bytes) for the stretches of elements [begin, end) of the open dataset.
  template <class F>
  void for_stretches(index_t begin, index_t end, std::int64_t width, F&& f) {
    auto at = std::upper_bound(
        stretches.begin(), stretches.end(), begin,
        [](index_t element, Stretch const& stretch) { return element < stretch.begin; });
    for (--at; begin < end; ++at) {
      const index_t stop = std::min(end, at->begin + at->count);
      f(at->part < 0 ? *file : parts.file(at->part), at->offset + (begin - at->begin) * width,
        (stop - begin) * width);
      begin = stop;
    }
  }
};

CheckpointReader::CheckpointReader(std::string const& path) : m_impl(std::make_unique<Impl>()) {
  const h5::QuietErrors quiet;
  m_info.path = path;
  m_impl->hdf5 = stored_file::open(path);
  m_impl->file = file_io::File::open(path);
  const hid_t file = m_impl->hdf5;
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
  m_info.header = stored_file::read_header(file, path);
  m_impl->parts = StoredParts(file, path);
  m_info.parts = m_impl->parts.list();
  if (!is_a(file, "crc", H5O_TYPE_GROUP, path)) throw DataError(path + " has no group /crc");
  const h5::Id crc(H5Gopen2(file, "crc", H5P_DEFAULT), H5Gclose, "cannot read " + path);
  if (h5::read_text(crc, "algorithm", path + ": /crc") != layout::k_crc_algorithm ||
      h5::read_integer(crc, "block_elements", path + ": /crc") != layout::k_block_elements)
    throw DataError(path + ": /crc describes checksums that this program does not know");

  const h5::Id model(H5Gopen2(file, "model", H5P_DEFAULT), H5Gclose, "cannot read " + path);
  for (std::string const& name : h5::link_names(model, "cannot list /model of " + path)) {
    const Dataset dataset = open_dataset(file, "model/" + name, path, !m_info.parts.empty());
    if ((!is_native_float(dataset, 4) && !is_native_float(dataset, 8)) || dataset.extents.empty())
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
    if (tensor.transposed && tensor.shape.size() < 2)
      throw DataError(path + ": dataset /model/" + name + " is marked transposed but has " +
                      std::to_string(tensor.shape.size()) + " axes");
    (layout::is_statistic(name) ? m_info.statistics : m_info.parameters) += tensor.elements;
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
  for (StoredPart const& part : m_info.parts) m_info.bytes += part.bytes;
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
  const std::int64_t width = m_info.is_double ? 8 : 4;
  if (impl.open_name != name) {
    impl.open_name.clear();
    const Dataset dataset = open_dataset(impl.hdf5, name, path, !m_info.parts.empty());
    StoredTensor const* stored = find(tensor);
    if (!is_native_float(dataset, width) || stored == nullptr ||
        !std::equal(dataset.extents.begin(), dataset.extents.end(), stored->shape.begin(),
                    stored->shape.end(),
                    [](hsize_t a, index_t b) { return static_cast<index_t>(a) == b; }))
      throw DataError(path + ": dataset /" + name + " has the shape " +
                      shape_text(dataset.extents) + "; that of /model/" + tensor + " is expected");
    const std::string what = path + ": dataset /" + name;
    impl.crc_begin = h5::read_integer(dataset.id, "crc_begin", what);
    impl.elements = dataset.elements;
    if (dataset.is_virtual)
      impl.stretches = impl.parts.stretches(dataset, name);
    else
      impl.stretches = {{0, dataset.elements, -1, dataset.offset}};
    if (!impl.crcs.count(group))
      impl.crcs.emplace(group, stored_file::read_crcs(impl.hdf5, group, path));
    impl.open_name = name;
  }
  std::vector<std::uint32_t> const& crcs = impl.crcs.at(group);
  const index_t blocks = layout::block_count(impl.elements);
  if (impl.crc_begin < 0 || blocks > static_cast<index_t>(crcs.size()) - impl.crc_begin)
    throw DataError(path + ": dataset /crc/" + group + " has " + std::to_string(crcs.size()) +
                    " checksums, too few for /" + name);
  if (begin < 0 || count < 0 || count > impl.elements - begin)
    throw std::out_of_range("read_elements: elements outside of " + name);

  const bool same_type = width == static_cast<std::int64_t>(sizeof(T));
  // Little enough to be in the cache still when its checksums are compared.
  constexpr index_t k_step = 4 * layout::k_block_elements;
  const index_t end = begin + count;
  index_t at = begin / layout::k_block_elements * layout::k_block_elements;
  // What comes next is read from the disk while this is verified.
  const index_t ahead_end = std::min(end + k_chunk_elements, impl.elements);
  if (at < end)
    impl.for_stretches(at, ahead_end, width,
                       [](file_io::File const& file, std::int64_t offset, std::int64_t bytes) {
                         file.prefetch(offset, bytes);
                       });
  while (at < end) {
    const index_t block_end = layout::block_count(end) * layout::k_block_elements;
    const index_t chunk_end = std::min({at + k_step, block_end, impl.elements});
    const bool in_place = same_type && at >= begin && chunk_end <= end;
    if (!in_place) impl.buffer.resize(static_cast<std::size_t>((chunk_end - at) * width));
    char* data = in_place ? reinterpret_cast<char*>(out + (at - begin)) : impl.buffer.data();
    char* next = data;
    impl.for_stretches(at, chunk_end, width,
                       [&](file_io::File const& file, std::int64_t offset, std::int64_t bytes) {
                         file.read(offset, next, bytes);
                         next += bytes;
                       });
    for (index_t b = at; b < chunk_end; b += layout::k_block_elements) {
      const index_t b_end = std::min(b + layout::k_block_elements, chunk_end);
      const std::uint32_t crc = crc32_of(data + (b - at) * width, (b_end - b) * width);
      if (crc != crcs[impl.crc_begin + b / layout::k_block_elements])
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
