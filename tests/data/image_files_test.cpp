// SPDX-License-Identifier: Apache-2.0
// Every way in which files of images can be wrong, and which of them are right.
#include "data/image_files.hpp"

#include "tests/data/image_support.hpp"

namespace sdp {
namespace {

using namespace test;

class ImageFilesTest : public ::testing::Test {
 protected:
  std::string put(std::string const& name, std::string const& bytes) {
    return write_file(m_folder / name, bytes);
  }
  /// A good pair of 5 images of 4 x 6; returns the name of the images.
  std::string good(std::string const& prefix = "train") {
    put(prefix + "-labels-idx1-ubyte", idx_file({5}, labels(5, 10)));
    return put(prefix + "-images-idx3-ubyte", idx_file({5, 4, 6}, pixels(120)));
  }
  static ImageSet read(DataKind kind, std::vector<std::string> const& files, index_t channels = 1,
                       index_t classes = 10) {
    return ImageSet("data.train", kind, files, channels, classes);
  }
  static void refused(std::vector<std::string> const& files, std::vector<std::string> const& parts,
                      DataKind kind = DataKind::idx, index_t channels = 1) {
    expect_error<ConfigError>([&] { read(kind, files, channels, 100); }, parts);
  }
  static void damaged(std::vector<std::string> const& files, std::vector<std::string> const& parts,
                      DataKind kind = DataKind::idx, index_t channels = 1) {
    expect_error<DataError>([&] { read(kind, files, channels, 100); }, parts);
  }

  Folder m_folder;
};

TEST_F(ImageFilesTest, CifarRecordsAreRead) {
  const std::string a = put("a.bin", cifar_file(3, 1)), b = put("b.bin", cifar_file(2, 1, 9));
  const ImageSet ten = read(DataKind::cifar10, {a, b}, 3);
  ASSERT_EQ(ten.num_samples(), 5);
  EXPECT_EQ(image_of(ten, 1), pixels(3 * 3072).substr(3072, 3072));
  EXPECT_EQ(image_of(ten, 4), pixels(2 * 3072, 9).substr(3072));
  EXPECT_EQ(ten.label(2), 6);
  EXPECT_EQ(ten.label(3), 0);
  const ImageSet hundred = read(DataKind::cifar100, {put("c.bin", cifar_file(30, 2))}, 3, 100);
  EXPECT_EQ(hundred.label(29), 87);  // the fine label, not the coarse one
  EXPECT_EQ(image_of(hundred, 29), pixels(30 * 3072).substr(29 * 3072));
}

TEST_F(ImageFilesTest, BadCifarFilesAreRefused) {
  const auto kind = DataKind::cifar10;
  const std::string ten = cifar_file(3, 1);
  refused({put("short.bin", ten.substr(0, 3073 * 2 + 100))},
          {"short.bin: has 6246 bytes", "multiple of the 3073", "CIFAR-10"}, kind, 3);
  refused({put("hundred.bin", cifar_file(3, 2))}, {"hundred.bin: has 9222 bytes", "3073"}, kind, 3);
  refused({put("ten.bin", ten)}, {"ten.bin: has 9219 bytes", "3074", "CIFAR-100"},
          DataKind::cifar100, 3);
  refused({put("empty.bin", "")}, {"empty.bin: is empty"}, kind, 3);
  refused({m_folder.path()}, {"is not a regular file"}, kind, 3);
  refused({m_folder / "none.bin"}, {"none.bin: cannot be opened", "No such file"}, kind, 3);
  refused({put("ten.bin", ten)}, {"ten.bin: has images of 3 channels", "model.in_channels is 1"},
          kind, 1);
  refused({}, {"data.train names no file"}, kind, 3);
  expect_error<ConfigError>([&] { read(kind, {put("ten.bin", ten)}, 3, 9); },
                            {"model.num_classes is 9", "data.train", "10 classes"});

  std::string wrong = ten;
  wrong[3073 * 2] = 100;
  damaged({put("label.bin", wrong)},
          {"label.bin: label 100 at byte 6146", "model.num_classes = 100"}, kind, 3);
  wrong = cifar_file(3, 2);
  wrong[3074] = 20;
  damaged({put("coarse.bin", wrong)}, {"coarse.bin: label 20 at byte 3074", "coarse classes = 20"},
          DataKind::cifar100, 3);
  wrong = cifar_file(3, 2);
  wrong[1] = static_cast<char>(200);
  damaged({put("fine.bin", wrong)}, {"fine.bin: label 200 at byte 1"}, DataKind::cifar100, 3);
}

TEST_F(ImageFilesTest, IdxFilesAreReadPlainAndCompressed) {
  const ImageSet plain = read(DataKind::idx, {good()});
  ASSERT_EQ(plain.num_samples(), 5);
  EXPECT_EQ(plain.label(3), 21 % 10);
  EXPECT_EQ(image_of(plain, 3), cropped(pixels(120).substr(72, 24), 1, 4, 6, {}));

  put("z-labels-idx1-ubyte.gz", gzip(idx_file({400}, labels(400, 10))));
  const ImageSet packed =
      read(DataKind::idx,
           {put("z-images-idx3-ubyte.gz", gzip(idx_file({400, 32, 32}, pixels(409600))))});
  ASSERT_EQ(packed.num_samples(), 400);
  EXPECT_EQ(image_of(packed, 399), pixels(409600).substr(399 * 1024));
  EXPECT_EQ(packed.label(399), 399 * 7 % 10);

  // Images with channels; labels compressed, images not.
  put("rgb-labels-idx1-ubyte.gz", gzip(idx_file({2}, labels(2, 10))));
  const ImageSet rgb =
      read(DataKind::idx, {put("rgb-images-idx4-ubyte", idx_file({2, 3, 5, 7}, pixels(210)))}, 3);
  EXPECT_EQ(image_of(rgb, 1), cropped(pixels(210).substr(105), 3, 5, 7, {}));
}

TEST_F(ImageFilesTest, LabelFilesAmongTheFilesArePassedOver) {
  const std::string images = good(), more = good("t10k");
  const ImageSet set = read(DataKind::idx, {images, more, m_folder / "t10k-labels-idx1-ubyte",
                                            m_folder / "train-labels-idx1-ubyte"});
  EXPECT_EQ(set.num_samples(), 10);
  refused({images, m_folder / "t10k-labels-idx1-ubyte"},
          {"data.train: ", "t10k-labels-idx1-ubyte holds labels", "not named"});
  refused({m_folder / "t10k-labels-idx1-ubyte"}, {"holds labels"});
}

TEST_F(ImageFilesTest, ImagesWithoutTheirLabelsAreRefused) {
  const std::string image_bytes = idx_file({5, 4, 6}, pixels(120));
  refused({put("a-images-idx3-ubyte", image_bytes)},
          {"data.train: ", "a-images-idx3-ubyte has no file of labels beside it",
           "a-labels-idx1-ubyte"});
  refused({put("pictures.idx3", image_bytes)}, {"pictures.idx3 has no \"images\" in its name"});
  const std::string images = good();
  put("train-labels-idx1-ubyte", idx_file({4}, labels(4, 10)));
  refused({images}, {"train-labels-idx1-ubyte: has 4 labels", "has 5 images"});
  put("train-labels-idx1-ubyte", image_bytes);
  refused({images}, {"train-labels-idx1-ubyte: is an IDX file of 3 axes, expected 1 (labels)"});
  good();
  refused({images, put("train-images-idx3-ubyte.gz", gzip(image_bytes))},
          {"train-images-idx3-ubyte.gz is named both compressed and not"});
}

TEST_F(ImageFilesTest, BadIdxHeadersAreRefused) {
  good("x");
  const auto refuse = [&](std::string const& bytes, std::vector<std::string> parts) {
    parts.insert(parts.begin(), "x-images-idx3-ubyte: ");
    refused({put("x-images-idx3-ubyte", bytes)}, parts);
    if (bytes.empty()) return;
    const std::string packed = put("x-images-idx3-ubyte", gzip(bytes));
    expect_error<Error>([&] { read(DataKind::idx, {packed}); }, {"x-images-idx3-ubyte: "});
  };
  const std::string good_bytes = idx_file({5, 4, 6}, pixels(120));
  refuse("", {"is empty"});
  refuse(std::string("\0\0\x08", 3), {"has 3 bytes of data, too few for an IDX header"});
  refuse(good_bytes.substr(0, 11), {"ends at byte 11, inside its IDX header"});
  refuse(idx_file({5, 4, 6}, pixels(120), std::string("\0\1\x08", 3)), {"bytes 0, 1, 8"});
  refuse(idx_file({5, 4, 6}, pixels(120), std::string("\0\0\x0d", 3)), {"bytes 0, 0, 13"});
  refuse(idx_file({5, 24}, pixels(120)), {"IDX file of 2 axes"});
  refuse(idx_file({5, 1, 1, 4, 6}, pixels(120)), {"IDX file of 5 axes"});
  refuse(idx_file({0, 4, 6}, ""), {"IDX file without an element"});
  refuse(idx_file({5, 0, 6}, ""), {"IDX file without an element"});
  refuse(good_bytes + "x", {"promises 120 bytes of data, but 121 follow"});
  refuse(idx_file({4294967295u, 4294967295u, 4294967295u, 4294967295u}, pixels(120)),
         {"promises 9223372036854775807 bytes"});
  refuse(idx_file({5, 33, 6}, pixels(990)), {"images of 33 x 6, expected at most 32 x 32"});
  refuse(idx_file({5, 4, 64}, pixels(1280)), {"images of 4 x 64"});
  refuse(idx_file({5, 2, 4, 6}, pixels(240)), {"images of 2 channels", "model.in_channels is 1"});
  refuse("PNG, or something else", {"bytes 80, 78, 71, expected 0, 0, 8"});
  refused({put("x-images-idx3-ubyte", good_bytes.substr(0, 100))},
          {"promises 120 bytes of data, but 84 follow"});
  // A few bytes that promise gigabytes are refused before memory is taken.
  refused({put("x-images-idx3-ubyte", gzip(idx_file({4000000, 32, 32}, pixels(100))))},
          {"promises 4096000000 bytes of data, more than"});
}

TEST_F(ImageFilesTest, DamageInsideIsAFaultOfReading) {
  const std::string images = good();
  const std::string path = m_folder / "train-labels-idx1-ubyte";
  put("train-labels-idx1-ubyte", idx_file({5}, std::string("\1\2\3\x64\4", 5)));
  damaged({images}, {path + ": label 100 at byte 11", "model.num_classes = 100"});

  put("z-labels-idx1-ubyte", idx_file({400}, labels(400, 10)));
  const std::string name = "z-images-idx3-ubyte.gz";
  const std::string packed = gzip(idx_file({400, 32, 32}, pixels(409600)));
  damaged({put(name, packed.substr(0, packed.size() / 2))}, {name, "truncated", "at byte"});
  damaged({put(name, packed.substr(0, packed.size() - 3))}, {name, "truncated", "at byte"});
  std::string wrong = packed;
  wrong[wrong.size() - 6] ^= 1;  // the checksum at the end
  damaged({put(name, wrong)}, {name, "corrupt gzip data", "at byte"});
  damaged({put(name, gzip(idx_file({400, 32, 32}, pixels(409000))))},
          {name, "the data end at byte 409016, expected 600 more"});
  damaged({put(name, gzip(idx_file({400, 32, 32}, pixels(409601))))},
          {name, "the data go on after byte 409616"});
}

}  // namespace
}  // namespace sdp
