// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/parts_folder.hpp"

#include <filesystem>
#include <system_error>
#include <vector>

#include "checkpoint/file_io.hpp"

namespace sdp::parts_folder {

namespace fs = std::filesystem;

namespace {

std::string beside(std::string const& path, std::string const& end) {
  const fs::path file(path);
  return (file.parent_path() / (file.stem().string() + std::string(k_infix) + end)).string();
}

std::vector<fs::path> entries(fs::path const& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    paths.push_back(entry->path());
  return paths;
}

bool is_part(fs::path const& path) {
  const std::string name = path.filename().string();
  return name.rfind("part-", 0) == 0 && path.extension() == ".h5" &&
         name.find("-of-") != std::string::npos;
}

}  // namespace

std::string temporary(std::string const& path) {
  return beside(path, "tmp");
}

std::string named(std::string const& path, std::string const& id) {
  return beside(path, id);
}

void publish(std::string const& from, std::string const& to) {
  file_io::sync_folder(from);
  std::error_code error;
  if (!fs::exists(to, error)) {
    file_io::publish(from, to);
    return;
  }
  for (fs::path const& path : entries(from))
    file_io::publish(path.string(), (fs::path(to) / path.filename()).string());
  fs::remove(from, error);
}

void remove(std::string const& folder) noexcept {
  try {
    for (fs::path const& path : entries(folder))
      if (is_part(path)) file_io::remove_quietly(path.string());
    std::error_code ignored;
    fs::remove(folder, ignored);
  } catch (std::exception const&) {  // out of memory: the next save tries again
  }
}

}  // namespace sdp::parts_folder
