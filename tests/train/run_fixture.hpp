// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <mpi.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/memory_ledger.hpp"
#include "checkpoint/checkpoint.hpp"
#include "comm/world.hpp"
#include "config/load.hpp"
#include "models/model_family.hpp"
#include "train/data_set.hpp"
#include "train/trainer.hpp"
#include "train/training_state.hpp"

namespace sdp::test {

/// A folder that all ranks share for one test, with small token shards in it.
class RunFixture : public ::testing::Test {
 protected:
  static constexpr int k_vocab = 97;

  void SetUp() override {
    memory_ledger::install();
    memory_ledger::reset_peaks();
    std::string path;
    if (m_world.is_root()) {
      std::string name = (std::filesystem::temp_directory_path() / "sdp_train_XXXXXX").string();
      path = ::mkdtemp(name.data());
    }
    m_world.broadcast(path);
    m_folder = path;
    if (m_world.is_root()) {
      write_shard("train.bin", 3000, 1);
      write_shard("val.bin", 700, 2);
    }
    m_world.barrier();
  }
  void TearDown() override {
    m_world.barrier();
    if (m_world.is_root()) std::filesystem::remove_all(m_folder);
  }

  /// llm.c GPT-2 shard of tokens that follow each other often enough to be learnt.
  void write_shard(std::string const& name, int count, std::uint32_t salt) const {
    std::vector<std::int32_t> header(256, 0);
    header[0] = 20240520;
    header[1] = 1;
    header[2] = count;
    std::vector<std::uint16_t> tokens(count);
    std::uint32_t state = salt;
    for (int i = 0; i < count; ++i) {
      state = state * 1664525u + 1013904223u;
      tokens[i] = static_cast<std::uint16_t>(
          i > 0 && state % 4 != 0 ? (tokens[i - 1] * 5 + 3) % k_vocab : (state >> 16) % k_vocab);
    }
    std::ofstream file(m_folder / name, std::ios::binary);
    file.write(reinterpret_cast<char const*>(header.data()), 1024);
    file.write(reinterpret_cast<char const*>(tokens.data()), 2 * count);
  }

  DataSet tokens(std::string const& name, index_t seq_len) const {
    return DataSet(TokenDataset("data.val", {(m_folder / name).string()}, TokenFormat::automatic,
                                seq_len, k_vocab));
  }

  /// A run of 12 updates in the folder `out`; overrides as on the command line.
  Config deck(World const& world, std::string const& out,
              std::vector<std::string> const& overrides = {}) const {
    const std::string text = fmt::format(R"(
[run]
out_dir = "{0}/{1}"
precision = "fp64"
[model]
kind = "llama"
vocab_size = {2}
hidden_size = 16
intermediate_size = 24
num_layers = 2
num_heads = 4
num_kv_heads = 2
[data]
kind = "tokens"
train = ["{0}/train.bin"]
val = ["{0}/val.bin"]
[train]
steps = 12
global_batch = 8
micro_batch = 1
seq_len = 9
log_every = 3
[optimizer]
lr = 0.01
[schedule]
warmup_steps = 4
)",
                                         m_folder.string(), out, k_vocab);
    Launch launch;
    launch.ranks = world.size();
    return parse_deck(text, "test deck", overrides, launch);
  }

  std::filesystem::path out(std::string const& name) const { return m_folder / name; }

  /// All weights of a checkpoint, in table order.
  std::vector<double> weights(std::filesystem::path const& checkpoint) const {
    const CheckpointReader reader(checkpoint.string());
    std::vector<double> all;
    for (TensorSpec const& tensor : model_tensors(reader.info().header.model)) {
      std::vector<double> part(static_cast<std::size_t>(tensor.size()));
      reader.read_elements(k_group_model, tensor.name, 0, tensor.size(), part.data());
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

  /// Initial weights in a buffer of their own.
  template <class V>
  static View1<V> initial(ExecSpace const& exec, ParameterTable const& table, std::uint64_t seed) {
    View1<V> weights("weights", table.size());
    initial_weights<V>(exec, table, seed, weights);
    return weights;
  }

  World m_world = World::from(MPI_COMM_WORLD);
  World m_self = World::from(MPI_COMM_SELF);
  std::filesystem::path m_folder;
};

}  // namespace sdp::test
