// SPDX-License-Identifier: Apache-2.0
#include "train/resume.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/error.hpp"
#include "base/heartbeat.hpp"

namespace sdp {

namespace fs = std::filesystem;

std::vector<std::string> resume_candidates(std::string const& folder) {
  std::vector<std::string> paths = list_checkpoints(folder);
  std::optional<std::string> latest;
  try {
    latest = find_latest(folder);
  } catch (Error const&) {  // `latest` is not text
  }
  if (!latest && paths.empty()) {
    std::error_code ignored;
    const fs::path file = fs::path(folder) / "latest";
    if (fs::exists(fs::symlink_status(file, ignored)))
      throw DataError("\"" + file.string() +
                      "\" exists, but its folder holds no checkpoint: put one back, or remove the "
                      "file to start the run again from its beginning");
    return paths;
  }
  if (!latest) return paths;
  const auto named = std::find(paths.begin(), paths.end(), *latest);
  if (named == paths.end())
    paths.insert(paths.begin(), *latest);
  else
    std::rotate(paths.begin(), named, paths.end());
  return paths;
}

ResumeChain::ResumeChain(std::vector<std::string> paths, std::string run, Check check)
    : m_paths(std::move(paths)), m_run(std::move(run)), m_check(std::move(check)) {}
ResumeChain::ResumeChain(std::string path, Check check)
    : m_paths{std::move(path)}, m_check(std::move(check)) {}

void ResumeChain::open(World const& world) {
  heartbeat::phase("opening a checkpoint");
  m_reader.reset();
  while (m_next < m_paths.size()) {
    try {
      world.collectively([&] {
        m_reader.emplace(m_paths[m_next]);
        m_check(*m_reader);
      });
      return;
    } catch (DataError const& error) {
      m_reader.reset();
      pass_over(error.what());
    }
  }
  if (m_passed_over.empty()) return;
  const std::size_t others = m_passed_over.size() - 1;
  throw on_all_ranks(DataError(fmt::format(
      "no checkpoint of the run in \"{}\" can be read: {}{}; put one back, name one in "
      "checkpoint.resume, or choose another run.out_dir",
      m_run, m_passed_over.front().why,
      others == 0 ? ""
                  : fmt::format(" ({} more {} damaged)", others, others == 1 ? "is" : "are"))));
}

bool ResumeChain::read(World const& world, Check const& read) {
  heartbeat::phase("reading a checkpoint");
  try {
    world.collectively([&] { read(*m_reader); });
    return true;
  } catch (DataError const& error) {
    pass_over(error.what());
  }
  open(world);
  return false;
}

void ResumeChain::pass_over(std::string const& why) {
  if (m_run.empty()) throw on_all_ranks(DataError(why));
  m_passed_over.push_back({m_paths[m_next++], why});
}

}  // namespace sdp
