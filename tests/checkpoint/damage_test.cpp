// SPDX-License-Identifier: Apache-2.0
// Damaged and hostile files: whatever the bytes, an error of this project or the right content.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "checkpoint/convert.hpp"
#include "checkpoint/describe.hpp"
#include "tests/checkpoint/support.hpp"

namespace sdp {
namespace {

using checkpoint_test::error_of;
using checkpoint_test::Folder;
using checkpoint_test::read_file;
using checkpoint_test::small_header;
using checkpoint_test::tensors_of;
using checkpoint_test::write_file;
using checkpoint_test::write_small;
using ::testing::HasSubstr;

/// Everything that a checkpoint holds, as text and bytes.
std::string contents(std::string const& path) {
  const CheckpointReader reader(path);
  std::string all =
      describe_json(reader.info()) + reader.info().header.deck + reader.info().header.mask;
  std::vector<std::string> groups = reader.info().moments;
  groups.push_back(k_group_model);
  for (std::string const& group : groups) {
    for (StoredTensor const& tensor : reader.info().tensors) {
      std::vector<float> values(static_cast<std::size_t>(tensor.elements));
      reader.read_elements(group, tensor.name, 0, tensor.elements, values.data());
      all.append(reinterpret_cast<char const*>(values.data()), values.size() * sizeof(float));
    }
  }
  return all;
}

TEST(Damage, AChangedByteOfACheckpointIsNeverTakenForTheOriginal) {
  const Folder folder("damage_bytes");
  const std::string path = folder / "a.h5";
  write_small<float>(path, small_header());
  const std::string original = read_file(path);
  const std::string expected = contents(path);
  std::mt19937 random(1);
  int refused = 0;
  constexpr int k_trials = 1500;
  for (int trial = 0; trial < k_trials; ++trial) {
    std::string bytes = original;
    const int changes = trial % 4 == 0 ? 1 + static_cast<int>(random() % 8) : 1;
    for (int i = 0; i < changes; ++i) bytes[random() % bytes.size()] ^= 1 << (random() % 8);
    write_file(path, bytes);
    std::string found;
    const std::string error = error_of([&] { found = contents(path); });
    if (error == "no error") {
      ASSERT_TRUE(found == expected) << "trial " << trial;
    } else {
      ASSERT_EQ(error.rfind("DataError: " + path, 0), error.find("DataError: " + path)) << error;
      ASSERT_EQ(error.rfind("DataError: ", 0), 0u) << error;
      ++refused;
    }
  }
  EXPECT_GT(refused, k_trials * 9 / 10);
}

TEST(Damage, ATruncatedCheckpointIsRefused) {
  const Folder folder("damage_short");
  const std::string path = folder / "a.h5";
  write_small<float>(path, small_header());
  const std::string original = read_file(path);
  for (std::size_t size = 0; size < original.size(); size += 1 + original.size() / 97) {
    write_file(path, original.substr(0, size));
    EXPECT_THAT(error_of([&] { contents(path); }), HasSubstr("DataError: " + path + " is "));
  }
}

TEST(Damage, MutatedSafetensorsHeadersGiveOneErrorOrAConsistentFile) {
  const Folder folder("damage_header");
  write_small<float>(folder / "a.h5", small_header());
  export_checkpoint(folder / "a.h5", folder / "hf", TensorType::bf16, tensors_of);
  const std::string original = read_file(folder / "hf/model.safetensors");
  std::uint64_t header_length = 0;
  std::memcpy(&header_length, original.data(), 8);
  const std::string alphabet = "0123456789{}[]\",:-.eE \\untrflsadBF\x00\x80\xff";
  const std::vector<std::string> inserts = {
      "{",  "}",   "[[[[", "\"", "\\u0000",      "99999999999999999999",
      "-1", "1e9", "null", ",",  "\"shape\":[0]"};
  std::mt19937 random(2);
  const std::string path = folder / "m.safetensors";
  int refused = 0;
  constexpr int k_trials = 4000;
  for (int trial = 0; trial < k_trials; ++trial) {
    std::string bytes = original;
    const int changes = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < changes; ++i) {
      const std::size_t at = random() % (8 + header_length);
      switch (random() % 5) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = alphabet[random() % alphabet.size()];
          break;
        case 2:
          bytes.erase(at, 1 + random() % 20);
          break;
        case 3:
          bytes.insert(at, inserts[random() % inserts.size()]);
          break;
        default:
          bytes.resize(random() % (bytes.size() + 1));
          break;
      }
      if (bytes.size() < 8 + header_length) break;
    }
    write_file(path, bytes);
    const std::string error = error_of([&] {
      const SafetensorsReader reader = open_safetensors(path);
      for (SafetensorsTensor const& tensor : reader.tensors()) {
        if (tensor.type == TensorType::other) continue;
        std::vector<float> values(static_cast<std::size_t>(tensor.elements));
        reader.read_rows(tensor.name, 0, tensor.rows(), values.data());
      }
    });
    ASSERT_TRUE(error == "no error" || error.rfind("ConfigError: ", 0) == 0) << error;
    refused += error != "no error";
  }
  EXPECT_GT(refused, k_trials / 2);
}

}  // namespace
}  // namespace sdp
