// SPDX-License-Identifier: Apache-2.0
#include "data/image_reader.hpp"

#include <array>
#include <cmath>
#include <filesystem>
#include <map>

#include "base/memory_ledger.hpp"
#include "tests/data/image_support.hpp"

namespace sdp {
namespace {

using namespace test;

/// 40 images of 28 x 28 in two files.
class ImageReaderTest : public ::testing::Test {
 protected:
  ImageReaderTest() {
    for (auto const& [name, count] : {std::pair("a", 24), std::pair("b", 16)}) {
      write_file(m_folder / (name + std::string("-labels")),
                 idx_file({static_cast<std::uint32_t>(count)}, labels(count, 10)));
      m_files.push_back(write_file(
          m_folder / (name + std::string("-images")),
          idx_file({static_cast<std::uint32_t>(count), 28, 28}, pixels(count * 784, name[0]))));
    }
  }

  struct Batch {
    std::vector<std::uint8_t> images;
    std::vector<std::int32_t> labels;
    bool operator==(Batch const&) const = default;
  };
  /// The global batch of one update, read by `ranks` ranks in micro-batches.
  Batch batch(ImageSet const& set, index_t update, int ranks, index_t micro, bool augment = true) {
    constexpr index_t k_global = 8;
    Batch all;
    for (int rank = 0; rank < ranks; ++rank) {
      const ImageTrainReader reader(set, 11, augment, {k_global, micro, ranks, rank});
      for (index_t step = 0; step < reader.plan().accumulation(); ++step) {
        std::vector<std::uint8_t> images(static_cast<std::size_t>(micro * set.image_bytes()), 7);
        std::vector<std::int32_t> found(static_cast<std::size_t>(micro), -1);
        reader.read(update, step, images.data(), found.data());
        all.images.insert(all.images.end(), images.begin(), images.end());
        all.labels.insert(all.labels.end(), found.begin(), found.end());
      }
    }
    return all;
  }

  Folder m_folder;
  std::vector<std::string> m_files;
};

TEST_F(ImageReaderTest, CropsEqualTheScalarReference) {
  const ImageSet set("data.train", DataKind::idx, m_files, 1, 10);
  const std::string last = pixels(16 * 784, 'b').substr(15 * 784);
  for (int row = 0; row <= 8; ++row)
    for (int col = 0; col <= 8; ++col)
      for (const bool flip : {false, true}) {
        const Crop crop{row, col, flip};
        ASSERT_EQ(image_of(set, 39, crop), cropped(last, 1, 28, 28, crop)) << row << col << flip;
      }
  const ImageSet rgb("data.train", DataKind::cifar10,
                     {write_file(m_folder / "c.bin", cifar_file(2, 1))}, 3, 10);
  for (Crop const& crop : {Crop{}, Crop{0, 8, true}, Crop{8, 0, false}, Crop{3, 5, true}})
    ASSERT_EQ(image_of(rgb, 1, crop), cropped(pixels(6144).substr(3072), 3, 32, 32, crop));
  EXPECT_THROW(image_of(set, 40), std::out_of_range);
  EXPECT_THROW(image_of(set, -1), std::out_of_range);
}

TEST_F(ImageReaderTest, AnyRankCountSeesTheSameImages) {
  const ImageSet set("data.train", DataKind::idx, m_files, 1, 10);
  for (const index_t update : {0, 4, 5, 123}) {
    const Batch one = batch(set, update, 1, 8);
    for (auto const& [ranks, micro] : {std::pair(1, 2), {2, 4}, {4, 1}, {8, 1}})
      EXPECT_EQ(batch(set, update, ranks, micro), one) << ranks;
  }
}

TEST_F(ImageReaderTest, AnEpochShowsEveryImageOnceAndTheNextOneOtherCrops) {
  const ImageSet set("data.train", DataKind::idx, m_files, 1, 10);
  std::map<std::string, int> plain;
  for (index_t update = 0; update < 5; ++update) {
    const Batch found = batch(set, update, 2, 4, false);
    for (std::size_t i = 0; i < 8; ++i)
      ++plain[std::string(reinterpret_cast<char const*>(&found.images[i * 1024]), 1024)];
  }
  EXPECT_EQ(plain.size(), 40u);
  for (index_t sample = 0; sample < 40; ++sample) EXPECT_EQ(plain[image_of(set, sample)], 1);
  int same = 0;
  for (index_t sample = 0; sample < 1000; ++sample)
    same += random_crop(11, sample, 0) == random_crop(11, sample, 1);
  EXPECT_LT(same, 25);  // 1000 / 162 are expected
}

TEST(RandomCrop, OffsetsAreUniformAndFlipsFair) {
  constexpr index_t k_samples = 20000;
  constexpr index_t k_epochs = 10;
  std::array<index_t, 162> counts{};
  for (index_t epoch = 0; epoch < k_epochs; ++epoch)
    for (index_t sample = 0; sample < k_samples; ++sample) {
      const Crop crop = random_crop(5, sample, epoch);
      ASSERT_TRUE(crop.row >= 0 && crop.row <= 8 && crop.col >= 0 && crop.col <= 8);
      ++counts[static_cast<std::size_t>((crop.row * 9 + crop.col) * 2 + crop.flip)];
    }
  // Chi-squared of 9 x 9 x 2 equally likely outcomes: 161 degrees of freedom, mean 161, deviation
  // 18; the bound is five deviations away.
  const double expected = static_cast<double>(k_samples * k_epochs) / 162.0;
  double chi_squared = 0.0;
  double flips = 0.0;
  for (std::size_t i = 0; i < 162; ++i) {
    const auto count = static_cast<double>(counts[i]);
    chi_squared += (count - expected) * (count - expected) / expected;
    if (i % 2 == 1) flips += count;
  }
  EXPECT_LT(chi_squared, 161.0 + 5 * 18.0);
  EXPECT_GT(chi_squared, 161.0 - 5 * 18.0);
  // Deviation of the rate: 1 / (2 sqrt(200000)) = 0.0011.
  EXPECT_NEAR(flips / static_cast<double>(k_samples * k_epochs), 0.5, 0.0055);
}

TEST(RandomCrop, ValuesNeverChange) {
  const auto text = [](Crop const& crop) {
    return std::to_string(crop.row) + std::to_string(crop.col) + (crop.flip ? "f" : "-");
  };
  std::string found;
  for (index_t sample : {0, 1, 2, 49999})
    for (index_t epoch : {0, 1, 199})
      for (std::uint64_t seed : {std::uint64_t{1}, std::uint64_t{1} << 40})
        found += text(random_crop(seed, sample, epoch)) + " ";
  EXPECT_EQ(found,
            "50f 18- 83- 55f 22- 10f 15f 54f 18f 88- 63- 86f 88- 60- 36f 46- 08- 51f 85f 44- 85- "
            "55- 18f 85- ");
}

TEST_F(ImageReaderTest, EvaluationGoesThroughTheFilesInOrderOnAnyRankCount) {
  const ImageSet set("data.val", DataKind::idx, m_files, 1, 10);
  for (const int ranks : {1, 3, 8}) {
    std::vector<std::string> seen;
    std::vector<std::int32_t> seen_labels;
    for (int rank = 0; rank < ranks; ++rank) {
      ImageEvalReader reader(set, {8, 4, ranks, rank}, 0);
      EXPECT_EQ(reader.num_samples(), 40);
      for (index_t step = 0; step < reader.steps(); ++step) {
        std::vector<std::uint8_t> images(4 * 1024, 7);
        std::vector<std::int32_t> found(4, -1);
        const index_t rows = reader.read(step, images.data(), found.data());
        EXPECT_EQ(rows, reader.rows(step));
        for (index_t row = 0; row < rows; ++row)
          seen.emplace_back(reinterpret_cast<char const*>(&images[row * 1024]), 1024);
        seen_labels.insert(seen_labels.end(), found.begin(), found.begin() + rows);
        for (index_t row = rows; row < 4; ++row) EXPECT_EQ(found[row], -1);
      }
    }
    ASSERT_EQ(seen.size(), 40u);
    for (index_t sample = 0; sample < 40; ++sample) {
      EXPECT_EQ(seen[sample], image_of(set, sample));
      EXPECT_EQ(seen_labels[sample], set.label(sample));
    }
  }
  EXPECT_EQ(ImageEvalReader(set, {8, 4, 1, 0}, 2).num_samples(), 16);
}

TEST_F(ImageReaderTest, TooFewImagesForABatchAreRefused) {
  const ImageSet set("data.train", DataKind::idx, m_files, 1, 10);
  expect_error<ConfigError>(
      [&] {
        ImageTrainReader(set, 1, true, {64, 64, 1, 0});
      },
      {"data.train has 40 images, too few for one batch of train.global_batch = 64"});
}

TEST_F(ImageReaderTest, StatisticsAreThoseOfThePixelsInTheFiles) {
  const ImageSet set("data.train", DataKind::idx, m_files, 1, 10);
  double sum = 0.0;
  double squares = 0.0;
  for (std::string const& bytes : {pixels(24 * 784, 'a'), pixels(16 * 784, 'b')})
    for (char c : bytes) {
      const double value = static_cast<unsigned char>(c) / 255.0;
      sum += value;
      squares += value * value;
    }
  const double mean = sum / (40 * 784);
  EXPECT_NEAR(set.normalization().mean[0], mean, 1e-12);
  EXPECT_NEAR(set.normalization().deviation[0], std::sqrt(squares / (40 * 784) - mean * mean),
              1e-10);

  write_file(m_folder / "flat-labels", idx_file({1}, labels(1, 10)));
  const ImageSet flat("data.train", DataKind::idx,
                      {write_file(m_folder / "flat-images",
                                  idx_file({1, 2, 2, 2}, std::string("\5\5\5\5\0\0\0\0", 8)))},
                      2, 10);
  EXPECT_EQ(flat.normalization().deviation, (std::vector<double>{1.0, 1.0}));
  EXPECT_EQ(flat.normalization().mean, (std::vector<double>{5.0 / 255.0, 0.0}));

  const ImageSet cifar("data.train", DataKind::cifar100,
                       {write_file(m_folder / "c.bin", cifar_file(2, 2))}, 3, 100);
  EXPECT_EQ(cifar.normalization().mean[2], .4409);
  EXPECT_EQ(cifar.normalization().deviation[0], .2673);
}

TEST_F(ImageReaderTest, BytesAreCountedAsData) {
  memory_ledger::install();
  const std::int64_t before = memory_ledger::usage(MemoryCategory::data).current;
  const ImageSet set("data.train", DataKind::idx, m_files, 1, 10);
  const std::int64_t held = memory_ledger::usage(MemoryCategory::data).current - before;
  EXPECT_GE(held, 40 * 784 + 40);
  EXPECT_LT(held, 40 * 784 + 40 + 1024);
}

/// The data set of Debian's package, where it is installed.
TEST(FashionMnist, IsReadAsPublished) {
  const std::string folder = "/usr/share/datasets/fashion-mnist/";
  const std::string train = folder + "train-images-idx3-ubyte.gz";
  if (!std::filesystem::exists(train)) GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  const ImageSet set("data.train", DataKind::idx, {train}, 1, 10);
  EXPECT_EQ(set.num_samples(), 60000);
  std::array<int, 10> counts{};
  for (index_t sample = 0; sample < 60000; ++sample) ++counts[set.label(sample)];
  for (int count : counts) EXPECT_EQ(count, 6000);
  EXPECT_EQ(set.label(0), 9);
  // The constants in use for this set are .2860 and .3530.
  EXPECT_NEAR(set.normalization().mean[0], .2860, 5e-5);
  EXPECT_NEAR(set.normalization().deviation[0], .3530, 5e-5);
  const ImageSet test("data.val", DataKind::idx, {folder + "t10k-images-idx3-ubyte.gz"}, 1, 10);
  EXPECT_EQ(test.num_samples(), 10000);
}

}  // namespace
}  // namespace sdp
