// SPDX-License-Identifier: Apache-2.0
#include "config/schema.hpp"

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "config/names.hpp"
#include "tests/config/decks.hpp"

namespace sdp::test {
namespace {

std::string file_text(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

TEST(Schema, NamesAreUniqueAndGroupedBySection) {
  std::set<std::string_view> names, sections;
  std::string_view section;
  for (Key const& key : schema()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    if (key.section() != section) {
      section = key.section();
      EXPECT_TRUE(sections.insert(section).second) << section;
    }
    EXPECT_FALSE(key.doc.empty()) << key.name;
    EXPECT_EQ(key.rule.empty(), key.derive == nullptr) << key.name;
    EXPECT_EQ(find_key(key.name), &key);
  }
  EXPECT_EQ(sections.size(), 9u);
  EXPECT_EQ(find_key("train"), nullptr);
  EXPECT_FALSE(is_section("train.steps"));
}

TEST(Schema, EveryKeyHasAMemberOfItsOwn) {
  Config config;
  std::set<void const*> members;
  for (Key const& key : schema()) {
    const Field field = key.field(config);
    const void* member = std::visit(
        [](auto f) -> void const* {
          if constexpr (std::is_same_v<decltype(f), Choice>)
            return f.member;
          else
            return f;
        },
        field);
    EXPECT_TRUE(members.insert(member).second) << key.name;
  }
}

// inputs/reference.toml is the schema in words. After a change of the schema write it anew with
// SDP_WRITE_REFERENCE_DECK=1 set for this test.
TEST(Schema, ReferenceDeckDocumentsTheSchema) {
  const std::string expected = reference_deck();
  if (std::getenv("SDP_WRITE_REFERENCE_DECK"))
    std::ofstream(SDP_REFERENCE_DECK, std::ios::binary) << expected;
  EXPECT_EQ(file_text(SDP_REFERENCE_DECK), expected);
  for (Key const& key : schema()) {
    const std::string line = std::string(key.leaf()) + " = ";
    EXPECT_TRUE(expected.find("\n" + line) != std::string::npos ||
                expected.find("\n# " + line) != std::string::npos)
        << key.name;
  }
  std::istringstream lines(expected);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(Schema, ReferenceDeckLoadsAndShowsTheDefaults) {
  std::string required;
  for (Key const& key : schema())
    if (key.required()) required += std::string(key.name) + " = " + std::string(key.example) + "\n";
  for (int ranks : {1, 2, 4, 8}) {
    const Launch launch{.ranks = ranks};
    EXPECT_EQ(load_deck(SDP_REFERENCE_DECK, {}, launch), parse(required, {}, launch));
  }
}

TEST(Schema, SuggestsOnlyWhatIsNear) {
  EXPECT_EQ(nearest_name("trian.steps"), "train.steps");
  EXPECT_EQ(nearest_name("num_head"), "model.num_heads");
  EXPECT_EQ(nearest_name("modle"), "model");
  EXPECT_EQ(nearest_name("completely.different"), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'x')), "");
}

TEST(Names, AreTheWordsOfTheDeck) {
  EXPECT_EQ(to_string(Regime::forward), "forward");
  EXPECT_EQ(to_string(Design::automatic), "auto");
  EXPECT_EQ(to_string(Design::random), "random");
  EXPECT_EQ(to_string(TokenFormat::nanogpt_u16), "nanogpt-u16");
  EXPECT_EQ(to_string(Toggle::off), "off");
  EXPECT_EQ(to_string(Precision::fp64), "fp64");
  EXPECT_EQ(to_string(DataKind::idx), "idx");
}

}  // namespace
}  // namespace sdp::test
