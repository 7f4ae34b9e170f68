// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <stdexcept>

#include "tests/models/subnetworks.hpp"

namespace sdp {
namespace {

using namespace sdp::test;
using Keep = std::function<bool(Unit const&)>;

struct Mask {
  std::string name;
  Level level;
  BlockUnit unit;
  Keep keep;
};

int index_in_class(Unit const& unit) {
  return std::stoi(unit.name.substr(unit.name.rfind('.') + 1));
}

/// Masks that leave some layers whole, some half and some empty.
std::vector<Mask> masks() {
  return {
      {"alternating sub-layers", Level::block, BlockUnit::sublayer,
       [](Unit const& u) { return (u.block + u.unit_class) % 2 == 0; }},
      {"an empty first layer", Level::block, BlockUnit::sublayer,
       [](Unit const& u) { return u.block > 0; }},
      {"only a middle MLP", Level::block, BlockUnit::sublayer,
       [](Unit const& u) { return u.block == 1 && u.unit_class == 1; }},
      {"no last layer", Level::block, BlockUnit::layer, [](Unit const& u) { return u.block < 2; }},
      {"nothing droppable", Level::block, BlockUnit::layer, [](Unit const&) { return false; }},
      {"every other group", Level::neuron, BlockUnit::sublayer,
       [](Unit const& u) { return (index_in_class(u) + u.block) % 2 == 0; }},
      {"uneven groups and a layer without heads", Level::neuron, BlockUnit::sublayer,
       [](Unit const& u) {
         if (u.unit_class == 0) return u.block == 0 || (u.block == 2 && index_in_class(u) == 1);
         return u.block == 1 ? index_in_class(u) == 5 : index_in_class(u) > 1;
       }},
      {"layers without neurons", Level::neuron, BlockUnit::sublayer,
       [](Unit const& u) { return u.unit_class == 0 ? index_in_class(u) == 0 : u.block == 1; }},
  };
}

template <class F>
void for_each_case(F const& f) {
  for (ModelCase const& c : model_cases())
    for (Mask const& mask : masks()) {
      SCOPED_TRACE(describe(c) + ": " + mask.name);
      const LlamaConfig config = small_llama(c);
      f(c, mask, config, table_of(config, small_units(config, mask.level, mask.unit), mask.keep));
    }
}

TEST(LlamaSubnetwork, ForwardMaskedEqualsTheDenseModelWithZeroedUnits) {
  for_each_case(
      [](ModelCase const& c, Mask const&, LlamaConfig const& config, ParameterTable const& part) {
        const Values all = random_weights(config);
        const ParameterTable whole(llama_tensors(config));
        Worker<double> small(config, {part, part, {}}, c.recompute, restricted(all, part));
        Worker<double> dense(config, {whole, whole, {}}, c.recompute, with_zeros(all, part));
        small.step();
        dense.step();
        EXPECT_NEAR(small.loss(), dense.loss(), 1e-13 * dense.loss());
        expect_same_tensors(part, small.gradients(), restricted(dense.gradients(), part), 1e-12);
      });
}

/// Neuron masks that keep as much of every layer are the buffers of a narrower model, and masks of
/// whole layers those of a shallower one.
TEST(LlamaSubnetwork, ForwardMaskedIsTheSlicedModelBitForBit) {
  for (ModelCase const& c : model_cases()) {
    SCOPED_TRACE(describe(c));
    const LlamaConfig config = small_llama(c);
    const auto check = [&](ParameterTable const& part, LlamaConfig const& sliced) {
      const ParameterTable table(llama_tensors(sliced));
      ASSERT_EQ(table.size(), part.size());
      const Values weights = restricted(random_weights(config), part);
      Worker<double> small(config, {part, part, {}}, c.recompute, weights);
      Worker<double> plain(sliced, {table, table, {}}, c.recompute, weights);
      EXPECT_EQ(small.step().loss(), plain.step().loss());
      EXPECT_EQ(small.gradients(), plain.gradients());
    };
    LlamaConfig narrow = config;
    narrow.num_heads /= 2;
    narrow.num_kv_heads /= 2;
    narrow.intermediate_size /= 2;
    check(table_of(config, small_units(config, Level::neuron),
                   [](Unit const& u) { return index_in_class(u) % 2 == u.block % 2; }),
          narrow);
    check(table_of(config, small_units(config, Level::block),
                   [](Unit const& u) { return u.block != 1; }),
          small_llama(c, 2));
  }
}

TEST(LlamaSubnetwork, ScalesMultiplyWhatSublayersAdd) {
  for_each_case(
      [](ModelCase const& c, Mask const&, LlamaConfig const& config, ParameterTable const& part) {
        const std::vector<double> scales{1.5, 0.5, 0.75, 1.0, 2.0, 3.0};
        const ParameterTable whole(llama_tensors(config));
        const auto where = llama_tensor_indices(config);
        const auto scale_outputs = [&](Values values) {
          for (index_t l = 0; l < config.num_layers; ++l)
            for (auto [tensor, factor] : {std::pair{where.layers[l].output, scales[2 * l]},
                                          std::pair{where.layers[l].down, scales[2 * l + 1]}})
              for (index_t i = 0; i < whole.held_size(tensor); ++i)
                values[whole.offset(tensor) + i] *= factor;
          return values;
        };
        const Values all = random_weights(config);
        Worker<double> small(config, {part, part, scales}, c.recompute, restricted(all, part));
        Worker<double> dense(config, {whole, whole, {}}, c.recompute,
                             scale_outputs(with_zeros(all, part)));
        small.step();
        dense.step();
        EXPECT_NEAR(small.loss(), dense.loss(), 1e-13 * dense.loss());
        // The chain rule puts the factor on the gradients of the scaled rows as well.
        expect_same_tensors(part, small.gradients(),
                            restricted(scale_outputs(dense.gradients()), part), 1e-12);
      });
}

TEST(LlamaSubnetwork, BackwardMaskedGradientsAreTheDenseOnesOfHeldRows) {
  for_each_case([](ModelCase const& c, Mask const& mask, LlamaConfig const& config,
                   ParameterTable const& part) {
    const Values all = random_weights(config);
    const ParameterTable whole(llama_tensors(config));
    Worker<double> masked(config, {whole, part, {}}, c.recompute, all);
    Worker<double> dense(config, {whole, whole, {}}, c.recompute, all);
    EXPECT_EQ(masked.step().loss(), dense.step().loss());
    const Values expected = restricted(dense.gradients(), part);
    if (mask.level == Level::block)
      EXPECT_EQ(masked.gradients(), expected);
    else
      expect_same_tensors(part, masked.gradients(), expected, 1e-13);
  });
}

TEST(LlamaSubnetwork, BackwardMaskedMicroBatchesAddUp) {
  for_each_case(
      [](ModelCase const& c, Mask const&, LlamaConfig const& config, ParameterTable const& part) {
        const Values all = random_weights(config);
        const ParameterTable whole(llama_tensors(config));
        Worker<double> once(config, {whole, part, {}}, c.recompute, all);
        Worker<double> twice(config, {whole, part, {}}, c.recompute, all);
        once.step();
        twice.step(0, 1, false);
        twice.step(1, 1, true);
        expect_same_tensors(part, twice.gradients(), once.gradients(), 1e-12);
      });
}

TEST(LlamaSubnetwork, EverythingHeldIsTheDenseModelBitForBit) {
  for (ModelCase const& c : model_cases())
    for (Level level : {Level::block, Level::neuron}) {
      const LlamaConfig config = small_llama(c);
      const ParameterTable whole(llama_tensors(config));
      const ParameterTable units =
          table_of(config, small_units(config, level), [](Unit const&) { return true; });
      const std::vector<double> ones(6, 1.0);
      Worker<float> dense(config, {whole, whole, {}}, c.recompute, random_weights(config));
      Worker<float> forward(config, {units, units, ones}, c.recompute, random_weights(config));
      Worker<float> backward(config, {whole, units, ones}, c.recompute, random_weights(config));
      dense.step();
      EXPECT_EQ(forward.step().loss(), dense.loss());
      EXPECT_EQ(backward.step().loss(), dense.loss());
      EXPECT_TRUE(same_bits(forward.grads, dense.grads));
      EXPECT_TRUE(same_bits(backward.grads, dense.grads));
    }
}

/// What is reported as final must not change any more, and everything is reported.
TEST(LlamaSubnetwork, GradientsAreReportedInOrderAndOnlyOnceFinal) {
  struct Snapshots : BackwardObserver {
    View1<double> grads;
    std::vector<index_t> ends;
    std::vector<Values> seen;
    void gradients_ready(index_t end) override {
      ends.push_back(end);
      Values values = get_values(grads);
      values.resize(end);
      seen.push_back(values);
    }
    void progress() override {}
  };
  for (bool backward : {false, true})
    for_each_case([backward](ModelCase const& c, Mask const&, LlamaConfig const& config,
                             ParameterTable const& part) {
      const ParameterTable whole(llama_tensors(config));
      ParameterTable const& stored = backward ? whole : part;
      Worker<double> worker(config, {stored, part, {}}, c.recompute,
                            restricted(random_weights(config), stored));
      Snapshots observer;
      observer.grads = worker.grads;
      worker.step(0, 2, false, &observer);
      ASSERT_FALSE(observer.ends.empty());
      EXPECT_TRUE(std::is_sorted(observer.ends.begin(), observer.ends.end(), std::less_equal<>()));
      EXPECT_EQ(observer.ends.back(), part.size());
      const Values last = worker.gradients();
      for (Values const& values : observer.seen)
        EXPECT_TRUE(std::equal(values.begin(), values.end(), last.begin()));
      // All but the embedding (and a tied head) is reported before the end.
      ASSERT_GE(observer.ends.size(), 2u);
      EXPECT_EQ(observer.ends[observer.ends.size() - 2],
                part.offset(llama_tensor_indices(config).embedding));
    });
}

/// Weights arrive only when they are asked for, NaN before.
TEST(LlamaSubnetwork, ForwardAsksForEveryWeightBeforeItReadsIt) {
  struct Arrival : ForwardObserver {
    View1<double> weights, source;
    index_t begin = 0;
    std::vector<index_t> begins;
    int polls = 0;
    void weights_needed(index_t needed) override {
      begins.push_back(needed);
      if (needed >= begin) return;
      const auto range = std::make_pair(needed, begin);
      Kokkos::deep_copy(Kokkos::subview(weights, range), Kokkos::subview(source, range));
      begin = needed;
    }
    void progress() override { ++polls; }
  };
  for_each_case([](ModelCase const& c, Mask const&, LlamaConfig const& config,
                   ParameterTable const& part) {
    const Values all = restricted(random_weights(config), part);
    Worker<double> ready(config, {part, part, {}}, c.recompute, all);
    Worker<double> late(config, {part, part, {}}, c.recompute, Values(all.size(), std::nan("")));
    Arrival observer;
    observer.weights = late.weights;
    observer.source = ready.weights;
    observer.begin = part.size();
    late.step(0, 2, false, nullptr, &observer);
    EXPECT_EQ(late.loss(), ready.step().loss());
    EXPECT_EQ(late.gradients(), ready.gradients());
    EXPECT_TRUE(std::is_sorted(observer.begins.rbegin(), observer.begins.rend()));
    EXPECT_EQ(observer.begins.front(), part.offset(llama_tensor_indices(config).embedding));
    EXPECT_EQ(observer.begins.back(), 0);
    // Weights of later layers are not asked for early.
    if (part.held_rows(llama_tensor_indices(config).layers[0].query) > 0) {
      EXPECT_EQ(observer.begins[1], part.offset(llama_tensor_indices(config).layers[0].output));
      EXPECT_GT(observer.polls, 0);
    }
  });
}

TEST(LlamaSubnetwork, GradientsOfAScaledSubnetworkAgreeWithFiniteDifferences) {
  const ModelCase c;
  const LlamaConfig config = small_llama(c);
  Mask const mask = masks()[6];
  const ParameterTable part = table_of(config, small_units(config, mask.level), mask.keep);
  const Values weights = restricted(random_weights(config), part);
  Worker<double> worker(config, {part, part, std::vector<double>(6, 2.0)}, c.recompute, weights);
  const Values gradients = worker.step().gradients();
  for (Span const& span : part.spans()) {
    const index_t i = span.offset + (span.rows * part.tensors()[span.tensor].cols) / 3;
    const auto loss_at = [&](double value) {
      Values moved = weights;
      moved[i] = value;
      set_values(worker.weights, moved);
      return worker.step().loss();
    };
    const double step = 1e-5;
    const double slope = (loss_at(weights[i] + step) - loss_at(weights[i] - step)) / (2 * step);
    EXPECT_NEAR(gradients[i], slope, 1e-9) << part.tensors()[span.tensor].name;
  }
}

TEST(LlamaSubnetwork, AGradientWithoutItsWeightIsRefused) {
  const LlamaConfig config = small_llama({});
  const ParameterTable whole(llama_tensors(config));
  const ParameterTable part = table_of(config, small_units(config, Level::neuron),
                                       [](Unit const& u) { return index_in_class(u) != 1; });
  const std::string message = message_of<std::invalid_argument>([&] {
    Llama<float>(config, {part, whole, {}}, 1, 7, Recompute::none, true);
  });
  EXPECT_NE(message.find("mlp.down_proj"), std::string::npos) << message;
}

}  // namespace
}  // namespace sdp
