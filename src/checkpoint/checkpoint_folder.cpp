// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "base/error.hpp"
#include "base/timer.hpp"
#include "checkpoint/checkpoint.hpp"
#include "checkpoint/file_io.hpp"

namespace sdp {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view k_prefix = "step-";
constexpr std::string_view k_suffix = ".h5";
constexpr std::string_view k_temporary_suffix = ".h5.tmp";

std::string step_name(std::int64_t step) {
  char name[64];
  std::snprintf(name, sizeof(name), "step-%08lld.h5", static_cast<long long>(step));
  return name;
}

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

template <class T>
SavedCheckpoint save_checkpoint(World const& world, std::string const& folder, std::int64_t keep,
                                CheckpointHeader const& header,
                                std::vector<CheckpointBuffer<T>> const& buffers) {
  const Timer timer;
  const std::string name = step_name(header.state.step);
  SavedCheckpoint saved;
  saved.path = (fs::path(folder) / name).string();
  world.collectively([&] {
    if (!world.is_root()) return;
    file_io::make_folder(folder);
    for (auto const& [step, path] : files_with(folder, k_temporary_suffix))
      file_io::remove_quietly(path);
  });
  write_checkpoint(&world, saved.path, header, buffers);
  world.collectively([&] {
    if (!world.is_root()) return;
    file_io::write_text((fs::path(folder) / "latest").string(), name + "\n");
    std::int64_t others = 0;
    for (std::string const& path : list_checkpoints(folder))
      if (path != saved.path && ++others >= std::max<std::int64_t>(keep, 1))
        file_io::remove_quietly(path);
    std::error_code error;
    saved.bytes = static_cast<std::int64_t>(fs::file_size(saved.path, error));
    if (error) throw DataError("cannot examine " + saved.path + ": " + error.message());
  });
  world.broadcast_bytes(&saved.bytes, sizeof(saved.bytes));
  saved.seconds = world.max(timer.seconds());
  return saved;
}

template SavedCheckpoint save_checkpoint(World const&, std::string const&, std::int64_t,
                                         CheckpointHeader const&,
                                         std::vector<CheckpointBuffer<float>> const&);
template SavedCheckpoint save_checkpoint(World const&, std::string const&, std::int64_t,
                                         CheckpointHeader const&,
                                         std::vector<CheckpointBuffer<double>> const&);

}  // namespace sdp
