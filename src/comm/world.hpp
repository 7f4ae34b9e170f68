// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/min_mean_max.hpp"

namespace sdp {

/// The processes of a run: a duplicated communicator, this process's place in it, and the small
/// collectives that control flow needs.
///
/// Ranks are transport, workers are arithmetic: holder sets and averages count workers, messages go
/// to ranks. Every worker is one rank; only lone() has workers without one. Every function marked
/// "collective" must be called by all ranks in the same order. A failed MPI call throws
/// CommunicationError.
class World {
 public:
  /// Duplicates `parent`; collective. Ranks per node come from the shared-memory split of MPI
  /// unless declared (> 0), in which case rank r is number r mod declared of its node. Throws
  /// ConfigError on every rank when the rank count is not a multiple of the declared number.
  static World from(MPI_Comm parent, int declared_ranks_per_node = 0);

  /// Worker `worker` of `workers` in a process of its own, to measure it without the others, which
  /// do not exist: one rank, whose collectives are its own. Collective among nobody.
  static World lone(int worker, int workers);
  /// The ranks that name the same group, in their order, as a world of their own. Collective.
  World split(int group) const;

  World(World&& other) noexcept { swap(other); }
  World& operator=(World&& other) noexcept {
    swap(other);
    return *this;
  }
  World(World const&) = delete;
  World& operator=(World const&) = delete;
  ~World();

  int rank() const { return m_rank; }
  int size() const { return m_size; }
  int worker() const { return m_worker; }
  int workers() const { return m_workers; }
  /// Whether the other workers do not exist.
  bool is_lone() const { return m_workers > m_size; }
  /// The rank that messages to a worker go to.
  int rank_of(int worker) const { return worker; }
  /// Place of this rank among the ranks of its node, from 0.
  int node_rank() const { return m_node_rank; }
  /// The ranks of this rank's node, ascending.
  std::vector<int> const& node_ranks() const { return m_node_ranks; }
  /// Ranks on a node; where nodes differ, the largest number.
  int ranks_per_node() const { return m_ranks_per_node; }
  /// The ranks_per_node of make_schedule: where the ranks of every node follow each other, rank r
  /// on node r / ranks_per_node(), that number; elsewhere 1, as if every rank had its own node.
  int node_size() const { return m_node_size; }
  bool is_root() const { return m_rank == 0; }
  MPI_Comm comm() const { return m_comm; }

  // ---- collective ----
  void barrier() const;
  double sum(double value) const;
  double min(double value) const;
  double max(double value) const;
  std::int64_t sum(std::int64_t value) const;
  std::int64_t min(std::int64_t value) const;
  std::int64_t max(std::int64_t value) const;
  MinMeanMax min_mean_max(double value) const;
  bool any(bool value) const { return max(static_cast<std::int64_t>(value)) != 0; }
  bool all(bool value) const { return min(static_cast<std::int64_t>(value)) != 0; }

  /// values[i] = sum over ranks, in place; every rank gives the same length. Exact, and equal on
  /// all ranks, where each element is non-zero on at most one rank; otherwise the order of the
  /// additions belongs to MPI.
  void sum_in_place(double* values, std::int64_t count) const;
  void sum_in_place(std::vector<double>& values) const {
    sum_in_place(values.data(), static_cast<std::int64_t>(values.size()));
  }
  /// The same for integers: exact, and equal on all ranks, unless a sum overflows.
  void sum_in_place(std::vector<std::int64_t>& values) const;

  /// Bytes of `root` to all ranks.
  void broadcast_bytes(void* bytes, std::int64_t count, int root = 0) const;
  /// Length and contents of `root` to all ranks.
  void broadcast(std::string& text, int root = 0) const;
  template <class T>
  void broadcast(std::vector<T>& values, int root = 0) const {
    static_assert(std::is_trivially_copyable_v<T>);
    std::int64_t count = static_cast<std::int64_t>(values.size());
    broadcast_bytes(&count, sizeof(count), root);
    values.resize(static_cast<std::size_t>(count));
    broadcast_bytes(values.data(), count * static_cast<std::int64_t>(sizeof(T)), root);
  }

  /// The texts of all ranks in rank order on `root`; an empty list elsewhere.
  std::vector<std::string> gather(std::string const& text, int root = 0) const;
  /// The values of all ranks in rank order, on every rank.
  std::vector<double> all_gather(double value) const;

  /// Runs f on every rank and returns its result, or throws the same Error on every rank when f
  /// threw on any of them: code and text of the lowest failing rank. A std::exception that is no
  /// Error counts as ExitCode::data. f must not communicate: ranks where it throws early would
  /// leave the others waiting.
  template <class F>
  auto collectively(F&& f) const -> std::invoke_result_t<F&&> {
    using Result = std::invoke_result_t<F&&>;
    std::optional<Failure> failure;
    if constexpr (std::is_void_v<Result>) {
      try {
        std::forward<F>(f)();
      } catch (std::exception const& error) {
        failure = describe(error);
      }
      agree(failure);
    } else {
      std::optional<Result> result;
      try {
        result.emplace(std::forward<F>(f)());
      } catch (std::exception const& error) {
        failure = describe(error);
      }
      agree(failure);
      return std::move(*result);
    }
  }

 private:
  struct Failure {
    ExitCode code;
    std::string text;
  };

  World() = default;
  void swap(World& other) noexcept;
  static Failure describe(std::exception const& error);
  void agree(std::optional<Failure> const& failure) const;

  MPI_Comm m_comm = MPI_COMM_NULL;
  int m_rank = 0;
  int m_size = 1;
  int m_worker = 0;
  int m_workers = 1;
  int m_node_rank = 0;
  int m_ranks_per_node = 1;
  int m_node_size = 1;
  std::vector<int> m_node_ranks;
};

}  // namespace sdp
