// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config/config.hpp"

namespace sdp {

/// The files of one run under run.out_dir; only rank 0 calls what writes.
class RunFolder {
 public:
  explicit RunFolder(std::string const& out_dir) : m_root(out_dir) {}

  std::filesystem::path const& root() const { return m_root; }
  std::filesystem::path config() const { return m_root / "config.toml"; }
  std::filesystem::path plan() const { return m_root / "plan.json"; }
  std::filesystem::path mask() const { return m_root / "mask.json"; }
  std::filesystem::path metrics() const { return m_root / "metrics.jsonl"; }
  std::filesystem::path summary() const { return m_root / "summary.json"; }
  std::filesystem::path checkpoints() const { return m_root / "checkpoints"; }

  /// True when a run has written here before.
  bool holds_run() const;

  /// Refuses what cannot become or continue a run, without writing: a folder that cannot be created
  /// or written, one that holds other files, or a used one under checkpoint.resume = "never".
  /// ConfigError.
  void check(Config const& config) const;

  /// Creates the folders (ConfigError where that fails), writes config.toml (DataError) and removes
  /// the summary of an earlier end.
  void create(Config const& config) const;

  /// Gives checkpoints that cannot be read another name, so that neither a later start nor the
  /// count of checkpoints.keep meets them again, and makes `latest` name the one that the run
  /// continues from. Files elsewhere are left alone. DataError where `latest` cannot be written.
  void set_aside(std::vector<std::string> const& unreadable, std::string const& resumed) const;

 private:
  std::filesystem::path m_root;
};

/// Writes a small text file completely or not at all (temporary name, then rename). DataError names
/// the file and the reason.
void write_file(std::filesystem::path const& path, std::string const& text);

/// Keys that decide what a run computes from its start on, compared between the deck that a run was
/// started with and the one it continues with. ConfigError names the first that differs.
void require_same_run(Config const& started, Config const& now, std::string const& where);

}  // namespace sdp
