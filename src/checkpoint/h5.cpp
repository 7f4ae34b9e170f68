// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/h5.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "checkpoint/file_io.hpp"

namespace sdp::h5 {

namespace {

herr_t keep_description(unsigned, H5E_error2_t const* error, void* text) {
  if (error->desc != nullptr && *error->desc != '\0')
    *static_cast<std::string*>(text) = error->desc;
  return 0;
}

Id string_type(std::size_t size, std::string const& what) {
  Id type(H5Tcopy(H5T_C_S1), H5Tclose, what);
  check(H5Tset_size(type, std::max<std::size_t>(size, 1)), what);
  check(H5Tset_strpad(type, H5T_STR_NULLPAD), what);
  check(H5Tset_cset(type, H5T_CSET_UTF8), what);
  return type;
}

void write_attribute(hid_t object, char const* name, hid_t file_type, hid_t memory_type,
                     void const* value, std::string const& what) {
  const Id space(H5Screate(H5S_SCALAR), H5Sclose, what);
  const Id attribute(H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                     what);
  check(H5Awrite(attribute, memory_type, value), what);
}

Id open_attribute(hid_t object, char const* name, H5T_class_t expected, std::string const& what) {
  if (!has_attribute(object, name, what))
    throw DataError(what + " has no attribute " + std::string(name));
  Id attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose, what);
  const Id type(H5Aget_type(attribute), H5Tclose, what);
  const Id space(H5Aget_space(attribute), H5Sclose, what);
  if (H5Tget_class(type) != expected || H5Sget_simple_extent_npoints(space) != 1)
    throw DataError(what + ": attribute " + std::string(name) + " has an unexpected type");
  return attribute;
}

}  // namespace

std::string last_error() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_description, &text);
  return text.empty() ? "unknown HDF5 error" : text;
}

Id::Id(hid_t id, Close close, std::string const& what) : m_id(id), m_close(close) {
  if (id < 0) throw DataError(what + ": " + last_error());
}

void check(herr_t status, std::string const& what) {
  if (status < 0) throw DataError(what + ": " + last_error());
}

void disable_locking([[maybe_unused]] hid_t access, [[maybe_unused]] std::string const& what) {
#if H5_VERSION_GE(1, 10, 7)
  check(H5Pset_file_locking(access, false, true), what);
#endif
}

void write_attribute(hid_t object, char const* name, std::int64_t value, std::string const& what) {
  write_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value, what);
}

void write_attribute(hid_t object, char const* name, std::uint64_t value, std::string const& what) {
  write_attribute(object, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value, what);
}

void write_attribute(hid_t object, char const* name, double value, std::string const& what) {
  write_attribute(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value, what);
}

void write_attribute(hid_t object, char const* name, std::string const& value,
                     std::string const& what) {
  const Id type = string_type(value.size(), what);
  write_attribute(object, name, type, type, value.data(), what);
}

bool has_attribute(hid_t object, char const* name, std::string const& what) {
  const htri_t exists = H5Aexists(object, name);
  check(exists, what);
  return exists > 0;
}

std::int64_t read_integer(hid_t object, char const* name, std::string const& what) {
  const Id attribute = open_attribute(object, name, H5T_INTEGER, what);
  std::int64_t value = 0;
  check(H5Aread(attribute, H5T_NATIVE_INT64, &value), what);
  return value;
}

std::uint64_t read_unsigned(hid_t object, char const* name, std::string const& what) {
  const Id attribute = open_attribute(object, name, H5T_INTEGER, what);
  std::uint64_t value = 0;
  check(H5Aread(attribute, H5T_NATIVE_UINT64, &value), what);
  return value;
}

double read_real(hid_t object, char const* name, std::string const& what) {
  const Id attribute = open_attribute(object, name, H5T_FLOAT, what);
  double value = 0.0;
  check(H5Aread(attribute, H5T_NATIVE_DOUBLE, &value), what);
  return value;
}

std::string read_text(hid_t object, char const* name, std::string const& what) {
  const Id attribute = open_attribute(object, name, H5T_STRING, what);
  const Id type(H5Aget_type(attribute), H5Tclose, what);
  constexpr std::size_t k_longest = 65536;
  const std::size_t size = H5Tget_size(type);
  if (H5Tis_variable_str(type) != 0 || size == 0 || size > k_longest)
    throw DataError(what + ": attribute " + std::string(name) + " has an unexpected type");
  std::string value(size, '\0');
  check(H5Aread(attribute, type, value.data()), what);
  value.resize(std::min(value.find('\0'), size));
  return value;
}

Id text_type(std::size_t size, std::string const& what) {
  return string_type(size, what);
}

namespace {

/// Adds elements [begin, end) of the sub-array that the axes from `axis` on span, at the place that
/// `start` gives for the axes before: a part of a first row, whole rows, a part of a last row.
void add_range(hid_t space, std::vector<hsize_t> const& extents, std::size_t axis,
               std::vector<hsize_t>& start, index_t begin, index_t end, std::string const& what) {
  if (begin >= end) return;
  index_t inner = 1;
  for (std::size_t a = axis + 1; a < extents.size(); ++a) inner *= static_cast<index_t>(extents[a]);
  const index_t first_whole = (begin + inner - 1) / inner;
  const index_t last_whole = end / inner;
  if (begin % inner != 0) {
    start[axis] = static_cast<hsize_t>(begin / inner);
    const index_t row = begin / inner * inner;
    add_range(space, extents, axis + 1, start, begin - row, std::min(end - row, inner), what);
  }
  if (first_whole < last_whole) {
    std::vector<hsize_t> corner = start;
    std::vector<hsize_t> count(extents.size(), 1);
    corner[axis] = static_cast<hsize_t>(first_whole);
    count[axis] = static_cast<hsize_t>(last_whole - first_whole);
    for (std::size_t a = axis + 1; a < extents.size(); ++a) {
      corner[a] = 0;
      count[a] = extents[a];
    }
    check(H5Sselect_hyperslab(space, H5S_SELECT_OR, corner.data(), nullptr, count.data(), nullptr),
          what);
  }
  if (end % inner != 0 && last_whole >= first_whole) {
    start[axis] = static_cast<hsize_t>(last_whole);
    add_range(space, extents, axis + 1, start, 0, end - last_whole * inner, what);
  }
}

herr_t add_name(hid_t, char const* name, H5L_info_t const* info, void* names) {
  if (info->type == H5L_TYPE_HARD)
    static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

}  // namespace

void select(hid_t space, std::vector<hsize_t> const& extents, std::vector<Range> const& ranges,
            std::string const& what) {
  check(H5Sselect_none(space), what);
  std::vector<hsize_t> start(extents.size(), 0);
  for (Range const& range : ranges)
    add_range(space, extents, 0, start, range.begin, range.begin + range.count, what);
}

std::vector<Range> selected(hid_t space, std::vector<hsize_t> const& extents, index_t most,
                            std::string const& what) {
  const std::size_t axes = extents.size();
  const DataError unexpected(what + " has a selection of an unexpected form");
  if (axes == 0 || H5Sget_simple_extent_ndims(space) != static_cast<int>(axes)) throw unexpected;
  std::vector<hsize_t> blocks;
  const H5S_sel_type type = H5Sget_select_type(space);
  if (type == H5S_SEL_ALL) {
    blocks.assign(axes, 0);
    for (hsize_t extent : extents) blocks.push_back(extent - 1);
  } else if (type == H5S_SEL_HYPERSLABS) {
    const hssize_t count = H5Sget_select_hyper_nblocks(space);
    if (count < 0 || count > most) throw unexpected;
    blocks.resize(static_cast<std::size_t>(count) * 2 * axes);
    if (count > 0)
      check(H5Sget_select_hyper_blocklist(space, 0, static_cast<hsize_t>(count), blocks.data()),
            what);
  } else {
    throw unexpected;
  }
  std::vector<Range> ranges;
  for (std::size_t at = 0; at < blocks.size(); at += 2 * axes) {
    hsize_t const* first = &blocks[at];
    hsize_t const* last = first + axes;
    for (std::size_t a = 0; a < axes; ++a)
      if (first[a] > last[a] || last[a] >= extents[a]) throw unexpected;
    // Axes behind `outer` are whole, so that a range spans them and the one before.
    std::size_t outer = axes - 1;
    while (outer > 0 && first[outer] == 0 && last[outer] + 1 == extents[outer]) --outer;
    std::vector<hsize_t> corner(first, last);
    for (;;) {
      index_t begin = 0;
      index_t count = 1;
      for (std::size_t a = 0; a < axes; ++a) {
        begin = begin * static_cast<index_t>(extents[a]) + static_cast<index_t>(corner[a]);
        if (a >= outer) count *= static_cast<index_t>(last[a] - first[a] + 1);
      }
      if (static_cast<index_t>(ranges.size()) == most) throw unexpected;
      ranges.push_back({begin, count});
      std::size_t a = outer;
      while (a > 0 && ++corner[a - 1] > last[a - 1]) {
        corner[a - 1] = first[a - 1];
        --a;
      }
      if (a == 0) break;
    }
  }
  std::sort(ranges.begin(), ranges.end(),
            [](Range const& a, Range const& b) { return a.begin < b.begin; });
  return ranges;
}

std::vector<std::string> link_names(hid_t group, std::string const& what) {
  std::vector<std::string> names;
  hsize_t position = 0;
  // In native order: for any other, HDF5 1.10 makes a table first and, where the index of the group
  // is damaged, frees the part of the table that it has not filled.
  check(H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, &position, add_name, &names), what);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace sdp::h5
