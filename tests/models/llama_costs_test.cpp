// SPDX-License-Identifier: Apache-2.0
#include "models/llama_costs.hpp"

#include "base/memory_ledger.hpp"
#include "tests/models/subnetworks.hpp"

namespace sdp {
namespace {

using namespace sdp::test;

std::vector<ParameterTable> tables(LlamaConfig const& config) {
  const UnitSet blocks = small_units(config, Level::block);
  const UnitSet neurons = small_units(config, Level::neuron);
  const auto last_digit = [](Unit const& u) { return u.name.back() - '0'; };
  return {ParameterTable(llama_tensors(config)),
          table_of(config, blocks, [](Unit const& u) { return (u.block + u.unit_class) % 2 == 0; }),
          table_of(config, blocks, [](Unit const& u) { return u.block == 1; }),
          table_of(config, blocks, [](Unit const& u) { return u.unit_class == 1; }),
          table_of(config, blocks, [](Unit const&) { return false; }),
          table_of(config, neurons, [&](Unit const& u) { return last_digit(u) % 2 == 0; }),
          table_of(config, neurons,
                   [&](Unit const& u) { return u.unit_class == 1 && last_digit(u) > u.block; })};
}

template <class V>
void predicts_the_ledger(index_t batch, index_t seq_len) {
  for (ModelCase const& c : model_cases()) {
    const LlamaConfig config = small_llama(c);
    const auto all = tables(config);
    for (std::size_t i = 0; i < all.size(); ++i)
      for (bool backward : {false, true}) {
        ParameterTable const& stored = backward ? all[0] : all[i];
        SCOPED_TRACE(describe(c) + ", table " + std::to_string(i) + (backward ? " backward" : ""));
        const auto before = memory_ledger::usage(MemoryCategory::activations).current;
        const Llama<V> model(config, {stored, all[i], {}}, batch, seq_len, c.recompute, true);
        EXPECT_EQ(
            memory_ledger::usage(MemoryCategory::activations).current - before,
            llama_activation_bytes(config, stored, all[i], batch, seq_len, c.recompute, sizeof(V))
                .total());
      }
  }
}

TEST(LlamaCosts, ActivationBytesAreThoseOfTheLedger) {
  memory_ledger::install();
  ASSERT_TRUE(memory_ledger::installed());
  predicts_the_ledger<float>(2, 7);
  predicts_the_ledger<float>(1, 5);
  predicts_the_ledger<double>(3, 6);
  predicts_the_ledger<kernels::bf16>(3, 7);
}

TEST(LlamaCosts, DroppedUnitsTakeTheirActivationsAlong) {
  const LlamaConfig config = small_llama({});
  const auto all = tables(config);
  const auto bytes = [&](std::size_t i) {
    return llama_activation_bytes(config, all[i], all[i], 2, 7, Recompute::none, 4);
  };
  const auto dense = bytes(0), empty = bytes(4), half = bytes(5);
  EXPECT_EQ(empty.inner, 0);
  EXPECT_EQ(empty.inputs, 0);
  EXPECT_EQ(2 * half.inner, dense.inner);
  EXPECT_EQ(half.inputs, dense.inputs);
  EXPECT_LT(half.shared, dense.shared);
}

/// A forward-masked worker needs at most 5 % more than what is shared and its part of the rest.
TEST(LlamaCosts, ActivationsShrinkWithTheCoverage) {
  LlamaConfig config = small_llama({8});
  config.vocab_size = 4096;
  config.hidden_size = 512;
  config.intermediate_size = 1376;
  config.num_layers = 8;
  config.num_heads = 8;
  config.head_dim = 64;
  const auto bytes = [&](ParameterTable const& table) {
    return llama_activation_bytes(config, table, table, 8, 256, Recompute::none, 4);
  };
  const UnitSet blocks = small_units(config, Level::block);
  const UnitSet neurons = small_units(config, Level::neuron);
  const auto dense = bytes(ParameterTable(llama_tensors(config)));
  const auto shared = bytes(table_of(config, blocks, [](Unit const&) { return false; })).total();
  for (int part : {2, 4}) {
    const auto block = bytes(table_of(
        config, blocks, [&](Unit const& u) { return (u.block + u.unit_class) % part == 0; }));
    EXPECT_LE(static_cast<double>(block.total()),
              1.05 * static_cast<double>(shared + (dense.total() - shared) / part));
    // The residual stream is never cut: its copies in front of the sub-layers are shared.
    const auto neuron = bytes(
        table_of(config, neurons, [&](Unit const& u) { return u.rows[0].begin / 64 % part == 0; }));
    EXPECT_LE(static_cast<double>(neuron.total()),
              1.05 * static_cast<double>(dense.shared + dense.inputs + dense.inner / part));
  }
}

TEST(LlamaCosts, DenseFlopsAreThoseOfTheModel) {
  for (ModelCase const& c : model_cases()) {
    const LlamaConfig config = small_llama(c);
    const ParameterTable whole(llama_tensors(config));
    const SampleFlops flops = llama_sample_flops(config, whole, whole, 7);
    EXPECT_EQ(static_cast<double>(flops.total()), 7 * llama_flops_per_token(config, 7));
  }
}

TEST(LlamaCosts, ForwardMaskingLeavesOutItsUnits) {
  const LlamaConfig config = small_llama({});
  const ParameterTable whole(llama_tensors(config));
  for (Level level : {Level::block, Level::neuron}) {
    const UnitSet set = small_units(config, level);
    const auto keep = [](Unit const& u) { return u.block == 1 || u.name.back() == '0'; };
    const ParameterTable part = table_of(config, set, keep);
    std::int64_t dropped = 0, dropped_parameters = 0;
    for (Unit const& unit : set.units) {
      if (keep(unit)) continue;
      dropped += unit.cost;
      dropped_parameters += unit.parameters;
    }
    const SampleFlops dense = llama_sample_flops(config, whole, whole, 7);
    const SampleFlops masked = llama_sample_flops(config, part, part, 7);
    EXPECT_GT(dropped, 0);
    EXPECT_EQ(dense.forward - masked.forward, dropped);
    EXPECT_EQ(dense.weight_gradient - masked.weight_gradient, 2 * 7 * dropped_parameters);
    EXPECT_EQ(dense.total() - masked.total(), 3 * dropped);
  }
}

TEST(LlamaCosts, BackwardMaskingLeavesOutWeightGradientsAlone) {
  const LlamaConfig config = small_llama({});
  const ParameterTable whole(llama_tensors(config));
  const ParameterTable part = table_of(config, small_units(config, Level::neuron),
                                       [](Unit const& u) { return u.name.back() == '0'; });
  const SampleFlops dense = llama_sample_flops(config, whole, whole, 7);
  const SampleFlops masked = llama_sample_flops(config, whole, part, 7);
  EXPECT_EQ(masked.forward, dense.forward);
  EXPECT_EQ(masked.activation_gradient, dense.activation_gradient);
  EXPECT_EQ(dense.weight_gradient - masked.weight_gradient, 2 * 7 * (whole.size() - part.size()));
}

TEST(LlamaCosts, TheNormOfAnEmptySublayerCostsNothing) {
  const LlamaConfig config = small_llama({});
  const UnitSet set = small_units(config, Level::neuron);
  const auto flops = [&](int class_kept) {
    const ParameterTable part =
        table_of(config, set, [&](Unit const& u) { return u.unit_class == class_kept; });
    return llama_sample_flops(config, part, part, 7);
  };
  std::int64_t attention = 0;
  for (Unit const& unit : set.units)
    if (unit.unit_class == 0) attention += unit.cost;
  // Three norms of 16 in front of attention, the final norm, and the head.
  EXPECT_EQ(flops(0).forward, attention + 2 * 7 * (3 * 16 + 16 + 37 * 16));
}

}  // namespace
}  // namespace sdp
