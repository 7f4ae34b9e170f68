// SPDX-License-Identifier: Apache-2.0
#include "train/run_folder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.hpp"

namespace sdp {
namespace {

namespace fs = std::filesystem;

struct Folder : ::testing::Test {
  fs::path root = fs::temp_directory_path() / ("sdp_folder_" + std::to_string(::getpid()));
  Folder() { fs::create_directories(root); }
  ~Folder() override { fs::remove_all(root); }
  static void expect_refused(RunFolder const& folder, Config const& config, char const* part) {
    try {
      folder.check(config);
      FAIL() << "no error";
    } catch (Error const& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_THAT(error.what(), ::testing::HasSubstr(part));
      EXPECT_THAT(error.what(), ::testing::HasSubstr("run.out_dir"));
    }
  }
};

TEST_F(Folder, ANewOrEmptyFolderIsFine) {
  EXPECT_NO_THROW(RunFolder(root.string()).check({}));
  EXPECT_NO_THROW(RunFolder((root / "new/deeper").string()).check({}));
  EXPECT_FALSE(fs::exists(root / "new"));
}

TEST_F(Folder, RefusesFilesForeignFoldersAndPlacesUnderFiles) {
  std::ofstream(root / "file") << "x";
  expect_refused(RunFolder((root / "file").string()), {}, "not a folder");
  expect_refused(RunFolder((root / "file/run").string()), {}, "not a folder");
  expect_refused(RunFolder(root.string()), {}, "holds files but no run");
}

TEST_F(Folder, AFolderThatCannotBeMadeIsAnErrorOfTheDeck) {
  try {
    RunFolder("/proc/sdp-run").create({});
    FAIL() << "no error";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("cannot be created"));
  }
}

TEST_F(Folder, NeverRefusesAUsedFolder) {
  std::ofstream(root / "config.toml") << "";
  Config config;
  EXPECT_NO_THROW(RunFolder(root.string()).check(config));
  config.checkpoint.resume = "never";
  expect_refused(RunFolder(root.string()), config, "never");
}

TEST_F(Folder, WriteFileIsAllOrNothing) {
  write_file(root / "a", "text");
  std::ifstream file(root / "a");
  std::string text;
  std::getline(file, text);
  EXPECT_EQ(text, "text");
  EXPECT_FALSE(fs::exists(root / "a.tmp"));
  EXPECT_THROW(write_file(root / "none/a", "text"), DataError);
}

TEST_F(Folder, NamesTheFirstKeyThatDiffers) {
  Config a, b;
  EXPECT_NO_THROW(require_same_run(a, b, "x"));
  b.train.steps = 99;
  EXPECT_NO_THROW(require_same_run(a, b, "x"));
  b.train.global_batch = 5;
  try {
    require_same_run(a, b, "place");
    FAIL() << "no error";
  } catch (ConfigError const& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("train.global_batch"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("place"));
  }
}

}  // namespace
}  // namespace sdp
