// SPDX-License-Identifier: Apache-2.0
// Saves that go on in a thread, and what saving and reading take of memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "base/memory_ledger.hpp"
#include "checkpoint/checkpoint_save.hpp"
#include "tests/checkpoint/mpi_support.hpp"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using checkpoint_test::dense_buffers;
using checkpoint_test::error_of;
using checkpoint_test::expect_all;
using checkpoint_test::filled;
using checkpoint_test::k_groups;
using checkpoint_test::names_in;
using checkpoint_test::part;
using checkpoint_test::read_file;
using checkpoint_test::SharedFolder;
using checkpoint_test::tensors_of;
using checkpoint_test::wide_header;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Names and bytes of everything in a folder.
std::string contents(std::string const& folder) {
  std::vector<std::string> all;
  for (auto const& entry : fs::recursive_directory_iterator(folder))
    all.push_back(fs::relative(entry.path(), folder).string() + ":" +
                  (entry.is_regular_file() ? read_file(entry.path().string()) : ""));
  std::sort(all.begin(), all.end());
  std::string text;
  for (std::string const& one : all) text += one + "\n";
  return text;
}

TEST(Background, BytesAreThoseOfAnImmediateSave) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "background_bytes");
  memory_ledger::install();
  CheckpointHeader header = wide_header();
  const ParameterTable table(tensors_of(header.model));
  CheckpointCopy<float> copy;
  for (int files : {1, 2}) {
    const std::string now = folder / ("now" + std::to_string(files));
    const std::string later = folder / ("later" + std::to_string(files));
    for (std::int64_t step : {1, 2}) {
      header.state.step = step;
      std::vector<View1<float>> values;
      std::vector<CheckpointBuffer<float>> buffers;
      for (int g = 0; g < 3; ++g) {
        values.push_back(filled<float>(table, g));
        buffers.push_back(checkpoint_buffer<float>(
            k_groups[g], table, {part(table.size(), world.rank(), world.size())}, values[g]));
      }
      save_checkpoint(world, now, {2, files}, header, buffers);
      CheckpointSave<float> save(world, later, {2, files}, header, buffers);
      save.write_in_background(buffers, copy);
      // Training goes on in what was saved.
      for (int g = 0; g < 3; ++g) Kokkos::deep_copy(values[g], -1.0f);
      EXPECT_EQ(save.step(), step);
      while (!save.written()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      world.barrier();
      if (world.is_root()) {
        EXPECT_FALSE(fs::exists(later + "/step-0000000" + std::to_string(step) + ".h5"));
      }
      world.barrier();
      const SavedCheckpoint saved = save.publish();
      EXPECT_EQ(saved.bytes, CheckpointReader(saved.path).info().bytes);
    }
    world.barrier();
    if (world.is_root()) {
      EXPECT_TRUE(contents(now) == contents(later));
    }
    world.barrier();
  }
  const IndexRange mine = part(table.size(), world.rank(), world.size());
  // Kokkos rounds up by a few bytes.
  EXPECT_NEAR(static_cast<double>(memory_ledger::usage(MemoryCategory::workspace).current),
              static_cast<double>(3 * mine.size() * static_cast<index_t>(sizeof(float))), 8.0);
}

TEST(Background, WhatAKilledRunLeavesIsTheCheckpointBefore) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "background_killed");
  CheckpointHeader header = wide_header();
  const ParameterTable table(tensors_of(header.model));
  const auto buffers = dense_buffers<float>(table, world);
  for (int files : {1, 2}) {
    const std::string run = folder / ("run" + std::to_string(files));
    int moment = 0;
    // A kill leaves the files as they are.
    const auto killed = [&] {
      world.barrier();
      if (world.is_root()) {
        const std::string left = run + "-" + std::to_string(moment++);
        fs::copy(run, left, fs::copy_options::recursive);
        ASSERT_EQ(find_latest(left), left + "/step-00000001.h5");
        expect_all<float>(CheckpointReader(left + "/step-00000001.h5"), table);
      }
      world.barrier();
    };
    header.state.step = 1;
    save_checkpoint(world, run, {1, files}, header, buffers);
    header.state.step = 2;
    CheckpointCopy<float> copy;
    {
      CheckpointSave<float> save(world, run, {1, files}, header, buffers);
      killed();
      save.write_in_background(buffers, copy);
      while (!save.written()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      killed();
    }  // given up
    world.barrier();
    EXPECT_EQ(names_in(run).size(), files == 1 || world.size() == 1 ? 2u : 3u);
    world.barrier();
    // The next start clears away and goes on.
    const std::string left = run + "-1";
    EXPECT_GT(names_in(left).size(), names_in(run).size());
    world.barrier();
    save_checkpoint(world, left, {1, files}, header, buffers);
    EXPECT_EQ(names_in(left).size(), names_in(run).size());
    EXPECT_EQ(find_latest(left), left + "/step-00000002.h5");
    expect_all<float>(CheckpointReader(left + "/step-00000002.h5"), table);
    world.barrier();
  }
}

TEST(Background, AFailureInTheThreadOfOneRankIsTheSameErrorOnAll) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "background_full");
  CheckpointHeader header = wide_header();
  const ParameterTable table(tensors_of(header.model));
  const auto buffers = dense_buffers<float>(table, world);
  void (*handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  for (int files : {1, 2}) {
    const std::string run = folder / ("run" + std::to_string(files));
    header.state.step = 1;
    save_checkpoint(world, run, {2, files}, header, buffers);
    const std::string whole = contents(run);
    world.barrier();
    header.state.step = 2;
    CheckpointCopy<float> copy;
    {
      CheckpointSave<float> save(world, run, {2, files}, header, buffers);
      rlimit limit = before;
      if (world.rank() == world.size() - 1) limit.rlim_cur = 300000;
      setrlimit(RLIMIT_FSIZE, &limit);
      save.write_in_background(buffers, copy);
      while (!save.written()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      setrlimit(RLIMIT_FSIZE, &before);
      EXPECT_THAT(error_of([&] { save.publish(); }),
                  AllOf(HasSubstr("DataError: cannot write " + run + "/step-00000002."),
                        HasSubstr("File too large")));
    }
    world.barrier();
    if (world.is_root()) {
      EXPECT_TRUE(contents(run) == whole);
    }
    world.barrier();
  }
  std::signal(SIGXFSZ, handler);
}

TEST(Background, SavingAndReadingTakeLittleMemoryBesideTheState) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "background_memory");
  CheckpointHeader header = wide_header();
  header.model.llama.vocab_size = 100000;
  header.model.llama.hidden_size = 60;
  header.model.llama.tie_embeddings = true;
  const ParameterTable table(tensors_of(header.model));
  const auto buffers = dense_buffers<float>(table, world);
  View1<float> flat("flat", table.size());
  ASSERT_GT(table.size() * 4, 20 << 20);
  constexpr std::int64_t k_bound = 18 << 20;  // 8 MiB of staging
  for (int files : {1, 2}) {
    const std::string path = folder / ("a" + std::to_string(files) + ".h5");
    reset_peak_resident();
    const std::int64_t before = resident_bytes();
    if (before == 0 || peak_resident_bytes() > before + (2 << 20))
      GTEST_SKIP() << "this system does not measure resident memory";
    write_checkpoint(&world, path, header, buffers, files);
    EXPECT_LT(peak_resident_bytes() - before, k_bound);
    reset_peak_resident();
    const std::int64_t before_reading = resident_bytes();
    const CheckpointReader reader(path);
    for (char const* group : k_groups) reader.read(group, table, flat);
    EXPECT_LT(peak_resident_bytes() - before_reading, k_bound);
  }
  world.barrier();
}

}  // namespace
}  // namespace sdp
