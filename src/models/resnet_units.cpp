// SPDX-License-Identifier: Apache-2.0
#include "models/resnet_units.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"
#include "models/resnet_tensors.hpp"

namespace sdp {

namespace {

constexpr index_t k_default_groups = 8;  // of the inner channels of a block, where they divide

index_t group_size(index_t channels, index_t width, index_t asked) {
  if (asked == 0) {
    index_t group = std::max<index_t>(1, channels / k_default_groups);
    while (channels % group != 0) --group;
    return group;
  }
  if (asked < 0 || asked > width || width % asked != 0)
    throw ConfigError("sdp.neuron_group is " + std::to_string(asked) +
                      ", but it must divide model.width " + std::to_string(width));
  return asked;
}

Unit make_unit(std::string name, ResnetBlock const& block, int number,
               std::vector<TensorSpec> const& tensors, std::vector<RowRange> rows,
               index_t channels) {
  Unit unit;
  unit.name = std::move(name);
  unit.unit_class = block.stage;
  unit.block = number;
  unit.rows = std::move(rows);
  for (RowRange const& range : unit.rows)
    if (!tensors[range.tensor].statistic)
      unit.parameters += range.count * tensors[range.tensor].cols;
  constexpr index_t k_taps = 9;
  unit.cost =
      2 * block.size * block.size * k_taps * channels * (block.in_channels + block.channels);
  return unit;
}

}  // namespace

UnitSet resnet_units(ResnetConfig const& config, SdpConfig const& sdp) {
  UnitSet set;
  if (sdp.regime == Regime::none) return set;
  const auto tensors = resnet_tensors(config);
  const auto where = resnet_tensor_indices(config);
  const auto blocks = resnet_blocks(config);
  set.classes = {"layer1", "layer2", "layer3", "layer4"};
  const auto first = static_cast<std::size_t>(sdp.protect_first);
  const std::size_t last = blocks.size() - static_cast<std::size_t>(sdp.protect_last);
  for (std::size_t b = first; b < last; ++b) {
    ResnetBlock const& block = blocks[b];
    ResnetBlockTensors const& t = where.blocks[b];
    const std::string name =
        set.classes[static_cast<std::size_t>(block.stage)] + "." + std::to_string(block.index);
    const auto inner = [&](index_t begin, index_t count) {
      std::vector<RowRange> rows;
      for (int tensor :
           {t.conv2, t.bn1.scale, t.bn1.shift, t.bn1.running_mean, t.bn1.running_var, t.conv1})
        rows.push_back({tensor, begin, count});
      return rows;
    };
    if (sdp.level == Level::block) {
      std::vector<RowRange> rows;
      for (int tensor : {t.bn2.scale, t.bn2.shift, t.bn2.running_mean, t.bn2.running_var})
        rows.push_back({tensor, 0, tensors[tensor].rows});
      const std::vector<RowRange> channels = inner(0, block.channels);
      rows.insert(rows.end(), channels.begin(), channels.end());
      set.units.push_back(
          make_unit(name, block, static_cast<int>(b), tensors, rows, block.channels));
      continue;
    }
    const index_t group = group_size(block.channels, config.width, sdp.neuron_group);
    for (index_t g = 0; g < block.channels / group; ++g)
      set.units.push_back(make_unit(name + ".channels." + std::to_string(g), block,
                                    static_cast<int>(b), tensors, inner(g * group, group), group));
  }
  return set;
}

std::vector<double> resnet_branch_scales(ResnetConfig const& config, SdpConfig const& sdp,
                                         UnitSet const& units, double inverse_keep) {
  std::vector<double> scales(resnet_blocks(config).size(), 1.0);
  if (sdp.regime == Regime::forward && sdp.forward_scale == ForwardScale::inverse_keep)
    for (Unit const& unit : units.units)
      scales[static_cast<std::size_t>(unit.block)] = inverse_keep;
  return scales;
}

}  // namespace sdp
