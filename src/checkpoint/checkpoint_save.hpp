// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"

namespace sdp {

struct SaveOptions {
  std::int64_t keep = 2;  ///< checkpoints that stay, by descending step; the new one always does
  int files = 1;          ///< see write_checkpoint()
};

struct SavedCheckpoint {
  std::string path;
  std::int64_t bytes = 0;  ///< of all its files
  double seconds = 0.0;    ///< from its start until it had its name, max over ranks
};

/// Host memory for the elements that a rank writes; kept from one background save to the next.
template <class T>
using CheckpointCopy = Kokkos::View<T*, Kokkos::LayoutRight, HostSpace>;

/// One save of `folder`/step-%08d.h5 (the folder is made where it does not exist), which may go on
/// in a thread while the program does other work. In order: the construction lays the files out,
/// write() or write_in_background() fills them, publish() gives the checkpoint its name, then the
/// file `latest`, and removes older checkpoints and what a killed run left half-written. All of
/// that is collective; errors as write_checkpoint(). One save of a folder at a time.
template <class T>
class CheckpointSave {
 public:
  CheckpointSave(World const& world, std::string const& folder, SaveOptions const& options,
                 CheckpointHeader const& header, std::vector<CheckpointBuffer<T>> const& buffers);
  /// Waits for the thread of this rank. What is not published is removed.
  ~CheckpointSave();

  void write(std::vector<CheckpointBuffer<T>> const& buffers);
  /// Copies what this rank owns into `copy`, which grows where it is too small (counted as
  /// MemoryCategory::workspace), and writes it from a thread that uses neither MPI, HDF5 nor
  /// Kokkos. The buffers may change from here on; `copy` must stay until publish() returns.
  /// ConfigError where there is no memory for the copy.
  void write_in_background(std::vector<CheckpointBuffer<T>> const& buffers,
                           CheckpointCopy<T>& copy);

  std::int64_t step() const;
  /// Whether the thread of this rank is done, with or without an error. Rank-local.
  bool written() const;
  /// Waits for the threads of all ranks. An error in one of them is thrown here on every rank.
  SavedCheckpoint publish();

 private:
  struct Impl;
  std::unique_ptr<Impl> m_impl;
};

extern template class CheckpointSave<float>;
extern template class CheckpointSave<double>;

/// A whole save at once.
template <class T>
SavedCheckpoint save_checkpoint(World const& world, std::string const& folder,
                                SaveOptions const& options, CheckpointHeader const& header,
                                std::vector<CheckpointBuffer<T>> const& buffers) {
  CheckpointSave<T> save(world, folder, options, header, buffers);
  save.write(buffers);
  return save.publish();
}

}  // namespace sdp
