// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tests/train/run_fixture.hpp"

namespace sdp::test {

/// Runs of 5 updates of 8 images, one image at a time.
class ImageFixture : public RunFixture {
 protected:
  static constexpr int k_labels = 3;

  void SetUp() override {
    RunFixture::SetUp();
    if (m_world.is_root()) {
      write_images("train_batch.bin", 48, false);
      write_images("same_batch.bin", 48, true);
      write_images("test_batch.bin", 21, false);
    }
    m_world.barrier();
  }
  /// CIFAR-10 records in which the label shows as brightness, but for one in `wrong` that has the
  /// next label; or one image again and again.
  void write_images(std::string const& name, int count, bool same, int wrong = 0) const {
    std::ofstream file(m_folder / name, std::ios::binary);
    std::uint32_t state = 12345;
    std::vector<char> first;
    for (int i = 0; i < count; ++i) {
      std::vector<char> record(3073);
      const int label = i % k_labels;
      const bool other = wrong > 0 && (state >> 16) % static_cast<std::uint32_t>(wrong) == 0;
      record[0] = static_cast<char>((label + (other ? 1 : 0)) % k_labels);
      for (std::size_t p = 1; p < record.size(); ++p) {
        state = state * 1664525u + 1013904223u;
        record[p] = static_cast<char>(static_cast<int>(state >> 25) + 60 * label);
      }
      if (first.empty()) first = record;
      file.write(same ? first.data() : record.data(), 3073);
    }
  }
  Config images(World const& world, std::string const& out,
                std::vector<std::string> const& overrides) const {
    const std::string text = fmt::format(R"(
[run]
out_dir = "{0}/{1}"
precision = "fp64"
[model]
kind = "resnet18"
width = 4
[data]
kind = "cifar10"
train = ["{0}/train_batch.bin"]
val = ["{0}/test_batch.bin"]
augment = false
[train]
steps = 5
global_batch = 8
micro_batch = 1
bn_batches = 2
log_every = 1
[optimizer]
lr = 0.05
[schedule]
warmup_steps = 2
)",
                                         m_folder.string(), out);
    Launch launch;
    launch.ranks = world.size();
    return parse_deck(text, "test deck", overrides, launch);
  }

  /// The parameters among weights(), without running statistics; or those alone.
  std::vector<double> parameters(std::vector<double> const& all, bool statistics = false) const {
    std::vector<double> kept;
    std::size_t at = 0;
    for (TensorSpec const& tensor : model_tensors(images(m_self, "unused", {}).model)) {
      const auto size = static_cast<std::size_t>(tensor.size());
      if (tensor.statistic == statistics) kept.insert(kept.end(), &all[at], &all[at] + size);
      at += size;
    }
    return kept;
  }
  std::vector<double> statistics(std::vector<double> const& all) const {
    return parameters(all, true);
  }
};

}  // namespace sdp::test
