// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "comm/world.hpp"

namespace sdp {

/// Checkpoints of a folder in the order in which a run tries to continue from them: the one that
/// `latest` names, older ones from the newest on, then those that are newer than `latest`. Without
/// a usable `latest` from the newest on. DataError where `latest` exists, but no checkpoint does.
std::vector<std::string> resume_candidates(std::string const& folder);

/// A checkpoint that a run did not continue from, and the fault that was found in it.
struct PassedOver {
  std::string path;
  std::string why;
};

/// The checkpoint that a run continues from, and what it falls back to. A DataError means a damaged
/// file, and the next one is tried; every other error is not about this file alone, and ends the
/// run. One rank that finds damage is enough.
class ResumeChain {
 public:
  /// Rank-local.
  using Check = std::function<void(CheckpointReader const&)>;

  ResumeChain() = default;  ///< nothing to continue from
  /// Tries `paths` in this order, each of which must pass `check`. `run` is what a run that finds
  /// none is called in the error.
  ResumeChain(std::vector<std::string> paths, std::string run, Check check);
  /// One file without a fall-back: its damage is the error.
  ResumeChain(std::string path, Check check);

  /// Opens the first checkpoint that is sound as far as opening tells. Collective; errors are the
  /// same on every rank, DataError where there is none left.
  void open(World const& world);
  /// Calls `read` with the open checkpoint on every rank. Where that finds damage on any of them,
  /// opens the next checkpoint and returns false: whatever was read must be read again. Collective.
  bool read(World const& world, Check const& read);

  explicit operator bool() const { return m_reader.has_value(); }
  CheckpointReader const& operator*() const { return *m_reader; }
  CheckpointReader const* operator->() const { return &*m_reader; }
  std::vector<PassedOver> const& passed_over() const { return m_passed_over; }

 private:
  void pass_over(std::string const& why);

  std::vector<std::string> m_paths;
  std::string m_run;  ///< empty: no fall-back
  Check m_check;
  std::size_t m_next = 0;
  std::optional<CheckpointReader> m_reader;
  std::vector<PassedOver> m_passed_over;
};

}  // namespace sdp
