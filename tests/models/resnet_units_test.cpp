// SPDX-License-Identifier: Apache-2.0
#include "models/resnet_units.hpp"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "models/model_family.hpp"
#include "models/resnet_costs.hpp"
#include "models/resnet_tensors.hpp"

namespace sdp {
namespace {

ModelConfig resnet(index_t width, index_t classes = 10) {
  ModelConfig model;
  model.kind = ModelKind::resnet18;
  model.resnet.width = width;
  model.resnet.num_classes = classes;
  return model;
}

SdpConfig forward(Level level) {
  SdpConfig sdp;
  sdp.regime = Regime::forward;
  sdp.level = level;
  return sdp;
}

TEST(ResnetTensors, ParametersAndNamesAreThoseOfTheCifarResnet18) {
  EXPECT_EQ(model_parameters(resnet(64)), 11173962);
  EXPECT_EQ(model_parameters(resnet(64, 100)), 11220132);
  std::map<std::string, TensorSpec> tensors;
  for (TensorSpec const& tensor : resnet_tensors(resnet(64).resnet)) {
    EXPECT_TRUE(tensors.emplace(tensor.name, tensor).second) << tensor.name;
    index_t size = 1;
    for (index_t extent : tensor.shape) size *= extent;
    EXPECT_EQ(size, tensor.size()) << tensor.name;
  }
  // 20 convolutions, 20 batch norms of four tensors, the classifier's two.
  EXPECT_EQ(tensors.size(), 102u);
  using Shape = std::vector<index_t>;
  EXPECT_EQ(tensors.at("conv1.weight").shape, (Shape{64, 3, 3, 3}));
  EXPECT_EQ(tensors.at("layer2.0.conv1.weight").shape, (Shape{128, 64, 3, 3}));
  EXPECT_EQ(tensors.at("layer2.0.shortcut.0.weight").shape, (Shape{128, 64, 1, 1}));
  EXPECT_EQ(tensors.count("layer2.1.shortcut.0.weight"), 0u);
  TensorSpec const& second = tensors.at("layer4.1.conv2.weight");
  EXPECT_EQ(second.shape, (Shape{512, 512, 3, 3}));
  EXPECT_TRUE(second.transposed);
  EXPECT_TRUE(tensors.at("layer1.0.bn1.running_var").statistic);
  EXPECT_FALSE(tensors.at("layer1.0.bn1.weight").statistic);
}

TEST(ResnetTensors, IndicesNameTheTensors) {
  const ResnetConfig config = resnet(8).resnet;
  const auto tensors = resnet_tensors(config);
  const ResnetTensors where = resnet_tensor_indices(config);
  const auto name = [&](int tensor) { return tensors[static_cast<std::size_t>(tensor)].name; };
  EXPECT_EQ(name(where.classifier), "linear.weight");
  EXPECT_EQ(name(where.classifier_bias), "linear.bias");
  EXPECT_EQ(name(where.stem), "conv1.weight");
  EXPECT_EQ(name(where.stem_bn.running_mean), "bn1.running_mean");
  EXPECT_EQ(name(where.blocks[3].conv2), "layer2.1.conv2.weight");
  EXPECT_EQ(name(where.blocks[3].bn1.shift), "layer2.1.bn1.bias");
  EXPECT_EQ(name(where.blocks[6].projection), "layer4.0.shortcut.0.weight");
  EXPECT_EQ(name(where.blocks[6].projection_bn.running_var), "layer4.0.shortcut.1.running_var");
  EXPECT_EQ(where.blocks[7].projection, -1);
}

/// Every row that a unit may own is owned once, and by the block that the unit names.
void expect_units_partition(ResnetConfig const& config, UnitSet const& set, Level level) {
  const auto tensors = resnet_tensors(config);
  std::map<std::string, std::vector<int>> owners;
  for (TensorSpec const& tensor : tensors)
    owners[tensor.name].assign(static_cast<std::size_t>(tensor.rows), 0);
  for (Unit const& unit : set.units) {
    for (std::size_t i = 0; i < unit.rows.size(); ++i) {
      RowRange const& range = unit.rows[i];
      std::string const& name = tensors[static_cast<std::size_t>(range.tensor)].name;
      EXPECT_EQ(name.substr(0, 8), unit.name.substr(0, 8));
      if (i > 0) {
        EXPECT_LT(unit.rows[i - 1].tensor, range.tensor);
      }
      for (index_t row = range.begin; row < range.begin + range.count; ++row)
        ++owners[name].at(static_cast<std::size_t>(row));
    }
  }
  for (auto const& [name, counts] : owners) {
    const bool block = name.rfind("layer", 0) == 0 && name.find("shortcut") == std::string::npos;
    const bool owned = block && (level == Level::block || name.find("bn2") == std::string::npos);
    for (int count : counts) EXPECT_EQ(count, owned ? 1 : 0) << name;
  }
}

TEST(ResnetUnits, BlocksOwnTheirResidualBranchAndLeaveTheProjection) {
  const ResnetConfig config = resnet(8).resnet;
  const UnitSet set = resnet_units(config, forward(Level::block));
  ASSERT_EQ(set.units.size(), 8u);
  EXPECT_EQ(set.units[2].name, "layer2.0");
  EXPECT_EQ(set.units[2].unit_class, 1);
  expect_units_partition(config, set, Level::block);
}

TEST(ResnetUnits, ChannelGroupsOwnTheirRowsOfBothConvolutions) {
  const ResnetConfig config = resnet(16).resnet;
  SdpConfig sdp = forward(Level::neuron);
  UnitSet set = resnet_units(config, sdp);
  EXPECT_EQ(set.units.size(), 8u * 8u);
  EXPECT_EQ(set.units[9].name, "layer1.1.channels.1");
  expect_units_partition(config, set, Level::neuron);
  sdp.neuron_group = 4;
  set = resnet_units(config, sdp);
  EXPECT_EQ(set.units.size(), 2u * (4 + 8 + 16 + 32));
  expect_units_partition(config, set, Level::neuron);
  sdp.neuron_group = 5;
  EXPECT_THROW(resnet_units(config, sdp), ConfigError);
}

TEST(ResnetUnits, ProtectedBlocksHaveNone) {
  SdpConfig sdp = forward(Level::block);
  sdp.protect_first = 1;
  sdp.protect_last = 2;
  const UnitSet set = resnet_units(resnet(8).resnet, sdp);
  ASSERT_EQ(set.units.size(), 5u);
  EXPECT_EQ(set.units.front().name, "layer1.1");
  EXPECT_EQ(set.units.back().name, "layer3.1");
}

/// The known range of parameter shares of a worker with four of the eight residual branches.
TEST(ResnetUnits, SharesOfFourBlocksOfEight) {
  const UnitSet set = resnet_units(resnet(64).resnet, forward(Level::block));
  const double total = static_cast<double>(model_parameters(resnet(64)));
  double droppable = 0;
  for (Unit const& unit : set.units) droppable += static_cast<double>(unit.parameters);
  const auto share = [&](std::vector<int> const& held) {
    double held_parameters = total - droppable;
    for (int unit : held)
      held_parameters += static_cast<double>(set.units[static_cast<std::size_t>(unit)].parameters);
    return held_parameters / total;
  };
  EXPECT_NEAR(share({0, 1, 2, 3}), 0.076, 5e-4);
  EXPECT_NEAR(share({4, 5, 6, 7}), 0.940, 5e-4);
  // One block of each stage: the strided ones are the smaller.
  EXPECT_NEAR(share({0, 2, 4, 6}), 0.439, 5e-4);
  EXPECT_NEAR(share({1, 3, 5, 7}), 0.577, 5e-4);
}

TEST(ResnetUnits, OnlyInverseKeepScalesBlocks) {
  const ResnetConfig config = resnet(8).resnet;
  SdpConfig sdp = forward(Level::neuron);
  sdp.protect_first = 1;
  const UnitSet set = resnet_units(config, sdp);
  EXPECT_EQ(resnet_branch_scales(config, sdp, set, 2.0), std::vector<double>(8, 1.0));
  sdp.forward_scale = ForwardScale::inverse_keep;
  std::vector<double> scaled(8, 2.0);
  scaled[0] = 1.0;
  EXPECT_EQ(resnet_branch_scales(config, sdp, set, 2.0), scaled);
}

TEST(ResnetCosts, FlopsOfTheWholeModelAndOfItsUnits) {
  const ResnetConfig config = resnet(64).resnet;
  const auto tensors = resnet_tensors(config);
  const ParameterTable whole(tensors);
  const SampleFlops dense = resnet_sample_flops(config, whole, whole);
  // 0.556 GMAC, the published figure of this network.
  EXPECT_EQ(dense.forward, 2 * std::int64_t{555422720});
  EXPECT_EQ(dense.weight_gradient, dense.forward);
  EXPECT_EQ(dense.forward - dense.activation_gradient, 2 * 1024 * 27 * 64);
  for (Level level : {Level::block, Level::neuron}) {
    std::int64_t droppable = 0;
    for (Unit const& unit : resnet_units(config, forward(level)).units) droppable += unit.cost;
    std::int64_t shared = 2 * 1024 * 27 * 64 + 2 * 512 * 10;
    for (ResnetBlock const& block : resnet_blocks(config))
      if (block.projects())
        shared += 2 * block.size * block.size * block.in_channels * block.channels;
    EXPECT_EQ(droppable + shared, dense.forward);
  }
}

}  // namespace
}  // namespace sdp
