// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "comm/world.hpp"
#include "tests/checkpoint/support.hpp"

namespace sdp::checkpoint_test {

inline constexpr char const* k_groups[] = {k_group_model, k_group_exp_avg, k_group_exp_avg_sq};

/// One folder for all ranks.
class SharedFolder {
 public:
  explicit SharedFolder(World const& world, std::string const& name) : m_world(world) {
    if (world.is_root()) {
      m_path = (std::filesystem::temp_directory_path() /
                ("sdp_" + name + "_" + std::to_string(::getpid())))
                   .string();
      std::filesystem::remove_all(m_path);
      std::filesystem::create_directories(m_path);
    }
    world.broadcast(m_path);
  }
  ~SharedFolder() {
    m_world.barrier();
    std::error_code ignored;
    if (m_world.is_root()) std::filesystem::remove_all(m_path, ignored);
  }
  std::string const& path() const { return m_path; }
  std::string operator/(std::string const& name) const { return m_path + "/" + name; }

 private:
  World const& m_world;
  std::string m_path;
};

/// A model whose larger tensors span several checksum blocks.
inline CheckpointHeader wide_header() {
  CheckpointHeader header = small_header();
  header.model.llama.vocab_size = 3001;
  header.model.llama.hidden_size = 60;
  header.model.llama.intermediate_size = 170;
  return header;
}

/// The r-th of n parts of [0, size), cut without regard to rows.
inline IndexRange part(index_t size, int r, int n) {
  return {size * r / n, size * (r + 1) / n};
}

template <class T>
std::vector<CheckpointBuffer<T>> dense_buffers(ParameterTable const& table, World const& world) {
  std::vector<CheckpointBuffer<T>> buffers;
  for (int g = 0; g < 3; ++g)
    buffers.push_back(checkpoint_buffer<T>(
        k_groups[g], table, {part(table.size(), world.rank(), world.size())}, filled<T>(table, g)));
  return buffers;
}

template <class T>
void expect_all(CheckpointReader const& reader, ParameterTable const& table) {
  for (int g = 0; g < 3; ++g) {
    View1<T> flat("flat", table.size());
    Kokkos::deep_copy(flat, T(-1));
    reader.read(k_groups[g], table, flat);
    EXPECT_EQ(mismatches(table, g, flat), 0) << k_groups[g];
  }
}

}  // namespace sdp::checkpoint_test
