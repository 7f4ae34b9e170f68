// SPDX-License-Identifier: Apache-2.0
#include "models/llama_units.hpp"

#include <gtest/gtest.h>

#include <map>

#include "base/error.hpp"
#include "models/llama_tensors.hpp"

namespace sdp {
namespace {

LlamaConfig small() {
  LlamaConfig config;
  config.vocab_size = 50;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.max_seq_len = 10;
  return config;
}

SdpConfig forward(Level level, BlockUnit unit = BlockUnit::sublayer) {
  SdpConfig sdp;
  sdp.regime = Regime::forward;
  sdp.level = level;
  sdp.block_unit = unit;
  sdp.neuron_group = 8;
  return sdp;
}

std::vector<std::string> names(UnitSet const& set) {
  std::vector<std::string> list;
  for (Unit const& unit : set.units) list.push_back(unit.name);
  return list;
}

/// How many units own each row of each tensor.
std::map<std::string, std::vector<int>> owners(LlamaConfig const& config, UnitSet const& set) {
  std::map<std::string, std::vector<int>> counts;
  const auto tensors = llama_tensors(config);
  for (TensorSpec const& tensor : tensors) counts[tensor.name].assign(tensor.rows, 0);
  for (Unit const& unit : set.units)
    for (RowRange const& range : unit.rows)
      for (index_t row = range.begin; row < range.begin + range.count; ++row)
        ++counts[tensors[range.tensor].name].at(row);
  return counts;
}

void expect_well_formed(LlamaConfig const& config, UnitSet const& set) {
  const auto tensors = llama_tensors(config);
  for (Unit const& unit : set.units) {
    index_t parameters = 0;
    for (std::size_t i = 0; i < unit.rows.size(); ++i) {
      parameters += unit.rows[i].count * tensors[unit.rows[i].tensor].cols;
      if (i == 0) continue;
      EXPECT_LT(unit.rows[i - 1].tensor, unit.rows[i].tensor) << unit.name;
    }
    EXPECT_EQ(unit.parameters, parameters) << unit.name;
  }
  for (std::size_t i = 1; i < set.units.size(); ++i) {
    Unit const &a = set.units[i - 1], &b = set.units[i];
    EXPECT_TRUE(
        std::tie(a.block, a.unit_class) < std::tie(b.block, b.unit_class) ||
        (a.block == b.block && a.unit_class == b.unit_class && a.rows[0].begin < b.rows[0].begin))
        << a.name << " before " << b.name;
  }
}

TEST(LlamaUnits, SublayersOwnTheirNormAndEveryRowOfTheLayersOnce) {
  const LlamaConfig config = small();
  const UnitSet set = llama_units(config, forward(Level::block));
  EXPECT_EQ(set.classes, (std::vector<std::string>{"attention", "mlp"}));
  EXPECT_EQ(names(set),
            (std::vector<std::string>{"layers.0.attention", "layers.0.mlp", "layers.1.attention",
                                      "layers.1.mlp", "layers.2.attention", "layers.2.mlp"}));
  expect_well_formed(config, set);
  for (auto const& [name, counts] : owners(config, set)) {
    const int expected = name.find("layers.") != std::string::npos ? 1 : 0;
    for (int count : counts) EXPECT_EQ(count, expected) << name;
  }
}

TEST(LlamaUnits, AUnitCostsItsForwardFlops) {
  const LlamaConfig config = small();
  const UnitSet set = llama_units(config, forward(Level::block));
  // T = 10; attention has q and o of 16 x 16, k and v of 8 x 16, a norm of 16, and causal scores
  // 2 T^2 H h.
  EXPECT_EQ(set.units[0].parameters, 2 * 256 + 2 * 128 + 16);
  EXPECT_EQ(set.units[0].cost, 2 * 10 * (2 * 256 + 2 * 128 + 16) + 2 * 100 * 16);
  EXPECT_EQ(set.units[1].cost, 2 * 10 * (3 * 24 * 16 + 16));
  std::int64_t total = 0;
  for (Unit const& unit : set.units) total += unit.cost;
  const double head = 50 * 16 + 16;
  EXPECT_DOUBLE_EQ(static_cast<double>(total) + 20 * head,
                   10.0 * llama_flops_per_token(config, 10) / 3.0);
}

TEST(LlamaUnits, WholeLayersAreTheirSublayersTogether) {
  const LlamaConfig config = small();
  const UnitSet layers = llama_units(config, forward(Level::block, BlockUnit::layer));
  const UnitSet parts = llama_units(config, forward(Level::block));
  EXPECT_EQ(layers.classes, std::vector<std::string>{"layer"});
  ASSERT_EQ(names(layers), (std::vector<std::string>{"layers.0", "layers.1", "layers.2"}));
  expect_well_formed(config, layers);
  for (int l = 0; l < 3; ++l) {
    EXPECT_EQ(layers.units[l].cost, parts.units[2 * l].cost + parts.units[2 * l + 1].cost);
    EXPECT_EQ(layers.units[l].parameters,
              parts.units[2 * l].parameters + parts.units[2 * l + 1].parameters);
  }
  EXPECT_EQ(owners(config, layers), owners(config, parts));
}

TEST(LlamaUnits, KeyValueHeadsTakeTheirQueryHeadsAndNeuronsTheirGroup) {
  const LlamaConfig config = small();
  const UnitSet set = llama_units(config, forward(Level::neuron));
  expect_well_formed(config, set);
  ASSERT_EQ(set.units.size(), 3u * (2 + 3));
  const auto where = llama_tensor_indices(config);
  Unit const& heads = set.units[6];
  EXPECT_EQ(heads.name, "layers.1.attention.kv.1");
  const std::vector<std::array<index_t, 3>> expected = {{where.layers[1].output, 8, 8},
                                                        {where.layers[1].query, 8, 8},
                                                        {where.layers[1].key, 4, 4},
                                                        {where.layers[1].value, 4, 4}};
  ASSERT_EQ(heads.rows.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(heads.rows[i].tensor, expected[i][0]);
    EXPECT_EQ(heads.rows[i].begin, expected[i][1]);
    EXPECT_EQ(heads.rows[i].count, expected[i][2]);
  }
  EXPECT_EQ(heads.cost, 2 * 10 * 24 * 16 + 2 * 100 * 8);
  EXPECT_EQ(set.units[9].name, "layers.1.mlp.group.2");
  EXPECT_EQ(set.units[9].rows[0].begin, 16);
  for (auto const& [name, counts] : owners(config, set)) {
    const bool cut = name.find("proj") != std::string::npos;
    for (int count : counts) EXPECT_EQ(count, cut ? 1 : 0) << name;
  }
}

TEST(LlamaUnits, DefaultGroupIsTheLargestDivisorUpTo64) {
  SdpConfig sdp = forward(Level::neuron);
  sdp.neuron_group = 0;
  LlamaConfig config = small();
  const auto groups = [&](index_t width) {
    config.intermediate_size = width;
    std::int64_t count = 0;
    for (Unit const& unit : llama_units(config, sdp).units)
      if (unit.block == 0 && unit.unit_class == 1) ++count;
    return count;
  };
  EXPECT_EQ(groups(24), 1);
  EXPECT_EQ(groups(1376), 32);    // 43 neurons each
  EXPECT_EQ(groups(2048), 32);    // 64
  EXPECT_EQ(groups(11008), 172);  // 64
  EXPECT_EQ(groups(131), 131);
}

TEST(LlamaUnits, AGroupThatDoesNotDivideIsRefusedAtNeuronLevelOnly) {
  SdpConfig sdp = forward(Level::neuron);
  sdp.neuron_group = 7;
  EXPECT_THROW(llama_units(small(), sdp), ConfigError);
  sdp.level = Level::block;
  EXPECT_EQ(llama_units(small(), sdp).units.size(), 6u);
}

TEST(LlamaUnits, ProtectedLayersHaveNone) {
  SdpConfig sdp = forward(Level::neuron);
  sdp.protect_first = 1;
  sdp.protect_last = 1;
  for (Unit const& unit : llama_units(small(), sdp).units) EXPECT_EQ(unit.block, 1) << unit.name;
  sdp.protect_last = 2;
  EXPECT_TRUE(llama_units(small(), sdp).units.empty());
  sdp = forward(Level::block);
  sdp.regime = Regime::none;
  EXPECT_TRUE(llama_units(small(), sdp).units.empty());
}

TEST(LlamaUnits, ScalesMultiplyWhatHasDroppableUnits) {
  const LlamaConfig config = small();
  const auto scales = [&](SdpConfig sdp) {
    sdp.protect_first = 1;
    return llama_branch_scales(config, sdp, llama_units(config, sdp), 2.5);
  };
  const std::vector<double> ones(6, 1.0), scaled{1.0, 1.0, 2.5, 2.5, 2.5, 2.5};
  SdpConfig sdp = forward(Level::neuron);
  EXPECT_EQ(scales(sdp), scaled);
  sdp.forward_scale = ForwardScale::none;
  EXPECT_EQ(scales(sdp), ones);
  sdp = forward(Level::block);
  EXPECT_EQ(scales(sdp), ones);
  sdp.forward_scale = ForwardScale::inverse_keep;
  EXPECT_EQ(scales(sdp), scaled);
  sdp.block_unit = BlockUnit::layer;
  EXPECT_EQ(scales(sdp), scaled);
  sdp.regime = Regime::backward;
  EXPECT_EQ(scales(sdp), ones);
}

}  // namespace
}  // namespace sdp
