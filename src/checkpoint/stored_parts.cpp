// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/stored_parts.hpp"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/error.hpp"
#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/seal.hpp"

namespace sdp {

namespace layout = checkpoint_layout;
namespace fs = std::filesystem;
using file_io::in_quotes;

namespace {

constexpr std::size_t k_most_open = 256;  // parts at a time, two descriptors each
constexpr std::int64_t k_most_parts = 65536;

std::string virtual_text(hid_t creation, std::size_t index,
                         ssize_t (*get)(hid_t, std::size_t, char*, std::size_t),
                         std::string const& what) {
  constexpr ssize_t k_longest = 65536;
  const ssize_t length = get(creation, index, nullptr, 0);
  if (length < 0 || length > k_longest) throw DataError(what + ": " + h5::last_error());
  std::string text(static_cast<std::size_t>(length) + 1, '\0');
  get(creation, index, text.data(), text.size());
  text.pop_back();
  return text;
}

}  // namespace

StoredParts::StoredParts(hid_t checkpoint, std::string const& path) : m_path(path) {
  if (!stored_file::is_a(checkpoint, "parts", H5O_TYPE_GROUP, path)) return;
  seal::check(path);
  const std::string what = path + ": /parts";
  const h5::Id group(H5Gopen2(checkpoint, "parts", H5P_DEFAULT), H5Gclose, "cannot read " + what);
  const std::int64_t count = h5::read_integer(group, "count", what);
  const std::string folder = h5::read_text(group, "folder", what);
  m_id = h5::read_text(group, "checkpoint_id", what);
  if (count < 1 || count > k_most_parts)
    throw DataError(what + " has count = " + std::to_string(count) + "; 1 to " +
                    std::to_string(k_most_parts) + " is allowed");
  if (folder.empty() || folder == "." || folder == ".." || folder.find('/') != folder.npos)
    throw DataError(what + " names the folder " + in_quotes(folder) +
                    ", which is none beside the checkpoint");
  m_folder = fs::path(path).parent_path().string();
  std::error_code ignored;
  if (!fs::exists(fs::path(m_folder) / folder, ignored) && fs::is_symlink(path, ignored))
    m_folder = fs::canonical(path, ignored).parent_path().string();
  for (int part = 0; part < count; ++part) {
    const std::string name = layout::part_name(part, static_cast<int>(count));
    const std::string entry_name = "parts/" + name;
    if (!stored_file::is_a(checkpoint, entry_name, H5O_TYPE_GROUP, path))
      throw DataError(path + " has no group /" + entry_name);
    const std::string entry_what = path + ": /" + entry_name;
    const h5::Id entry(H5Gopen2(checkpoint, entry_name.c_str(), H5P_DEFAULT), H5Gclose,
                       "cannot read " + entry_what);
    StoredPart stored;
    stored.file = folder + "/" + name;
    stored.bytes = h5::read_integer(entry, "bytes", entry_what);
    stored.first_rank = static_cast<int>(h5::read_integer(entry, "first_rank", entry_what));
    stored.last_rank = static_cast<int>(h5::read_integer(entry, "last_rank", entry_what));
    m_list.push_back(std::move(stored));
  }
  for (int part = 0; part < count; ++part) open(part);
}

std::string StoredParts::path_of(int part) const {
  return (fs::path(m_folder) / m_list[part].file).string();
}

StoredParts::OpenPart& StoredParts::open(int part) {
  const auto known = m_open.find(part);
  if (known != m_open.end()) return known->second;
  if (m_open.size() == k_most_open) m_open.clear();
  StoredPart const& stored = m_list[part];
  const std::string what = m_path + ": its part file " + stored.file;
  const std::string path = path_of(part);
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) throw DataError(what + " is missing");
  file_io::File file = file_io::File::open(path);
  if (file.size() != stored.bytes)
    throw DataError(what + " has " + std::to_string(file.size()) + " bytes; " +
                    std::to_string(stored.bytes) + " were written");
  h5::Id hdf5;
  try {
    hdf5 = stored_file::open(path);
    check(part, hdf5);
  } catch (Error const& error) {
    throw DataError(what + ": " + error.what());
  }
  return m_open.emplace(part, OpenPart{std::move(hdf5), std::move(file)}).first->second;
}

/// Whether an open file is this part of this checkpoint.
void StoredParts::check(int part, hid_t file) const {
  const std::string path = path_of(part);
  if (!h5::has_attribute(file, "format", path) ||
      h5::read_text(file, "format", path) != layout::k_part_format)
    throw DataError("it is no part of an sdp checkpoint");
  const std::int64_t number = h5::read_integer(file, "part", path);
  const std::int64_t count = h5::read_integer(file, "parts", path);
  if (number != part + 1 || count != static_cast<std::int64_t>(m_list.size()))
    throw DataError("it is part " + std::to_string(number) + " of " + std::to_string(count) +
                    " by its contents");
  const stored_file::Dataset id = stored_file::open_dataset(file, layout::k_part_id, path);
  if (id.type_class != H5T_STRING || !id.extents.empty() || id.width != layout::k_id_length)
    throw DataError("it does not say which checkpoint it belongs to");
  std::string text(layout::k_id_length, '\0');
  const h5::Id type(H5Dget_type(id.id), H5Tclose, path);
  h5::check(H5Dread(id.id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()), path);
  if (text != m_id)
    throw DataError("it belongs to another checkpoint, that of id " + in_quotes(text) +
                    " and not " + in_quotes(m_id));
}

std::vector<Stretch> StoredParts::stretches(stored_file::Dataset const& dataset,
                                            std::string const& name) {
  const std::string what = m_path + ": dataset /" + name;
  const h5::Id creation(H5Dget_create_plist(dataset.id), H5Pclose, "cannot read " + what);
  std::size_t mappings = 0;
  h5::check(H5Pget_virtual_count(creation, &mappings), "cannot read " + what);
  std::vector<Stretch> all;
  for (std::size_t i = 0; i < mappings; ++i) {
    const std::string file = virtual_text(creation, i, H5Pget_virtual_filename, what);
    const std::string source_name = virtual_text(creation, i, H5Pget_virtual_dsetname, what);
    const auto at = std::find_if(m_list.begin(), m_list.end(),
                                 [&](StoredPart const& part) { return part.file == file; });
    if (at == m_list.end() || source_name != "/" + name)
      throw DataError(what + " maps " + in_quotes(source_name) + " of " + in_quotes(file) +
                      ", which is not in a part of the checkpoint");
    const int part = static_cast<int>(at - m_list.begin());
    const stored_file::Dataset source =
        stored_file::open_dataset(open(part).hdf5, name, path_of(part));
    if (!stored_file::is_native_float(source, dataset.width) || source.extents.size() != 1)
      throw DataError(what + " maps a dataset of " + in_quotes(file) + " of another type");
    const h5::Id source_space(H5Pget_virtual_srcspace(creation, i), H5Sclose, what);
    const h5::Id space(H5Pget_virtual_vspace(creation, i), H5Sclose, what);
    if (H5Sget_select_type(source_space) != H5S_SEL_ALL)
      throw DataError(what + " maps a part of a dataset of " + in_quotes(file));
    std::int64_t offset = source.offset;
    index_t left = source.elements;
    for (h5::Range const& run : h5::selected(space, dataset.extents, source.elements, what)) {
      left -= run.count;
      if (left < 0) break;
      all.push_back({run.begin, run.count, part, offset});
      offset += run.count * dataset.width;
    }
    if (left != 0)
      throw DataError(what + " does not map the " + std::to_string(source.elements) +
                      " elements that " + in_quotes(file) + " holds of it");
  }
  std::sort(all.begin(), all.end(),
            [](Stretch const& a, Stretch const& b) { return a.begin < b.begin; });
  index_t covered = 0;
  for (Stretch const& stretch : all) {
    if (stretch.begin != covered)
      throw DataError(what + " does not map element " +
                      std::to_string(std::min(stretch.begin, covered)) + " once");
    covered += stretch.count;
  }
  if (covered != dataset.elements)
    throw DataError(what + " maps " + std::to_string(covered) + " of its " +
                    std::to_string(dataset.elements) + " elements");
  return all;
}

}  // namespace sdp
