// SPDX-License-Identifier: Apache-2.0
#include "models/llama_streamed.hpp"

#include <stdexcept>

#include "base/memory_ledger.hpp"
#include "tests/models/subnetworks.hpp"

namespace sdp {
namespace {

using namespace sdp::test;

/// Weights of layer l as the streamed form wants them.
template <class V>
View1<V> layer_weights(LlamaConfig const& config, Values const& all, int layer) {
  const ParameterTable table(llama_tensors(config));
  const LlamaLayerTensors where = llama_tensor_indices(config).layers[layer];
  const auto begin = all.begin() + table.offset(where.down);
  const auto end = all.begin() + table.offset(where.attention_norm) + config.hidden_size;
  return vector_of<V>(Values(begin, end));
}

template <class V>
void equals_the_whole_model(ModelCase const& c) {
  SCOPED_TRACE(describe(c));
  constexpr index_t b = 2, t = 7;
  const LlamaConfig config = small_llama(c);
  const Values all = random_weights(config);
  const ParameterTable whole(llama_tensors(config));
  // The rank holds the shared rows, and of the layers no more than some units.
  const ParameterTable part = table_of(config, small_units(config, Level::neuron),
                                       [](Unit const& u) { return u.block == 1; });
  const auto weights = vector_of<V>(restricted(all, part));
  const ExecSpace exec;
  LlamaStreamed<V> streamed(config, part, b, t);
  ASSERT_EQ(streamed.stream_size(t), t * config.hidden_size);

  // Micro-batches of two sequences, one, and two shorter ones, with streams that lie end to end.
  const std::vector<std::pair<index_t, index_t>> shapes = {{b, t}, {1, t}, {2, t - 2}};
  std::vector<View2<std::int32_t>> tokens, targets;
  std::vector<Window1<V>> streams;
  const auto buffer = nan_vector<V>(streamed.stream_size(3 * b * t));
  for (std::size_t m = 0; m < shapes.size(); ++m) {
    const auto [rows, length] = shapes[m];
    tokens.push_back(random_tokens(rows, length, 31 + m, config.vocab_size));
    targets.push_back(random_tokens(rows, length, 41 + m, config.vocab_size));
    streams.push_back(Window1<V>(buffer.data() + streamed.stream_size(m * b * t),
                                 streamed.stream_size(rows * length)));
    streamed.embed(exec, weights, tokens[m], streams[m]);
  }
  for (int l = 0; l < config.num_layers; ++l) {
    const auto layer = layer_weights<V>(config, all, l);
    ASSERT_EQ(static_cast<index_t>(layer.extent(0)), streamed.layer_size());
    for (std::size_t m = 0; m < shapes.size(); ++m)
      streamed.layer(exec, layer, shapes[m].first, shapes[m].second, streams[m]);
  }
  const auto dense = vector_of<V>(all);
  Llama<V> model(config, whole, b, t, Recompute::none, true);
  for (std::size_t m = 0; m < shapes.size(); ++m) {
    const index_t n = shapes[m].first * shapes[m].second;
    const auto losses = nan_vector<V>(n), expected = nan_vector<V>(n);
    streamed.loss(exec, weights, targets[m], streams[m], losses);
    model.forward(exec, dense, tokens[m]);
    model.loss(exec, dense, targets[m], expected);
    exec.fence();
    EXPECT_FALSE(std::isnan(get_values(expected)[0]));
    EXPECT_TRUE(same_bits(losses, expected)) << "micro-batch " << m;
  }
}

TEST(LlamaStreamed, HasTheLossesOfTheWholeModelBitForBit) {
  for (index_t kv_heads : {2, 4})
    for (bool tied : {false, true}) {
      equals_the_whole_model<float>({kv_heads, tied});
      equals_the_whole_model<double>({kv_heads, tied});
    }
}

TEST(LlamaStreamed, NeedsTheBuffersOfOneLayer) {
  memory_ledger::install();
  const auto bytes = [](index_t layers) {
    const LlamaConfig config = small_llama({}, layers);
    const ParameterTable whole(llama_tensors(config));
    const auto before = memory_ledger::usage(MemoryCategory::activations).current;
    const LlamaStreamed<float> streamed(config, whole, 2, 7);
    return memory_ledger::usage(MemoryCategory::activations).current - before;
  };
  EXPECT_GT(bytes(1), 0);
  EXPECT_EQ(bytes(1), bytes(5));
}

TEST(LlamaStreamed, RefusesWhatDoesNotFit) {
  const LlamaConfig config = small_llama({});
  const auto tensors = llama_tensors(config);
  std::vector<std::vector<Span>> held(tensors.size());
  EXPECT_THROW(LlamaStreamed<float>(config, ParameterTable(tensors, held), 1, 7),
               std::invalid_argument);
  const ParameterTable whole(tensors);
  LlamaStreamed<float> streamed(config, whole, 1, 7);
  const View1<float> weights("weights", whole.size()), stream("stream", 2 * 7 * 16);
  const auto tokens = random_tokens(2, 7, 1, config.vocab_size);
  EXPECT_THROW(streamed.embed(ExecSpace(), weights, tokens, stream), std::invalid_argument);
  EXPECT_THROW(streamed.layer(ExecSpace(), weights, 1, 7, stream), kernels::ShapeError);
}

}  // namespace
}  // namespace sdp
