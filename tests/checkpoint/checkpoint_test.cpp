// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/checkpoint_save.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>

#include <csignal>

#include "tests/checkpoint/mpi_support.hpp"

namespace sdp {
namespace {

using checkpoint_test::dense_buffers;
using checkpoint_test::error_of;
using checkpoint_test::expect_all;
using checkpoint_test::filled;
using checkpoint_test::k_groups;
using checkpoint_test::mismatches;
using checkpoint_test::names_in;
using checkpoint_test::part;
using checkpoint_test::read_file;
using checkpoint_test::SharedFolder;
using checkpoint_test::small_header;
using checkpoint_test::tensors_of;
using checkpoint_test::wide_header;
using checkpoint_test::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Checkpoint, DenseRoundTripInBothTypes) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "checkpoint_dense");
  for (bool tied : {false, true}) {
    CheckpointHeader header = small_header(tied);
    const ParameterTable table(tensors_of(header.model));
    write_checkpoint(&world, folder / "f.h5", header, dense_buffers<float>(table, world));
    write_checkpoint(&world, folder / "d.h5", header, dense_buffers<double>(table, world));
    const CheckpointReader f(folder / "f.h5");
    const CheckpointReader d(folder / "d.h5");
    expect_all<float>(f, table);
    expect_all<double>(f, table);
    expect_all<double>(d, table);
    CheckpointInfo const& info = f.info();
    EXPECT_EQ(info.version, k_checkpoint_version);
    EXPECT_FALSE(info.is_double);
    EXPECT_EQ(info.parameters, table.size());
    EXPECT_EQ(info.header.state.step, 42);
    EXPECT_EQ(info.header.state.samples, 1344);
    EXPECT_EQ(info.header.state.tokens, 21504);
    EXPECT_EQ(info.header.state.skipped, 1);
    EXPECT_EQ(info.header.state.seed, header.state.seed);
    EXPECT_EQ(info.header.state.best_val_loss, 2.5);
    EXPECT_EQ(info.header.deck, header.deck);
    EXPECT_EQ(info.header.mask, header.mask);
    LlamaConfig const& llama = info.header.model.llama;
    EXPECT_EQ(llama.vocab_size, 37);
    EXPECT_EQ(llama.head_dim, 4);
    EXPECT_EQ(llama.max_seq_len, 16);
    EXPECT_EQ(llama.rope_theta, 5000.0);
    EXPECT_EQ(llama.init_std, 0.03);
    EXPECT_EQ(llama.tie_embeddings, tied);
    f.check_tensors(table.tensors());
  }
  world.barrier();
}

TEST(Checkpoint, BytesDoNotDependOnRanksOrOwners) {
  const World world = World::from(MPI_COMM_WORLD);
  const World self = World::from(MPI_COMM_SELF);
  const SharedFolder folder(world, "checkpoint_bytes");
  const CheckpointHeader header = wide_header();
  const ParameterTable table(tensors_of(header.model));
  write_checkpoint(&world, folder / "all.h5", header, dense_buffers<float>(table, world));
  if (world.is_root()) {
    write_checkpoint(&self, folder / "one.h5", header, dense_buffers<float>(table, self));
    write_checkpoint<float>(nullptr, folder / "serial.h5", header,
                            dense_buffers<float>(table, self));
    const std::string all = read_file(folder / "all.h5");
    EXPECT_GT(all.size(), 3 * 4 * static_cast<std::size_t>(table.size()));
    EXPECT_TRUE(all == read_file(folder / "one.h5"));
    EXPECT_TRUE(all == read_file(folder / "serial.h5"));
  }
  world.barrier();
  // Written by one, read by all; each its own spans.
  const CheckpointReader reader(folder / "one.h5");
  expect_all<float>(reader, table);
}

TEST(Checkpoint, OwnersOfInterleavedRowsAndPackedMoments) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "checkpoint_masked");
  const CheckpointHeader header = wide_header();
  const std::vector<TensorSpec> tensors = tensors_of(header.model);
  const ParameterTable full(tensors);
  // Rank r holds every row group r mod n of the matrices, in groups of 3 rows, and all vectors.
  std::vector<std::vector<Span>> held(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    if (tensors[t].rows == 1) {
      held[t].push_back({0, 0, 1, 0, k_shared});
      continue;
    }
    for (index_t row = 3 * world.rank(); row < tensors[t].rows; row += 3 * world.size())
      held[t].push_back({0, row, std::min<index_t>(3, tensors[t].rows - row), 0, 0});
  }
  const ParameterTable table(tensors, held);
  std::vector<IndexRange> owned;
  for (Span const& span : table.spans()) {
    index_t begin = 0;
    index_t end = span.rows * tensors[span.tensor].cols;
    if (span.unit == k_shared) {  // shared vectors are cut among all
      begin = part(end, world.rank(), world.size()).begin;
      end = part(end, world.rank(), world.size()).end;
    }
    owned.push_back({span.offset + begin, span.offset + end});
  }
  // The moments exist for the owned ranges only.
  index_t packed_size = 0;
  for (IndexRange const& range : owned) packed_size += range.end - range.begin;
  View1<float> packed("packed", packed_size);
  const View1<float> whole = filled<float>(table, 1);
  index_t at = 0;
  for (IndexRange const& range : owned)
    for (index_t i = range.begin; i < range.end; ++i) packed(at++) = whole(i);
  write_checkpoint<float>(
      &world, folder / "a.h5", header,
      {checkpoint_buffer<float>(k_group_model, table, owned, filled<float>(table, 0)),
       checkpoint_buffer<float>(k_group_exp_avg, table, owned, packed, true)});
  const CheckpointReader reader(folder / "a.h5");
  EXPECT_TRUE(reader.has_group(k_group_exp_avg));
  EXPECT_FALSE(reader.has_group(k_group_exp_avg_sq));
  for (int g = 0; g < 2; ++g) {
    for (ParameterTable const* target : {&full, &table}) {
      View1<float> flat("flat", target->size());
      reader.read(k_groups[g], *target, flat);
      EXPECT_EQ(mismatches(*target, g, flat), 0);
    }
  }
  View1<float> back("back", packed_size);
  reader.read(k_group_exp_avg, table, owned, true, back);
  for (index_t i = 0; i < packed_size; ++i) ASSERT_EQ(back(i), packed(i));
  // The dense run of one process writes the same file.
  const World self = World::from(MPI_COMM_SELF);
  if (world.is_root()) {
    auto buffers = dense_buffers<float>(full, self);
    buffers.pop_back();
    write_checkpoint<float>(nullptr, folder / "b.h5", header, buffers);
    EXPECT_TRUE(read_file(folder / "a.h5") == read_file(folder / "b.h5"));
  }
  world.barrier();
}

TEST(Checkpoint, ElementsNotWrittenOnceAreAnErrorOnEveryRank) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "checkpoint_cover");
  const CheckpointHeader header = small_header();
  const ParameterTable table(tensors_of(header.model));
  const View1<float> flat = filled<float>(table, 0);
  const index_t size = table.size();
  auto attempt = [&](std::vector<IndexRange> const& owned) {
    return error_of([&] {
      write_checkpoint<float>(&world, folder / "a.h5", header,
                              {checkpoint_buffer<float>(k_group_model, table, owned, flat)});
    });
  };
  const IndexRange mine = part(size, world.rank(), world.size());
  const bool last = world.rank() == world.size() - 1;
  EXPECT_THAT(attempt({{mine.begin, last ? mine.end - 1 : mine.end}}),
              HasSubstr("443 elements of /model/model.embed_tokens.weight, which do not cover its "
                        "444 once each"));
  EXPECT_THAT(attempt({mine, {0, world.is_root() ? 1 : 0}}),
              HasSubstr("445 elements of /model/lm_head.weight"));
  // One element twice and one never: the count alone would not tell.
  std::vector<IndexRange> shifted{mine};
  if (world.is_root()) shifted = {{1, mine.end}, {4, 5}};
  EXPECT_THAT(attempt(shifted), HasSubstr("444 elements of /model/lm_head.weight, which do not"));
  EXPECT_THAT(attempt({{mine.begin, last ? size + 1 : mine.end}}), HasSubstr("lies outside"));
  world.barrier();
  EXPECT_TRUE(names_in(folder.path()).empty());
  EXPECT_EQ(attempt({mine}), "no error");
  world.barrier();
}

TEST(Checkpoint, AFailureOnAnyRankIsTheSameErrorOnAllAndLeavesNothing) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "checkpoint_failure");
  const CheckpointHeader header = small_header();
  const ParameterTable table(tensors_of(header.model));
  EXPECT_THAT(error_of([&] {
                write_checkpoint(&world, folder / "none/a.h5", header,
                                 dense_buffers<float>(table, world));
              }),
              HasSubstr("DataError: cannot create"));
  auto buffers = dense_buffers<float>(table, world);
  if (world.rank() == world.size() - 1) {
    buffers[1].host = nullptr;
    buffers[1].fetch = [](index_t, index_t, float*) { throw DataError("lost the device"); };
  }
  EXPECT_EQ(error_of([&] { write_checkpoint(&world, folder / "a.h5", header, buffers); }),
            "DataError: lost the device");
  std::vector<TensorSpec> other = table.tensors();
  if (world.rank() == 0) other[0].name = "lm_head.other";
  const ParameterTable renamed(other);
  const std::string error = error_of([&] {
    write_checkpoint(&world, folder / "a.h5", header, dense_buffers<float>(renamed, world));
  });
  EXPECT_TRUE(world.size() == 1 ? error == "no error"
                                : error.find("different tensors") != error.npos)
      << error;
  world.barrier();
  EXPECT_EQ(names_in(folder.path()).size(), world.size() == 1 ? 1u : 0u);
  world.barrier();
}

TEST(Checkpoint, AFullDiskIsTheSameErrorOnAllRanks) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "checkpoint_full");
  const CheckpointHeader header = wide_header();
  const ParameterTable table(tensors_of(header.model));
  const auto buffers = dense_buffers<float>(table, world);
  void (*handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  // Every rank, then the last one alone, which finds it while it writes elements.
  for (bool last_only : {false, true}) {
    for (rlim_t bytes : {0, 1000, 60000, 3000000}) {
      rlimit limit = before;
      if (!last_only || world.rank() == world.size() - 1) limit.rlim_cur = bytes;
      setrlimit(RLIMIT_FSIZE, &limit);
      const std::string error =
          error_of([&] { write_checkpoint(&world, folder / "a.h5", header, buffers); });
      setrlimit(RLIMIT_FSIZE, &before);
      EXPECT_THAT(error, AllOf(HasSubstr("DataError: cannot write"), HasSubstr("a.h5.tmp"),
                               HasSubstr("File too large")));
      world.barrier();
      EXPECT_TRUE(names_in(folder.path()).empty());
      world.barrier();
    }
  }
  std::signal(SIGXFSZ, handler);
  write_checkpoint(&world, folder / "a.h5", header, buffers);
  expect_all<float>(CheckpointReader(folder / "a.h5"), table);
}

TEST(Checkpoint, FolderKeepsTheNewestAndTheLatest) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "checkpoint_folder");
  const std::string target = folder / "run/checkpoints";
  EXPECT_EQ(find_latest(target), std::nullopt);
  EXPECT_TRUE(list_checkpoints(target).empty());
  CheckpointHeader header = small_header();
  const ParameterTable table(tensors_of(header.model));
  const auto buffers = dense_buffers<float>(table, world);
  world.barrier();
  for (std::int64_t step : {5, 10, 15}) {
    header.state.step = step;
    const SavedCheckpoint saved = save_checkpoint(world, target, {2, 1}, header, buffers);
    EXPECT_EQ(saved.bytes, static_cast<std::int64_t>(std::filesystem::file_size(saved.path)));
    EXPECT_GT(saved.seconds, 0.0);
    EXPECT_EQ(find_latest(target), saved.path);
    EXPECT_EQ(CheckpointReader(saved.path).info().header.state.step, step);
    world.barrier();
  }
  EXPECT_EQ(names_in(target),
            (std::vector<std::string>{"latest", "step-00000010.h5", "step-00000015.h5"}));
  EXPECT_EQ(read_file(target + "/latest"), "step-00000015.h5\n");
  // A run that went back keeps what it has just written, and clears away half-written files.
  world.barrier();
  if (world.is_root()) write_file(target + "/step-00000012.h5.tmp", "half");
  if (world.is_root()) write_file(target + "/notes.h5", "mine");
  header.state.step = 7;
  save_checkpoint(world, target, {1, 1}, header, buffers);
  EXPECT_EQ(names_in(target), (std::vector<std::string>{"latest", "notes.h5", "step-00000007.h5"}));
  world.barrier();
  if (world.is_root()) write_file(target + "/latest", "../step-00000099.h5\n");
  world.barrier();
  EXPECT_EQ(find_latest(target), target + "/step-00000007.h5");
  world.barrier();
}

/// What reading every tensor of a file says.
std::string reading(std::string const& path, std::vector<TensorSpec> const& tensors) {
  return error_of([&] {
    const CheckpointReader reader(path);
    reader.check_tensors(tensors);
    for (TensorSpec const& tensor : tensors) {
      std::vector<float> values(static_cast<std::size_t>(tensor.size()));
      reader.read_elements(k_group_model, tensor.name, 0, tensor.size(), values.data());
    }
  });
}

TEST(Checkpoint, ForeignNewerAndIncompleteFilesAreNamed) {
  const World world = World::from(MPI_COMM_WORLD);
  const SharedFolder folder(world, "checkpoint_foreign");
  if (world.is_root()) {
    const CheckpointHeader header = small_header();
    const std::vector<TensorSpec> tensors = tensors_of(header.model);
    const std::string path = folder / "a.h5";
    EXPECT_THAT(reading(path, tensors), HasSubstr("ConfigError: cannot open " + path));
    write_file(path, "no checkpoint at all");
    EXPECT_THAT(reading(path, tensors), HasSubstr("it is not an HDF5 file"));
    const hid_t foreign = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(foreign);
    EXPECT_THAT(reading(path, tensors), HasSubstr("an HDF5 file but no sdp checkpoint"));

    auto with = [&](auto&& change) {
      checkpoint_test::write_small<float>(path, header);
      const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
      change(file);
      H5Fclose(file);
      return reading(path, tensors);
    };
    EXPECT_EQ(with([](hid_t) {}), "no error");
    EXPECT_THAT(with([](hid_t file) {
                  const std::int64_t version = 9;
                  const hid_t attribute = H5Aopen(file, "format_version", H5P_DEFAULT);
                  H5Awrite(attribute, H5T_NATIVE_INT64, &version);
                  H5Aclose(attribute);
                }),
                HasSubstr("has format version 9; this program reads versions 1 to 2"));
    EXPECT_THAT(with([](hid_t file) { H5Ldelete(file, "/model/model.norm.weight", H5P_DEFAULT); }),
                HasSubstr("has no dataset /model/model.norm.weight"));
    EXPECT_THAT(with([](hid_t file) { H5Ldelete(file, "/state", H5P_DEFAULT); }),
                HasSubstr("has no group /state"));
    EXPECT_THAT(with([](hid_t file) { H5Ldelete(file, "/crc/model", H5P_DEFAULT); }),
                HasSubstr("has no dataset /crc/model"));
    EXPECT_THAT(with([](hid_t file) { H5Ldelete(file, "/crc/config", H5P_DEFAULT); }),
                HasSubstr("has no dataset /crc/config"));
    EXPECT_THAT(with([](hid_t file) {
                  const hid_t group = H5Gopen2(file, "/model", H5P_DEFAULT);
                  H5Adelete(group, "hidden_size");
                  H5Gclose(group);
                }),
                HasSubstr("/model has no attribute hidden_size"));
    EXPECT_THAT(with([](hid_t file) {
                  H5Lmove(file, "/model/model.norm.weight", file, "/model/model.other.weight",
                          H5P_DEFAULT, H5P_DEFAULT);
                }),
                HasSubstr("has no dataset /model/model.norm.weight"));
    EXPECT_THAT(with([](hid_t file) {
                  const hid_t set = H5Dopen2(file, "/model/lm_head.weight", H5P_DEFAULT);
                  std::vector<float> values(444);
                  H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
                  values[100] = -values[100];
                  H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
                  H5Dclose(set);
                }),
                HasSubstr("dataset /model/lm_head.weight is damaged: the checksum of elements 0 "
                          "to 443 does not match"));
    std::vector<TensorSpec> other = tensors;
    other[0].shape = {12, 37};
    checkpoint_test::write_small<float>(path, header);
    EXPECT_THAT(reading(path, other), HasSubstr("/model/lm_head.weight has the shape [37, 12]; "
                                                "[12, 37] is expected"));
    other = tensors;
    other.erase(other.begin());
    EXPECT_THAT(reading(path, other), HasSubstr("has the dataset /model/lm_head.weight, which the "
                                                "model does not have"));
    other = tensors;
    other[2].transposed = false;
    EXPECT_THAT(reading(path, other), HasSubstr("(transposed); [20, 12] is expected"));
  }
  world.barrier();
}

}  // namespace
}  // namespace sdp
