// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/file_io.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.hpp"

namespace sdp::file_io {

namespace {

std::string reason(int error) {
  return std::generic_category().message(error);
}

std::string folder_of(std::string const& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

void sync_path(std::string const& path, int flags) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC);
  if (descriptor < 0) throw DataError("cannot open " + path + ": " + reason(errno));
  const int status = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // Some network file systems cannot flush a folder and say so; their renames are synchronous.
  const bool folder_without_sync = (flags & O_DIRECTORY) && (error == EINVAL || error == ENOTSUP);
  if (status != 0 && !folder_without_sync)
    throw DataError("cannot flush " + path + " to the disk: " + reason(error));
}

}  // namespace

File::File(std::string path, int descriptor, std::int64_t size)
    : m_path(std::move(path)), m_descriptor(descriptor), m_size(size) {}

File File::open(std::string const& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) throw ConfigError("cannot open " + path + ": " + reason(errno));
  File file(path, descriptor, 0);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0)
    throw ConfigError("cannot examine " + path + ": " + reason(errno));
  if (!S_ISREG(status.st_mode)) throw ConfigError(path + " is not a regular file");
  file.m_size = status.st_size;
  return file;
}

File File::create(std::string const& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) throw DataError("cannot create " + path + ": " + reason(errno));
  return File(path, descriptor, 0);
}

File File::open_to_write(std::string const& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor < 0) throw DataError("cannot open " + path + " to write: " + reason(errno));
  File file(path, descriptor, 0);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0)
    throw DataError("cannot examine " + path + ": " + reason(errno));
  file.m_size = status.st_size;
  return file;
}

File::File(File&& other) noexcept
    : m_path(std::move(other.m_path)),
      m_descriptor(std::exchange(other.m_descriptor, -1)),
      m_size(other.m_size) {}

File& File::operator=(File&& other) noexcept {
  std::swap(m_path, other.m_path);
  std::swap(m_descriptor, other.m_descriptor);
  std::swap(m_size, other.m_size);
  return *this;
}

File::~File() {
  if (m_descriptor >= 0) ::close(m_descriptor);
}

void File::read(std::int64_t offset, void* out, std::int64_t bytes) const {
  char* target = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = ::pread(m_descriptor, target, static_cast<std::size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      throw DataError("cannot read " + m_path + " at offset " + std::to_string(offset) + ": " +
                      reason(errno));
    if (got == 0)
      throw DataError(m_path + " ends at offset " + std::to_string(offset) + ", " +
                      std::to_string(bytes) + " bytes before the end of what is read");
    target += got;
    offset += got;
    bytes -= got;
  }
}

void File::prefetch(std::int64_t offset, std::int64_t bytes) const {
  ::posix_fadvise(m_descriptor, offset, bytes, POSIX_FADV_WILLNEED);
}

void File::write(std::int64_t offset, void const* data, std::int64_t bytes) {
  char const* source = static_cast<char const*>(data);
  while (bytes > 0) {
    const ssize_t put = ::pwrite(m_descriptor, source, static_cast<std::size_t>(bytes), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0)
      throw DataError("cannot write " + m_path + " at offset " + std::to_string(offset) + ": " +
                      reason(put < 0 ? errno : ENOSPC));
    source += put;
    offset += put;
    bytes -= put;
  }
}

void File::reserve(std::int64_t bytes) {
  auto fail = [&](int error) {
    throw DataError("cannot write " + m_path + " of " + std::to_string(bytes) +
                    " bytes: " + reason(error));
  };
  if (::ftruncate(m_descriptor, bytes) != 0) fail(errno);
  m_size = bytes;
  if (bytes == 0) return;
  int status = 0;
  do status = ::fallocate(m_descriptor, 0, 0, bytes);
  while (status != 0 && errno == EINTR);
  if (status != 0 && errno != EOPNOTSUPP && errno != ENOSYS) fail(errno);
}

void File::sync() {
  if (::fsync(m_descriptor) != 0)
    throw DataError("cannot flush " + m_path + " to the disk: " + reason(errno));
}

ScratchFile::ScratchFile(std::string const& purpose) {
  std::error_code error;
  for (std::string const& folder :
       {std::string("/dev/shm"), std::filesystem::temp_directory_path(error).string()}) {
    m_path = folder + "/sdp-XXXXXX";
    m_descriptor = ::mkostemp(m_path.data(), O_CLOEXEC);
    if (m_descriptor >= 0) return;
  }
  throw DataError("cannot create a temporary file for " + purpose + ": " + reason(errno));
}

ScratchFile::~ScratchFile() {
  unlink();
  ::close(m_descriptor);
}

void ScratchFile::unlink() {
  if (!m_path.empty()) ::unlink(m_path.c_str());
  m_path.clear();
}

std::int64_t ScratchFile::size() const {
  return ::lseek(m_descriptor, 0, SEEK_END);
}

void ScratchFile::copy_to(File& file) const {
  const std::int64_t end = size();
  std::vector<char> buffer(std::size_t{1} << 20);
  std::int64_t begin = 0;
  while (begin < end) {
    const std::int64_t data = ::lseek(m_descriptor, begin, SEEK_DATA);
    if (data < 0) break;  // a hole to the end
    const std::int64_t hole = ::lseek(m_descriptor, data, SEEK_HOLE);
    for (begin = data; begin < hole;) {
      const auto wanted = std::min(hole - begin, static_cast<std::int64_t>(buffer.size()));
      const ssize_t got =
          ::pread(m_descriptor, buffer.data(), static_cast<std::size_t>(wanted), begin);
      if (got <= 0) throw DataError("cannot read back the start of " + file.path());
      file.write(begin, buffer.data(), got);
      begin += got;
    }
  }
}

void check_size_limit(std::string const& path, std::int64_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      limit.rlim_cur < static_cast<rlim_t>(bytes))
    throw DataError("cannot write " + path + " of " + std::to_string(bytes) +
                    " bytes: " + reason(EFBIG));
}

std::string read_text(std::string const& path, std::int64_t limit) {
  const File file = File::open(path);
  if (file.size() > limit)
    throw ConfigError(path + " has " + std::to_string(file.size()) + " bytes; at most " +
                      std::to_string(limit) + " are expected");
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  return text;
}

void write_text(std::string const& path, std::string const& text) {
  const std::string temporary = path + ".tmp";
  try {
    File file = File::create(temporary);
    file.write(0, text.data(), static_cast<std::int64_t>(text.size()));
    file.sync();
    publish(temporary, path);
  } catch (...) {
    remove_quietly(temporary);
    throw;
  }
}

void sync_file(std::string const& path) {
  sync_path(path, O_RDONLY);
}

void sync_folder(std::string const& path) {
  sync_path(path, O_RDONLY | O_DIRECTORY);
}

void publish(std::string const& from, std::string const& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    throw DataError("cannot rename " + from + " to " + to + ": " + reason(errno));
  sync_folder(folder_of(to));
}

void remove_quietly(std::string const& path) noexcept {
  ::unlink(path.c_str());
}

void make_folder(std::string const& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error))
    error = std::make_error_code(std::errc::not_a_directory);
  if (error) throw DataError("cannot create the folder " + path + ": " + error.message());
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t k_longest = 120;
  std::string out = "\"";
  for (char c : text.substr(0, k_longest)) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned char>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + (text.size() > k_longest ? "...\"" : "\"");
}

}  // namespace sdp::file_io
