// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/checkpoint_folder.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <utility>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/file_io.hpp"
#include "checkpoint/parts_folder.hpp"
#include "checkpoint/stored_file.hpp"

namespace sdp {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view k_prefix = "step-";
constexpr std::string_view k_suffix = ".h5";
constexpr std::string_view k_temporary_suffix = ".h5.tmp";
constexpr std::string_view k_set_aside_suffix = ".unreadable";  // its parts stay beside it

/// The step in "step-<digits><suffix>", -1 for other names.
std::int64_t step_of(std::string const& name, std::string_view suffix) {
  if (name.size() <= k_prefix.size() + suffix.size() || name.rfind(k_prefix, 0) != 0 ||
      name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0)
    return -1;
  std::int64_t step = -1;
  char const* begin = name.data() + k_prefix.size();
  char const* end = name.data() + name.size() - suffix.size();
  const auto [stop, error] = std::from_chars(begin, end, step);
  return error == std::errc() && stop == end && *begin != '-' ? step : -1;
}

/// (step, path) of the files with this suffix, by descending step.
std::vector<std::pair<std::int64_t, std::string>> files_with(std::string const& folder,
                                                             std::string_view suffix) {
  std::vector<std::pair<std::int64_t, std::string>> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::int64_t step = step_of(entry->path().filename().string(), suffix);
    std::error_code ignored;
    if (step >= 0 && entry->is_regular_file(ignored))
      files.emplace_back(step, entry->path().string());
  }
  std::sort(files.begin(), files.end(), std::greater<>());
  return files;
}

}  // namespace

std::vector<std::string> list_checkpoints(std::string const& folder) {
  std::vector<std::string> paths;
  for (auto& [step, path] : files_with(folder, k_suffix)) paths.push_back(std::move(path));
  return paths;
}

std::optional<std::string> find_latest(std::string const& folder) {
  const fs::path latest = fs::path(folder) / "latest";
  std::error_code ignored;
  if (fs::is_regular_file(latest, ignored)) {
    constexpr std::int64_t k_longest_name = 4096;
    std::string name = file_io::read_text(latest.string(), k_longest_name);
    name.erase(
        std::find_if(name.begin(), name.end(), [](char c) { return c == '\n' || c == '\r'; }),
        name.end());
    const fs::path named = fs::path(folder) / name;
    if (!name.empty() && fs::path(name).filename() == fs::path(name) &&
        fs::is_regular_file(named, ignored))
      return named.string();
  }
  const std::vector<std::string> paths = list_checkpoints(folder);
  if (paths.empty()) return std::nullopt;
  return paths.front();
}

namespace checkpoint_folder {

void remove_leftovers(std::string const& folder) {
  for (auto const& [step, path] : files_with(folder, k_temporary_suffix))
    file_io::remove_quietly(path);
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const std::size_t infix = name.find(parts_folder::k_infix);
    std::error_code ignored;
    if (infix == std::string::npos || !entry->is_directory(ignored)) continue;
    const std::string index = name.substr(0, infix) + std::string(k_suffix);
    if (step_of(index, k_suffix) < 0) continue;
    const std::string path = (fs::path(folder) / index).string();
    if (fs::exists(path + std::string(k_set_aside_suffix), ignored)) continue;
    const std::optional<std::string> named =
        fs::exists(path, ignored) ? stored_file::parts_folder_of(path) : std::string();
    // What a checkpoint that cannot be opened refers to is not known.
    if (named && *named != name) parts_folder::remove(entry->path().string());
  }
}

void announce(std::string const& folder, std::string const& path, std::int64_t keep) {
  file_io::write_text((fs::path(folder) / "latest").string(),
                      fs::path(path).filename().string() + "\n");
  std::int64_t others = 0;
  for (std::string const& other : list_checkpoints(folder))
    if (other != path && ++others >= std::max<std::int64_t>(keep, 1))
      file_io::remove_quietly(other);
  remove_leftovers(folder);
}

}  // namespace checkpoint_folder

}  // namespace sdp
