// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/checkpoint_save.hpp"

#include <atomic>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <thread>
#include <utility>

#include "base/error.hpp"
#include "base/memory_ledger.hpp"
#include "base/timer.hpp"
#include "checkpoint/checkpoint_folder.hpp"
#include "checkpoint/checkpoint_writer.hpp"
#include "checkpoint/file_io.hpp"

namespace sdp {

namespace fs = std::filesystem;

namespace {

std::string step_name(std::int64_t step) {
  char name[64];
  std::snprintf(name, sizeof(name), "step-%08lld.h5", static_cast<long long>(step));
  return name;
}

/// Elements that the copy of one piece takes at a time: allocations may fail with many types.
template <class T>
void grow(CheckpointCopy<T>& copy, index_t elements) {
  if (static_cast<index_t>(copy.extent(0)) >= elements) return;
  copy = {};
  const MemoryScope scope(MemoryCategory::workspace);
  try {
    copy = CheckpointCopy<T>(
        Kokkos::view_alloc(Kokkos::WithoutInitializing, std::string("sdp::checkpoint::copy")),
        elements);
  } catch (std::exception const&) {
    throw ConfigError("out of memory: checkpoint.async = true copies the " +
                      std::to_string(elements * static_cast<index_t>(sizeof(T))) +
                      " bytes that a rank saves to the memory of the host, which does not hold "
                      "them; use false");
  }
}

}  // namespace

template <class T>
struct CheckpointSave<T>::Impl {
  Impl(World const& w, std::string f, SaveOptions const& o, CheckpointHeader const& header)
      : world(w), folder(std::move(f)), options(o), step(header.state.step) {
    path = (fs::path(folder) / step_name(step)).string();
    world.collectively([&] {
      if (!world.is_root()) return;
      file_io::make_folder(folder);
      checkpoint_folder::remove_leftovers(folder);
    });
  }

  World const& world;
  Timer timer;
  std::string folder;
  std::string path;
  SaveOptions options;
  std::int64_t step;
  std::unique_ptr<CheckpointWriter<T>> writer;
  std::thread thread;
  std::atomic<bool> written{false};
  std::exception_ptr failure;  // of the thread; read after it was joined
};

template <class T>
CheckpointSave<T>::CheckpointSave(World const& world, std::string const& folder,
                                  SaveOptions const& options, CheckpointHeader const& header,
                                  std::vector<CheckpointBuffer<T>> const& buffers)
    : m_impl(std::make_unique<Impl>(world, folder, options, header)) {
  m_impl->writer =
      std::make_unique<CheckpointWriter<T>>(&world, m_impl->path, header, buffers, options.files);
}

template <class T>
CheckpointSave<T>::~CheckpointSave() {
  if (m_impl->thread.joinable()) m_impl->thread.join();
}

template <class T>
void CheckpointSave<T>::write(std::vector<CheckpointBuffer<T>> const& buffers) {
  Impl& impl = *m_impl;
  impl.world.collectively([&] { impl.writer->write(buffers); });
  impl.written = true;
}

template <class T>
void CheckpointSave<T>::write_in_background(std::vector<CheckpointBuffer<T>> const& buffers,
                                            CheckpointCopy<T>& copy) {
  Impl& impl = *m_impl;
  impl.world.collectively([&] {
    grow(copy, impl.writer->elements());
    impl.writer->copy(buffers, copy.data());
    impl.thread = std::thread([&impl, copied = copy.data()] {
      try {
        impl.writer->write(static_cast<T const*>(copied));
      } catch (...) {
        impl.failure = std::current_exception();
      }
      impl.written = true;
    });
  });
}

template <class T>
std::int64_t CheckpointSave<T>::step() const {
  return m_impl->step;
}

template <class T>
bool CheckpointSave<T>::written() const {
  return m_impl->written;
}

template <class T>
SavedCheckpoint CheckpointSave<T>::publish() {
  Impl& impl = *m_impl;
  impl.world.collectively([&] {
    if (impl.thread.joinable()) impl.thread.join();
    if (impl.failure) std::rethrow_exception(impl.failure);
  });
  SavedCheckpoint saved;
  saved.path = impl.path;
  saved.bytes = impl.writer->publish();
  impl.world.collectively([&] {
    if (impl.world.is_root())
      checkpoint_folder::announce(impl.folder, impl.path, impl.options.keep);
  });
  saved.seconds = impl.world.max(impl.timer.seconds());
  return saved;
}

template class CheckpointSave<float>;
template class CheckpointSave<double>;

}  // namespace sdp
