// SPDX-License-Identifier: Apache-2.0
#include "data/glob.hpp"

#include "tests/data/data_support.hpp"

namespace sdp {
namespace {

using test::expect_error;
using test::Folder;
using test::write_file;

TEST(Glob, SortsInByteOrderWithinEachPatternAndKeepsTheOrderOfPatterns) {
  Folder folder;
  for (char const* name : {"b_2.bin", "b_10.bin", "B_3.bin", "a_1.bin", "other.txt"})
    write_file(folder / name, "x");
  EXPECT_EQ(expand_globs("data.train", {folder / "b_*.bin", folder / "[aB]_?.bin"}),
            (std::vector<std::string>{folder / "b_10.bin", folder / "b_2.bin", folder / "B_3.bin",
                                      folder / "a_1.bin"}));
}

TEST(Glob, TheOrderOfTheFolderDoesNotMatter) {
  Folder folder;
  std::vector<std::string> expected;
  for (int i = 0; i < 200; ++i)
    expected.push_back(
        write_file(folder / std::to_string(1000 + i * 7919 % 1000).append(".bin"), "x"));
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(expand_globs("data.train", {folder / "1*.bin"}), expected);
}

TEST(Glob, AFileOfTwoPatternsCountsOnce) {
  Folder folder;
  write_file(folder / "a.bin", "x");
  write_file(folder / "b.bin", "x");
  EXPECT_EQ(expand_globs("data.val", {folder / "b.bin", folder / "*.bin", folder / "./a.bin"}),
            (std::vector<std::string>{folder / "b.bin", folder / "a.bin"}));
}

TEST(Glob, ANameWithBracketsIsAFileFirst) {
  Folder folder;
  write_file(folder / "a[1].bin", "x");
  write_file(folder / "a1.bin", "x");
  EXPECT_EQ(expand_globs("data.val", {folder / "a[1].bin"}),
            (std::vector<std::string>{folder / "a[1].bin"}));
}

TEST(Glob, NamesKeyAndPattern) {
  Folder folder;
  write_file(folder / "sub/a.bin", "x");
  expect_error<ConfigError>([] { expand_globs("data.train", {}); }, {"data.train is empty"});
  expect_error<ConfigError>([&] { expand_globs("data.train", {folder / "*.nothing"}); },
                            {"data.train", folder / "*.nothing", "matches no file"});
  expect_error<ConfigError>([&] { expand_globs("data.val", {folder / "sub"}); },
                            {"data.val", folder / "sub", "sub/*.bin"});
  EXPECT_EQ(expand_globs("data.val", {folder / "*/*.bin"}).size(), 1u);
}

}  // namespace
}  // namespace sdp
