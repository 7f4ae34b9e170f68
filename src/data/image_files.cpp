// SPDX-License-Identifier: Apache-2.0
#include "data/image_files.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.hpp"
#include "data/text_file.hpp"

namespace sdp {

namespace {

namespace fs = std::filesystem;

constexpr index_t k_cifar_channels = 3;
constexpr index_t k_cifar_bytes = k_cifar_channels * k_image_side * k_image_side;
constexpr index_t k_coarse_classes = 20;  ///< of CIFAR-100
constexpr std::string_view k_compressed = ".gz";

[[noreturn]] void refuse(std::string const& path, std::string const& what) {
  throw ConfigError(path + ": " + what);
}

index_t size_of(std::string const& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0)
    refuse(path, std::string("cannot be opened as a file of images: ") + std::strerror(errno));
  if (!S_ISREG(status.st_mode)) refuse(path, "is not a regular file, expected a file of images");
  if (status.st_size == 0) refuse(path, "is empty, expected a file of images");
  return status.st_size;
}

/// A file as a stream of bytes, decompressed where it is compressed.
class Bytes {
 public:
  explicit Bytes(std::string const& path) : m_file(path) {}

  index_t offset() const { return m_offset; }  ///< of the next byte, after decompression
  /// Up to `count` bytes: fewer only at the end.
  index_t read(void* to, index_t count) {
    index_t done = 0;
    while (done < count && (m_begin < m_buffer.size() || fill())) {
      const index_t part = std::min(count - done, static_cast<index_t>(m_buffer.size() - m_begin));
      std::memcpy(static_cast<char*>(to) + done, m_buffer.data() + m_begin,
                  static_cast<std::size_t>(part));
      m_begin += static_cast<std::size_t>(part);
      done += part;
    }
    m_offset += done;
    return done;
  }
  bool at_end() { return m_begin == m_buffer.size() && !fill(); }

 private:
  bool fill() {
    m_buffer.clear();
    m_begin = 0;
    return m_file.append(m_buffer);
  }

  TextFile m_file;
  std::string m_buffer;
  std::size_t m_begin = 0;
  index_t m_offset = 0;
};

/// Reads what examine_images() has seen to be there.
void read_all(Bytes& bytes, std::string const& path, void* to, index_t count) {
  const index_t got = bytes.read(to, count);
  if (got < count)
    throw DataError(path + ": the data end at byte " + std::to_string(bytes.offset()) +
                    ", expected " + std::to_string(count - got) + " more");
}

void check_label(std::string const& path, index_t offset, index_t label, index_t classes,
                 std::string const& limit) {
  if (label >= classes)
    throw DataError(path + ": label " + std::to_string(label) + " at byte " +
                    std::to_string(offset) + " is out of range, expected less than " + limit +
                    " = " + std::to_string(classes));
}

// ---- CIFAR ----

index_t label_bytes(DataKind kind) {
  return kind == DataKind::cifar100 ? 2 : 1;
}

ImageFile examine_cifar(std::string const& path, DataKind kind) {
  const index_t size = size_of(path);
  const index_t record = label_bytes(kind) + k_cifar_bytes;
  if (size % record != 0)
    refuse(path, "has " + std::to_string(size) + " bytes, expected a multiple of the " +
                     std::to_string(record) + " that an image of " +
                     (kind == DataKind::cifar10 ? "CIFAR-10" : "CIFAR-100") + " takes");
  return {path, "", size / record, k_cifar_channels, k_image_side, k_image_side};
}

void read_cifar(ImageFile const& file, DataKind kind, index_t classes, std::uint8_t* pixels,
                std::uint8_t* labels) {
  std::ifstream in(file.path, std::ios::binary);
  const index_t width = label_bytes(kind);
  std::array<std::uint8_t, 2> found{};
  for (index_t i = 0; i < file.count; ++i) {
    const index_t offset = i * (width + k_cifar_bytes);
    in.read(reinterpret_cast<char*>(found.data()), width);
    in.read(reinterpret_cast<char*>(pixels + i * k_cifar_bytes), k_cifar_bytes);
    if (!in)
      throw DataError(file.path + ": the image at byte " + std::to_string(offset) +
                      " cannot be read, expected " + std::to_string(file.count) + " images");
    if (width == 2)
      check_label(file.path, offset, found[0], k_coarse_classes, "the number of coarse classes");
    labels[i] = found[static_cast<std::size_t>(width - 1)];
    check_label(file.path, offset + width - 1, labels[i], classes, "model.num_classes");
  }
}

// ---- IDX ----

struct IdxHeader {
  std::vector<index_t> extents;
  index_t bytes = 0;  ///< of the header
  index_t elements = 0;
};

constexpr int k_idx_bytes_type = 0x08;

/// Reads and checks a header, and compares what it promises with the size of the file.
IdxHeader examine_idx(std::string const& path) {
  const index_t size = size_of(path);
  Bytes bytes(path);
  std::array<std::uint8_t, 4> magic{};
  if (bytes.read(magic.data(), 4) < 4)
    refuse(path,
           "has " + std::to_string(bytes.offset()) + " bytes of data, too few for an IDX header");
  const int axes = magic[3];
  if (magic[0] != 0 || magic[1] != 0 || magic[2] != k_idx_bytes_type)
    refuse(path, "starts with the bytes " + std::to_string(magic[0]) + ", " +
                     std::to_string(magic[1]) + ", " + std::to_string(magic[2]) +
                     ", expected 0, 0, 8 of an IDX file of unsigned bytes");
  if (axes != 1 && axes != 3 && axes != 4)
    refuse(path, "is an IDX file of " + std::to_string(axes) +
                     " axes, expected 1 (labels), 3 (images) or 4 (images with channels)");
  IdxHeader header;
  header.elements = 1;
  for (int axis = 0; axis < axes; ++axis) {
    std::array<std::uint8_t, 4> big{};
    if (bytes.read(big.data(), 4) < 4)
      refuse(path, "ends at byte " + std::to_string(bytes.offset()) + ", inside its IDX header");
    const index_t extent =
        index_t{big[0]} << 24 | index_t{big[1]} << 16 | index_t{big[2]} << 8 | index_t{big[3]};
    if (extent == 0) refuse(path, "is an IDX file without an element");
    header.extents.push_back(extent);
    // Four extents of 32 bits can overflow; what no file holds is large enough to be refused.
    if (__builtin_mul_overflow(header.elements, extent, &header.elements))
      header.elements = INT64_MAX;
  }
  header.bytes = bytes.offset();
  std::array<std::uint8_t, 2> first{};
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(first.data()), 2);
  const std::string promised = "promises " + std::to_string(header.elements) + " bytes of data";
  if (first[0] == 0 && first[1] == 0) {  // not compressed
    if (header.elements != size - header.bytes)
      refuse(path, "its IDX header " + promised + ", but " + std::to_string(size - header.bytes) +
                       " follow it");
  } else {
    constexpr index_t k_best_ratio = 1032;  // of deflate
    if (header.elements / k_best_ratio > size)
      refuse(path, "its IDX header " + promised + ", more than " + std::to_string(size) +
                       " compressed bytes can hold");
  }
  return header;
}

void replace_last(std::string& text, std::string_view from, std::string_view to) {
  const std::size_t at = text.rfind(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
}

bool is_compressed(std::string const& path) {
  return path.size() > k_compressed.size() && path.ends_with(k_compressed);
}

std::string without_gz(std::string const& path) {
  return is_compressed(path) ? path.substr(0, path.size() - k_compressed.size()) : path;
}

/// The file of labels beside a file of images.
std::string labels_of(std::string const& key, std::string const& path) {
  std::string name = fs::path(path).filename().string();
  if (name.find("images") == std::string::npos)
    refuse(key, path + " has no \"images\" in its name, so that the name of its labels is not " +
                    "known; expected a name such as train-images-idx3-ubyte");
  replace_last(name, "images", "labels");
  replace_last(name, "idx3", "idx1");
  replace_last(name, "idx4", "idx1");
  const std::string beside = (fs::path(path).parent_path() / name).string();
  std::error_code ignored;
  for (std::string const& candidate :
       {beside, without_gz(beside), without_gz(beside) + std::string(k_compressed)})
    if (fs::is_regular_file(candidate, ignored)) return candidate;
  refuse(key, path + " has no file of labels beside it, expected " + beside);
}

std::string normal(std::string const& path) {
  return fs::absolute(path).lexically_normal().string();
}

std::vector<ImageFile> examine_idx_files(std::string const& key,
                                         std::vector<std::string> const& files) {
  std::vector<ImageFile> images;
  std::vector<std::string> label_files;
  std::set<std::string> seen;
  std::set<std::string> used;
  for (std::string const& path : files) {
    const IdxHeader header = examine_idx(path);
    if (header.extents.size() == 1) {
      label_files.push_back(path);
      continue;
    }
    if (!seen.insert(without_gz(normal(path))).second)
      refuse(key, path + " is named both compressed and not; expected one of the two");
    std::vector<index_t> const& extents = header.extents;
    const bool planes = extents.size() == 4;
    ImageFile file{path,
                   labels_of(key, path),
                   extents[0],
                   planes ? extents[1] : 1,
                   *(extents.end() - 2),
                   extents.back()};
    if (file.height > k_image_side || file.width > k_image_side)
      refuse(path, "has images of " + std::to_string(file.height) + " x " +
                       std::to_string(file.width) + ", expected at most " +
                       std::to_string(k_image_side) + " x " + std::to_string(k_image_side));
    const IdxHeader labels = examine_idx(file.labels);
    if (labels.extents.size() != 1)
      refuse(file.labels, "is an IDX file of " + std::to_string(labels.extents.size()) +
                              " axes, expected 1 (labels)");
    if (labels.extents[0] != file.count)
      refuse(file.labels, "has " + std::to_string(labels.extents[0]) + " labels, but " + path +
                              " has " + std::to_string(file.count) + " images");
    used.insert(without_gz(normal(file.labels)));
    images.push_back(std::move(file));
  }
  for (std::string const& path : label_files)
    if (!used.count(without_gz(normal(path))))
      refuse(key, path + " holds labels, but the images that belong to it are not named");
  return images;
}

void read_idx(ImageFile const& file, index_t classes, std::uint8_t* pixels, std::uint8_t* labels) {
  const auto read = [](std::string const& path, index_t header, index_t count, std::uint8_t* to) {
    Bytes bytes(path);
    std::array<char, 20> skipped{};
    read_all(bytes, path, skipped.data(), header);
    read_all(bytes, path, to, count);
    if (!bytes.at_end())
      throw DataError(path + ": the data go on after byte " + std::to_string(bytes.offset()) +
                      ", where its IDX header ends them");
  };
  // Images of one channel may have three axes or four.
  const IdxHeader header = examine_idx(file.path);
  if (header.elements != file.count * file.image_bytes())
    throw DataError(file.path + ": the header at byte 0 is no longer what it was");
  read(file.path, header.bytes, header.elements, pixels);
  constexpr index_t k_label_header = 8;
  read(file.labels, k_label_header, file.count, labels);
  for (index_t i = 0; i < file.count; ++i)
    check_label(file.labels, k_label_header + i, labels[i], classes, "model.num_classes");
}

}  // namespace

std::vector<ImageFile> examine_images(std::string const& key, DataKind kind,
                                      std::vector<std::string> const& files, index_t channels) {
  std::vector<ImageFile> images;
  if (kind == DataKind::idx)
    images = examine_idx_files(key, files);
  else
    for (std::string const& path : files) images.push_back(examine_cifar(path, kind));
  if (images.empty()) throw ConfigError(key + " names no file of images");
  for (ImageFile const& file : images)
    if (file.channels != channels)
      refuse(file.path, "has images of " + std::to_string(file.channels) +
                            (file.channels == 1 ? " channel" : " channels") +
                            ", but model.in_channels is " + std::to_string(channels));
  return images;
}

void read_images(ImageFile const& file, DataKind kind, index_t classes, std::uint8_t* pixels,
                 std::uint8_t* labels) {
  if (kind == DataKind::idx)
    read_idx(file, classes, pixels, labels);
  else
    read_cifar(file, kind, classes, pixels, labels);
}

}  // namespace sdp
