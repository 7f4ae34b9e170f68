// SPDX-License-Identifier: Apache-2.0
// Checkpoints in several files: one to every reader, whole or an error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <random>

#include "checkpoint/checkpoint_save.hpp"
#include "checkpoint/describe.hpp"
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
using checkpoint_test::value_of;
using checkpoint_test::wide_header;
using checkpoint_test::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// What each rank holds when the rows of the matrices are dealt in groups of three, and the vectors
/// are cut among all: owners are interleaved, also within a part.
struct Dealt {
  explicit Dealt(World const& world, std::vector<TensorSpec> const& tensors) {
    std::vector<std::vector<Span>> held(tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      if (tensors[t].rows == 1) {
        held[t].push_back({0, 0, 1, 0, k_shared});
        continue;
      }
      for (index_t row = 3 * world.rank(); row < tensors[t].rows; row += 3 * world.size())
        held[t].push_back({0, row, std::min<index_t>(3, tensors[t].rows - row), 0, 0});
    }
    table = ParameterTable(tensors, held);
    for (Span const& span : table.spans()) {
      IndexRange range{0, span.rows * tensors[span.tensor].cols};
      if (span.unit == k_shared) range = part(range.end, world.rank(), world.size());
      owned.push_back({span.offset + range.begin, span.offset + range.end});
    }
  }
  std::vector<CheckpointBuffer<float>> buffers() const {
    std::vector<CheckpointBuffer<float>> all;
    for (int g = 0; g < 3; ++g)
      all.push_back(checkpoint_buffer<float>(k_groups[g], table, owned, filled<float>(table, g)));
    return all;
  }

  ParameterTable table;
  std::vector<IndexRange> owned;
};

/// Everything that HDF5 itself reads of the tensors of one group through the file at `path`.
std::vector<float> read_by_hdf5(std::string const& path, std::string const& group,
                                std::vector<TensorSpec> const& tensors) {
  std::vector<float> all;
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  for (TensorSpec const& tensor : tensors) {
    const hid_t dataset = H5Dopen2(file, (group + "/" + tensor.name).c_str(), H5P_DEFAULT);
    std::vector<float> values(static_cast<std::size_t>(tensor.size()), -1.0f);
    EXPECT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
    H5Dclose(dataset);
    all.insert(all.end(), values.begin(), values.end());
  }
  H5Fclose(file);
  return all;
}

/// Elements of those that are not what filled() puts there.
index_t wrong(std::vector<float> const& values, int group, std::vector<TensorSpec> const& tensors) {
  index_t count = 0;
  std::size_t at = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (index_t i = 0; i < tensors[t].size(); ++i, ++at)
      count += values[at] != value_of<float>(group, static_cast<int>(t), i);
  return count;
}

void exchange_contents(CheckpointBuffer<float>& a, CheckpointBuffer<float>& b) {
  std::swap(a.fetch, b.fetch);
  std::swap(a.host, b.host);
}

std::string parts_folder_in(std::string const& folder) {
  for (std::string const& name : names_in(folder))
    if (name.find(".parts-") != name.npos) return folder + "/" + name;
  return "";
}

TEST(Parts, AnyNumberOfFilesReadsBackTheSame) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "parts_same");
  const CheckpointHeader header = wide_header();
  const ParameterTable full(tensors_of(header.model));
  const Dealt dealt(world, full.tensors());
  for (int files : {1, 2, 3, 4, 8, 100}) {
    const std::string path = folder / ("f" + std::to_string(files) + "/a.h5");
    if (world.is_root()) fs::create_directories(fs::path(path).parent_path());
    world.barrier();
    write_checkpoint(&world, path, header, dealt.buffers(), files);
    const CheckpointReader reader(path);
    expect_all<float>(reader, full);
    for (int g = 0; g < 3; ++g) {  // spans of a rank that starts in the middle of blocks
      View1<float> flat("flat", dealt.table.size());
      reader.read(k_groups[g], dealt.table, flat);
      EXPECT_EQ(checkpoint_test::mismatches(dealt.table, g, flat), 0);
    }
    const int expected = std::min(files, world.size());
    CheckpointInfo const& info = reader.info();
    ASSERT_EQ(info.parts.size(), expected == 1 ? 0u : static_cast<std::size_t>(expected));
    EXPECT_EQ(info.header.deck, header.deck);
    std::int64_t bytes = static_cast<std::int64_t>(fs::file_size(path));
    for (StoredPart const& stored : info.parts)
      bytes += static_cast<std::int64_t>(fs::file_size(fs::path(path).parent_path() / stored.file));
    EXPECT_EQ(info.bytes, bytes);
    if (expected > 1) {
      EXPECT_LT(static_cast<std::int64_t>(fs::file_size(path)), bytes / 10);
      EXPECT_EQ(info.parts.front().first_rank, 0);
      EXPECT_EQ(info.parts.back().last_rank, world.size() - 1);
      for (std::size_t p = 1; p < info.parts.size(); ++p)
        EXPECT_EQ(info.parts[p].first_rank, info.parts[p - 1].last_rank + 1);
      EXPECT_THAT(describe_json(info), HasSubstr(info.parts[1].file));
      EXPECT_THAT(describe(info), HasSubstr(info.parts[1].file));
    }
  }
  world.barrier();
}

TEST(Parts, OtherProgramsSeeWholeTensorsFromAnyFolder) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "parts_outside");
  const CheckpointHeader header = wide_header();
  const std::vector<TensorSpec> tensors = tensors_of(header.model);
  const Dealt dealt(world, tensors);
  if (world.is_root()) fs::create_directories(folder / "here");
  world.barrier();
  write_checkpoint(&world, folder / "here/a.h5", header, dealt.buffers(), 4);
  if (world.is_root()) {
    for (int g = 0; g < 3; ++g)
      EXPECT_EQ(wrong(read_by_hdf5(folder / "here/a.h5", k_groups[g], tensors), g, tensors), 0);
    fs::rename(folder / "here", folder / "moved");
    const fs::path before = fs::current_path();
    fs::current_path(folder.path());
    for (std::string const& path :
         {folder / "moved/a.h5", std::string("moved/a.h5"), std::string("./moved/a.h5")}) {
      EXPECT_EQ(wrong(read_by_hdf5(path, k_group_exp_avg, tensors), 1, tensors), 0) << path;
      expect_all<float>(CheckpointReader(path), ParameterTable(tensors));
    }
    fs::current_path(folder / "moved");
    EXPECT_EQ(wrong(read_by_hdf5("a.h5", k_group_model, tensors), 0, tensors), 0);
    expect_all<float>(CheckpointReader("a.h5"), ParameterTable(tensors));
    fs::current_path(before);
    fs::create_symlink(folder / "moved/a.h5", folder / "link.h5");
    expect_all<float>(CheckpointReader(folder / "link.h5"), ParameterTable(tensors));
    if (world.size() > 1) {  // what is missing is no number
      const std::string parts = parts_folder_in(folder / "moved");
      for (std::string const& name : names_in(parts)) fs::remove(parts + "/" + name);
      for (float value : read_by_hdf5(folder / "moved/a.h5", k_group_model, tensors))
        ASSERT_TRUE(std::isnan(value));
    }
  }
  world.barrier();
}

TEST(Parts, AMissingShortOrExchangedPartIsNamed) {
  const World world = World::from(MPI_COMM_WORLD);
  if (world.size() == 1) GTEST_SKIP() << "one rank writes one file";
  const SharedFolder folder(world, "parts_damage");
  CheckpointHeader header = wide_header();
  const std::vector<TensorSpec> tensors = tensors_of(header.model);
  const Dealt dealt(world, tensors);
  const ParameterTable full(tensors);
  for (int step : {1, 2}) {
    header.state.step = step;
    auto buffers = dealt.buffers();
    if (step == 2) exchange_contents(buffers[1], buffers[2]);
    save_checkpoint(world, folder / "run", {2, 2}, header, buffers);
  }
  if (world.is_root()) {
    const std::string path = folder / "run/step-00000002.h5";
    const std::vector<StoredPart> parts = CheckpointReader(path).info().parts;
    const std::vector<StoredPart> others =
        CheckpointReader(folder / "run/step-00000001.h5").info().parts;
    ASSERT_EQ(parts.size(), 2u);
    const std::string first = folder / "run/" + parts[0].file;
    const std::string second = folder / "run/" + parts[1].file;
    const std::string bytes = read_file(second);
    const auto opening = [&] { return error_of([&] { CheckpointReader reader(path); }); };
    const std::string name = "DataError: " + path + ": its part file " + parts[1].file;
    EXPECT_EQ(opening(), "no error");
    fs::remove(second);
    EXPECT_EQ(opening(), name + " is missing");
    write_file(second, bytes.substr(0, bytes.size() / 2));
    EXPECT_EQ(opening(), name + " has " + std::to_string(bytes.size() / 2) + " bytes; " +
                             std::to_string(bytes.size()) + " were written");
    write_file(second, read_file(folder / "run/" + others[1].file));
    EXPECT_THAT(opening(), AllOf(HasSubstr(name), HasSubstr("belongs to another checkpoint")));
    std::string same_size = read_file(first);
    same_size.resize(bytes.size());
    write_file(second, same_size);
    EXPECT_THAT(opening(), HasSubstr(name));
    write_file(second, std::string(bytes.size(), 'x'));
    EXPECT_THAT(opening(), AllOf(HasSubstr(name), HasSubstr("it is not an HDF5 file")));
    // A changed byte is found when it is read, if not before.
    std::mt19937 random(3);
    int refused = 0;
    for (int trial = 0; trial < 60; ++trial) {
      std::string changed = bytes;
      changed[random() % changed.size()] ^= 1 << (random() % 8);
      write_file(second, changed);
      std::string found;
      const std::string error = error_of([&] {
        const CheckpointReader reader(path);
        for (int g = 0; g < 3; ++g) {
          View1<float> flat("flat", full.size());
          reader.read(k_groups[g], full, flat);
        }
      });
      EXPECT_TRUE(error == "no error" || error.rfind("DataError: ", 0) == 0) << error;
      refused += error != "no error";
    }
    EXPECT_GE(refused, 55);
    fs::remove(second);
    fs::create_directory(second);
    EXPECT_EQ(opening(), name + " is missing");
  }
  world.barrier();
}

TEST(Parts, TheFolderKeepsPartsWithTheirCheckpoints) {
  const World world = World::from(MPI_COMM_WORLD);
  if (world.size() == 1) GTEST_SKIP() << "one rank writes one file";
  const SharedFolder folder(world, "parts_folder");
  const std::string target = folder / "checkpoints";
  CheckpointHeader header = wide_header();
  const std::vector<TensorSpec> tensors = tensors_of(header.model);
  const Dealt dealt(world, tensors);
  const ParameterTable full(tensors);
  const auto save = [&](std::int64_t step, int files, std::int64_t keep) {
    header.state.step = step;
    const SavedCheckpoint saved =
        save_checkpoint(world, target, {keep, files}, header, dealt.buffers());
    EXPECT_EQ(saved.bytes, CheckpointReader(saved.path).info().bytes);
    world.barrier();
  };
  for (std::int64_t step : {1, 2, 3}) save(step, 2, 2);
  const auto names = names_in(target);
  ASSERT_EQ(names.size(), 5u);
  EXPECT_EQ(names[0], "latest");
  EXPECT_EQ(names[1], "step-00000002.h5");
  EXPECT_THAT(names[2], ::testing::StartsWith("step-00000002.parts-"));
  EXPECT_EQ(names[3], "step-00000003.h5");
  EXPECT_EQ(names_in(target + "/" + names[2]),
            (std::vector<std::string>{"part-1-of-2.h5", "part-2-of-2.h5"}));
  expect_all<float>(CheckpointReader(target + "/" + names[1]), full);
  world.barrier();
  // What killed runs leave goes; what a user put there stays.
  if (world.is_root()) {
    fs::create_directories(target + "/step-00000009.parts-tmp");
    write_file(target + "/step-00000009.parts-tmp/part-1-of-2.h5", "half");
    write_file(target + "/step-00000009.h5.tmp", "half");
    fs::create_directories(target + "/step-00000003.parts-0123456789abcdef");
    write_file(target + "/step-00000003.parts-0123456789abcdef/part-1-of-2.h5", "no owner");
    fs::create_directories(target + "/step-00000007.parts-0123456789abcdef");
    write_file(target + "/step-00000007.parts-0123456789abcdef/part-1-of-2.h5", "set aside");
    write_file(target + "/step-00000007.h5.unreadable", "set aside");
    fs::create_directories(target + "/step-00000008.parts-mine");
    write_file(target + "/step-00000008.parts-mine/notes.txt", "mine");
  }
  world.barrier();
  // The same checkpoint once more, then with other contents, then as one file.
  save(3, 2, 2);
  EXPECT_EQ(names_in(target).size(), 8u);
  EXPECT_TRUE(fs::exists(target + "/step-00000008.parts-mine/notes.txt"));
  EXPECT_TRUE(fs::exists(target + "/step-00000007.parts-0123456789abcdef/part-1-of-2.h5"));
  world.barrier();
  if (world.is_root()) {
    fs::remove(target + "/step-00000007.h5.unreadable");
    fs::remove_all(target + "/step-00000007.parts-0123456789abcdef");
  }
  world.barrier();
  EXPECT_EQ(names_in(target)[4], names[4]);
  header.state.step = 3;
  world.barrier();
  auto buffers = dealt.buffers();
  exchange_contents(buffers[1], buffers[2]);
  save_checkpoint(world, target, {2, 2}, header, buffers);
  EXPECT_EQ(names_in(target).size(), 6u);
  EXPECT_NE(names_in(target)[4], names[4]);
  world.barrier();
  save(3, 1, 1);
  EXPECT_EQ(names_in(target),
            (std::vector<std::string>{"latest", "step-00000003.h5", "step-00000008.parts-mine"}));
  expect_all<float>(CheckpointReader(target + "/step-00000003.h5"), full);
  world.barrier();
}

TEST(Parts, AFullDiskIsTheSameErrorOnAllRanksAndLeavesNothing) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "parts_full");
  const CheckpointHeader header = wide_header();
  const std::vector<TensorSpec> tensors = tensors_of(header.model);
  const Dealt dealt(world, tensors);
  const auto buffers = dealt.buffers();
  void (*handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  for (bool last_only : {false, true}) {
    for (rlim_t bytes : {0, 3000, 300000}) {
      rlimit limit = before;
      if (!last_only || world.rank() == world.size() - 1) limit.rlim_cur = bytes;
      setrlimit(RLIMIT_FSIZE, &limit);
      const std::string error =
          error_of([&] { write_checkpoint(&world, folder / "a.h5", header, buffers, 2); });
      setrlimit(RLIMIT_FSIZE, &before);
      EXPECT_THAT(error, AllOf(HasSubstr("DataError: cannot write"), HasSubstr("a.")));
      world.barrier();
      EXPECT_TRUE(names_in(folder.path()).empty());
      world.barrier();
    }
  }
  std::signal(SIGXFSZ, handler);
  write_checkpoint(&world, folder / "a.h5", header, buffers, 2);
  expect_all<float>(CheckpointReader(folder / "a.h5"), ParameterTable(tensors));
  world.barrier();
}

}  // namespace
}  // namespace sdp
