// SPDX-License-Identifier: Apache-2.0
#include "models/llama_units.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "models/llama_tensors.hpp"

namespace sdp {

namespace {

constexpr index_t k_largest_default_group = 64;
constexpr index_t k_fast_multiple = 8;

/// The largest divisor of `width` of at most the default size that is a multiple of `step`; 0 where
/// there is none.
index_t largest_group(index_t width, index_t step) {
  for (index_t group = std::min(width, k_largest_default_group) / step * step; group > 0;
       group -= step)
    if (width % group == 0) return group;
  return 0;
}

index_t group_size(LlamaConfig const& config, SdpConfig const& sdp) {
  const index_t width = config.intermediate_size;
  const index_t group = sdp.neuron_group == 0 ? largest_group(width, 1) : sdp.neuron_group;
  if (group < 0 || group > width || width % group != 0)
    throw ConfigError("sdp.neuron_group is " + std::to_string(group) +
                      ", but it must divide model.intermediate_size " + std::to_string(width));
  return group;
}

/// Collects rows of one layer's tensors into units.
class UnitBuilder {
 public:
  UnitBuilder(LlamaConfig const& config, std::vector<TensorSpec> const& tensors, int block)
      : m_config(config), m_tensors(tensors), m_block(block) {}

  /// `part` follows the layer in the name; ranges are given ascending by tensor.
  Unit unit(std::string const& part, int unit_class, std::vector<RowRange> const& rows,
            index_t query_heads) const {
    Unit unit;
    unit.name = "layers." + std::to_string(m_block) + part;
    unit.unit_class = unit_class;
    unit.block = m_block;
    unit.rows = rows;
    for (RowRange const& range : rows)
      unit.parameters += range.count * m_tensors[range.tensor].cols;
    const index_t t = m_config.max_seq_len;
    unit.cost = 2 * t * unit.parameters + 2 * t * t * query_heads * m_config.head_dim;
    return unit;
  }
  RowRange all(int tensor) const { return {tensor, 0, m_tensors[tensor].rows}; }

 private:
  LlamaConfig const& m_config;
  std::vector<TensorSpec> const& m_tensors;
  int m_block;
};

}  // namespace

UnitSet llama_units(LlamaConfig const& config, SdpConfig const& sdp) {
  UnitSet set;
  if (sdp.regime == Regime::none) return set;
  const auto tensors = llama_tensors(config);
  const auto where = llama_tensor_indices(config);
  const bool neurons = sdp.level == Level::neuron;
  const bool whole_layers = !neurons && sdp.block_unit == BlockUnit::layer;
  set.classes = whole_layers ? std::vector<std::string>{"layer"}
                             : std::vector<std::string>{"attention", "mlp"};
  const index_t h = config.head_dim;
  const index_t group = neurons ? group_size(config, sdp) : 0;
  for (index_t layer = sdp.protect_first; layer < config.num_layers - sdp.protect_last; ++layer) {
    LlamaLayerTensors const& t = where.layers[layer];
    const UnitBuilder build(config, tensors, static_cast<int>(layer));
    if (neurons) {
      const index_t queries = config.num_heads / config.num_kv_heads * h;
      for (index_t kv = 0; kv < config.num_kv_heads; ++kv)
        set.units.push_back(build.unit(".attention.kv." + std::to_string(kv), 0,
                                       {{t.output, kv * queries, queries},
                                        {t.query, kv * queries, queries},
                                        {t.key, kv * h, h},
                                        {t.value, kv * h, h}},
                                       queries / h));
      for (index_t g = 0; g < config.intermediate_size / group; ++g)
        set.units.push_back(build.unit(
            ".mlp.group." + std::to_string(g), 1,
            {{t.down, g * group, group}, {t.gate, g * group, group}, {t.up, g * group, group}}, 0));
      continue;
    }
    const std::vector<RowRange> mlp = {build.all(t.down), build.all(t.gate), build.all(t.up),
                                       build.all(t.mlp_norm)};
    const std::vector<RowRange> attention = {build.all(t.output), build.all(t.query),
                                             build.all(t.key), build.all(t.value),
                                             build.all(t.attention_norm)};
    if (whole_layers) {
      std::vector<RowRange> both = mlp;
      both.insert(both.end(), attention.begin(), attention.end());
      set.units.push_back(build.unit("", 0, both, config.num_heads));
    } else {
      set.units.push_back(build.unit(".attention", 0, attention, config.num_heads));
      set.units.push_back(build.unit(".mlp", 1, mlp, 0));
    }
  }
  return set;
}

std::string llama_slow_widths(LlamaConfig const& config, SdpConfig const& sdp) {
  if (sdp.regime == Regime::none || sdp.level != Level::neuron) return {};
  const index_t group = group_size(config, sdp);
  if (group % k_fast_multiple == 0 || config.intermediate_size % k_fast_multiple != 0) return {};
  const index_t better = largest_group(config.intermediate_size, k_fast_multiple);
  return "sdp.neuron_group is " + std::to_string(group) +
         ": MLPs of subnetworks have widths that are not multiples of 8, for which GPUs have no "
         "fast products in bf16; " +
         std::to_string(better) + " divides model.intermediate_size too";
}

std::vector<double> llama_branch_scales(LlamaConfig const& config, SdpConfig const& sdp,
                                        UnitSet const& units, double inverse_keep) {
  std::vector<double> scales(2 * static_cast<std::size_t>(config.num_layers), 1.0);
  const bool scaled = sdp.forward_scale == ForwardScale::inverse_keep ||
                      (sdp.forward_scale == ForwardScale::automatic && sdp.level == Level::neuron);
  if (sdp.regime != Regime::forward || !scaled) return scales;
  for (Unit const& unit : units.units) {
    std::string const& name = units.classes[unit.unit_class];
    const auto layer = static_cast<std::size_t>(unit.block);
    if (name != "mlp") scales[2 * layer] = inverse_keep;
    if (name != "attention") scales[2 * layer + 1] = inverse_keep;
  }
  return scales;
}

}  // namespace sdp
