// SPDX-License-Identifier: Apache-2.0
#include "data/token_writer.hpp"

#include "tests/data/data_support.hpp"

namespace sdp {
namespace {

using namespace test;

std::vector<std::int32_t> joined(std::vector<std::string> const& files) {
  std::vector<std::int32_t> tokens;
  for (std::string const& file : files)
    for (std::int32_t token : all_tokens(file)) tokens.push_back(token);
  return tokens;
}

TEST(TokenWriter, WritesBothLayouts) {
  Folder folder;
  for (int token_bytes : {2, 4}) {
    auto tokens = counting(100, token_bytes == 2 ? 65436 : 2'147'483'548);
    TokenWriter writer(folder / std::to_string(token_bytes), token_bytes, 1000);
    writer.append(tokens.data(), 100);
    writer.finish();
    const auto files = writer.publish();
    EXPECT_EQ(read_file(files.at(0)), token_bytes == 2 ? gpt2_shard(tokens) : llama3_shard(tokens));
  }
}

TEST(TokenWriter, MovesAnyTailAndLeavesNoEmptyShard) {
  for (index_t moved = 0; moved <= 30; ++moved) {
    Folder folder;
    TokenWriter from(folder / "from", 2, 10);
    TokenWriter to(folder / "to", 2, 7);
    from.append(counting(30).data(), 30);
    from.move_tail(moved, to);
    from.finish();
    to.finish();
    EXPECT_EQ(from.num_tokens(), 30 - moved);
    EXPECT_EQ(to.num_tokens(), moved);
    const auto kept = from.publish();
    const auto tail = to.publish();
    EXPECT_EQ(kept.size(), static_cast<std::size_t>((30 - moved + 9) / 10)) << moved;
    EXPECT_EQ(joined(kept), counting(30 - moved)) << moved;
    EXPECT_EQ(joined(tail), counting(moved, static_cast<std::int32_t>(30 - moved))) << moved;
    EXPECT_EQ(folder.names().size(), kept.size() + tail.size());
  }
}

TEST(TokenWriter, RemovesWhatWasNotPublished) {
  Folder folder;
  {
    TokenWriter writer(folder / "a", 2, 10);
    writer.append(counting(30).data(), 30);
    EXPECT_EQ(folder.names(), (std::vector<std::string>{"a_000000.bin.tmp", "a_000001.bin.tmp",
                                                        "a_000002.bin.tmp"}));
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(TokenWriter, NamesTheFileThatCannotBeOpened) {
  Folder folder;
  TokenWriter writer(folder / "absent/a", 2, 10);
  expect_error<DataError>([&] { writer.append(counting(1).data(), 1); },
                          {folder / "absent/a_000000.bin", "No such file"});
}

}  // namespace
}  // namespace sdp
