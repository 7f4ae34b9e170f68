// SPDX-License-Identifier: Apache-2.0
#include "subnet/mask_json.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "base/error.hpp"
#include "units.hpp"

namespace sdp {
namespace {

using test::make_units;
using testing::HasSubstr;

Mask sample(UnitSet const& units) {
  MaskSpec spec;
  spec.subnetworks = 8;
  spec.coverage = 0.5;
  spec.seed = 0xFFFFFFFFFFFFFFFFu;
  return make_mask(units, spec);
}

std::string error_of(std::string const& text, UnitSet const& units, int subnetworks = 8) {
  try {
    mask_from_json(text, "mask.json", units, subnetworks);
  } catch (ConfigError const& error) {
    return error.what();
  }
  return "";
}

std::string replaced(std::string text, std::string const& what, std::string const& by) {
  const auto found = text.find(what);
  EXPECT_NE(found, std::string::npos) << what;
  return text.replace(found, what.size(), by);
}

TEST(MaskJson, RoundTrip) {
  const UnitSet units = make_units(12, 12);
  const Mask mask = sample(units);
  const std::string text = mask_to_json(units, mask);
  const Mask back = mask_from_json(text, "mask.json", units, 8);
  EXPECT_EQ(back.subnetworks, mask.subnetworks);
  EXPECT_EQ(back.holders_per_unit, mask.holders_per_unit);
  EXPECT_EQ(back.design, mask.design);
  EXPECT_EQ(back.seed, mask.seed);
  EXPECT_EQ(back.holders, mask.holders);
  EXPECT_EQ(back.rho, mask.rho);
  EXPECT_EQ(back.warnings, mask.warnings);
  EXPECT_EQ(mask_to_json(units, back), text);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 24 + 14) << "one unit a line";
}

TEST(MaskJson, RoundTripOfLimits) {
  const UnitSet none = make_units(0, 0);
  const Mask empty = full_mask(none, 1);
  EXPECT_EQ(mask_from_json(mask_to_json(none, empty), "m", none, 1).holders, empty.holders);
  const UnitSet units = make_units(3, 3);
  const Mask all = full_mask(units, 64);
  EXPECT_EQ(mask_from_json(mask_to_json(units, all), "m", units, 64).holders, all.holders);
}

TEST(MaskJson, ThroughAFile) {
  const UnitSet units = make_units(4, 4);
  const Mask mask = sample(units);
  const auto path = std::filesystem::path(testing::TempDir()) / "sdp_mask_json_test.json";
  std::ofstream(path) << mask_to_json(units, mask);
  EXPECT_EQ(read_mask(path.string(), units, 8).holders, mask.holders);
  std::filesystem::remove(path);
  try {
    read_mask(path.string(), units, 8);
    FAIL() << "the file is gone";
  } catch (ConfigError const& error) {
    EXPECT_THAT(error.what(), HasSubstr("there is no such file"));
  }
  EXPECT_THROW(read_mask(testing::TempDir(), units, 8), ConfigError);
}

TEST(MaskJson, OfAnotherModel) {
  const UnitSet units = make_units(4, 4);
  const std::string text = mask_to_json(units, sample(units));
  EXPECT_THAT(error_of(text, units, 4),
              HasSubstr("mask.json: the mask is for 8 subnetworks; 4 were expected"));
  EXPECT_THAT(error_of(text, make_units(4, 5)), HasSubstr("is for 8 units; the model has 9"));
  EXPECT_THAT(error_of(text, make_units(5, 4)),
              HasSubstr("unit 4 is \"layers.0.mlp\"; \"layers.4.attention\" was expected"));
  UnitSet wider = units;
  wider.units[2].parameters = 9;
  EXPECT_THAT(error_of(text, wider), HasSubstr("layers.2.attention has 8 parameters; 9 were"));
  UnitSet elsewhere = units;
  elsewhere.units[2].rows[0].begin = 1;
  EXPECT_THAT(error_of(text, elsewhere), HasSubstr("the mask is for another model: unit_finger"));
}

TEST(MaskJson, BrokenFiles) {
  const UnitSet units = make_units(4, 4);
  const std::string text = mask_to_json(units, sample(units));
  EXPECT_THAT(error_of("", units), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("[]", units), HasSubstr("not a JSON object"));
  EXPECT_THAT(error_of("{}", units), HasSubstr("the mask has no \"format_version\""));
  EXPECT_THAT(error_of(replaced(text, "\"format_version\": 1", "\"format_version\": 2"), units),
              HasSubstr("format_version is 2; this program reads version 1"));
  EXPECT_THAT(error_of(replaced(text, "\"subnetworks\": 8", "\"subnetworks\": -8"), units),
              HasSubstr("subnetworks of the mask is -8; a whole number from 1 to 64"));
  EXPECT_THAT(error_of(replaced(text, "\"subnetworks\": 8", "\"subnetworks\": 8.5"), units),
              HasSubstr("is 8.5"));
  EXPECT_THAT(error_of(replaced(text, "\"holders_per_unit\": 4", "\"holders_per_unit\": 3"), units),
              HasSubstr("has 4 holders; 3 were expected"));
  EXPECT_THAT(error_of(replaced(text, "\"design\": \"", "\"design\": \"un"), units),
              HasSubstr("design of the mask is \"un"));
  const auto begin = text.find("\"holders\": [") + 12;
  const std::string list = text.substr(begin, text.find(']', begin) - begin);
  EXPECT_THAT(error_of(replaced(text, list, "0,0,1,2"), units), HasSubstr("has holder 0 twice"));
  EXPECT_THAT(error_of(replaced(text, list, "0,1,2,8"), units),
              HasSubstr("a holder of layers.0.attention is 8; a whole number from 0 to 7"));
  EXPECT_THAT(error_of(replaced(text, list, "0,1,2,\"3\""), units), HasSubstr("is \"3\""));
  EXPECT_THAT(error_of(replaced(text, "[" + list + "]", "7"), units),
              HasSubstr("holders of layers.0.attention is 7; a list"));
}

/// A damaged file is refused with a ConfigError, or is still a whole mask; nothing else happens.
TEST(MaskJson, DamagedBytes) {
  const UnitSet units = make_units(6, 6);
  const Mask mask = sample(units);
  const std::string text = mask_to_json(units, mask);
  std::mt19937 generator(3);
  int refused = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    std::string damaged = text;
    for (unsigned edits = 1 + generator() % 3; edits > 0; --edits) {
      const std::size_t place = generator() % damaged.size();
      switch (generator() % 3) {
        case 0:
          damaged[place] = static_cast<char>(generator() % 256);
          break;
        case 1:
          damaged.erase(place, 1 + generator() % 20);
          break;
        default:
          damaged.insert(place, damaged.substr(generator() % damaged.size(), 9));
          break;
      }
    }
    try {
      const Mask read = mask_from_json(damaged, "mask.json", units, 8);
      EXPECT_EQ(read.holders.size(), units.units.size());
    } catch (ConfigError const& error) {
      ++refused;
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_GT(refused, 3000);
}

}  // namespace
}  // namespace sdp
