// SPDX-License-Identifier: Apache-2.0
#include "train/evaluate_merged.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "models/llama_units.hpp"
#include "tests/train/run_fixture.hpp"
#include "train/evaluate.hpp"

namespace sdp {
namespace {

constexpr index_t k_seq_len = 9;

/// Every second unit to every second subnetwork; with one subnetwork, everything.
class EvaluateMerged : public test::RunFixture {
 protected:
  void SetUp() override {
    RunFixture::SetUp();
    m_config = deck(m_self, "unused").model.llama;
    SdpConfig sdp;
    sdp.regime = Regime::forward;
    sdp.level = Level::neuron;
    sdp.neuron_group = 4;
    const UnitSet set = llama_units(m_config, sdp);
    m_subnetworks = std::min(m_world.size(), 3);
    for (int s = 0; s < m_subnetworks; ++s) m_layout.gradients.push_back(table_of(set, s));
    for (int w = 0; w < m_world.size(); ++w) m_layout.table_of_worker.push_back(w % m_subnetworks);
    m_buckets = make_buckets(ParameterTable(llama_tensors(m_config)), 2000, 8);
    m_scales = llama_branch_scales(m_config, sdp, set, static_cast<double>(m_subnetworks));
  }

  /// Unit u belongs to subnetwork u mod N alone.
  ParameterTable table_of(UnitSet const& set, int subnetwork) const {
    const auto tensors = llama_tensors(m_config);
    std::vector<std::vector<int>> owner(tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) owner[t].assign(tensors[t].rows, k_shared);
    for (std::size_t u = 0; u < set.units.size(); ++u)
      for (RowRange const& range : set.units[u].rows)
        std::fill_n(owner[range.tensor].begin() + range.begin, range.count, static_cast<int>(u));
    std::vector<std::vector<Span>> held(tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t)
      for (index_t row = 0; row < tensors[t].rows; ++row)
        if (owner[t][row] == k_shared || owner[t][row] % m_subnetworks == subnetwork)
          held[t].push_back({static_cast<int>(t), row, 1, 0, owner[t][row]});
    return ParameterTable(tensors, held);
  }

  ParameterTable const& my_table() const {
    return m_layout.gradients[m_layout.table_of_worker[m_world.rank()]];
  }
  DataSet validation() const { return tokens("val.bin", k_seq_len); }

  EvalResult merged(index_t stream_elements, index_t micro_batch, index_t eval_batches) {
    const auto source = owned_source(m_layout, m_buckets, BufferLayout::weights);
    const auto weights = initial<double>(m_exec, my_table(), 7);
    Delivery<double> delivery(m_world);
    DataSet data = validation();
    const View1<double> streams("streams", stream_elements);
    Kokkos::deep_copy(streams, std::nan(""));
    return evaluate_merged(m_world, m_exec, delivery,
                           MergedModel<double>{m_config, my_table(), weights, source}, streams,
                           {data, 8, micro_batch, eval_batches});
  }

  EvalResult dense(index_t micro_batch, index_t eval_batches) {
    const ParameterTable table(llama_tensors(m_config));
    const auto weights = initial<double>(m_exec, table, 7);
    Llama<double> model(m_config, table, micro_batch, k_seq_len, Recompute::none, false);
    DataSet data = validation();
    return evaluate<double>(m_world, m_exec, model, weights, {data, 8, micro_batch, eval_batches});
  }

  LlamaConfig m_config;
  int m_subnetworks = 1;
  ExchangeLayout m_layout;
  std::vector<IndexRange> m_buckets;
  std::vector<double> m_scales;
  ExecSpace m_exec;
};

TEST_F(EvaluateMerged, HasTheBitsOfTheDenseEvaluation) {
  for (index_t micro_batch : {1, 3}) {
    const EvalResult expected = dense(micro_batch, 0);
    ASSERT_EQ(expected.samples, 77);
    const index_t stream = micro_batch * k_seq_len * m_config.hidden_size;
    // No room for a stream; room for one; for some, a different number on every rank; for all.
    for (index_t elements : {index_t{0}, stream, (3 + m_world.rank()) * stream + 1, 200 * stream}) {
      const EvalResult result = merged(elements, micro_batch, 0);
      EXPECT_EQ(result.val_loss, expected.val_loss) << elements;
      EXPECT_EQ(result.samples, expected.samples);
      EXPECT_EQ(result.targets, expected.targets);
    }
  }
}

TEST_F(EvaluateMerged, CountsBatchesFromTheStart) {
  EXPECT_EQ(merged(5000, 2, 3).samples, 24);
  EXPECT_EQ(merged(5000, 2, 3).val_loss, dense(2, 3).val_loss);
  EXPECT_NE(merged(5000, 2, 3).val_loss, merged(5000, 2, 0).val_loss);
}

TEST_F(EvaluateMerged, KeepsNoMoreThanOneLayerAndOneMicroBatch) {
  const index_t stream = k_seq_len * m_config.hidden_size;
  memory_ledger::reset_peaks();
  const auto workspace = [] { return memory_ledger::usage(MemoryCategory::workspace); };
  const auto before = workspace().current;
  merged(stream, 1, 0);
  const index_t layer = llama_units(m_config,
                                    [] {
                                      SdpConfig sdp;
                                      sdp.regime = Regime::forward;
                                      sdp.block_unit = BlockUnit::layer;
                                      return sdp;
                                    }())
                            .units[0]
                            .parameters;
  EXPECT_EQ(workspace().peak - before, layer * 8);
  memory_ledger::reset_peaks();
  merged(0, 1, 0);
  EXPECT_EQ(workspace().peak - before, (layer + stream) * 8);
}

TEST_F(EvaluateMerged, EnsembleLossWeighsSubnetworksByTheirRanks) {
  for (index_t micro_batch : {1, 4}) {
    double expected = 0;
    for (int s = 0; s < m_subnetworks; ++s) {
      const ModelSubnetwork subnetwork{m_layout.gradients[s], m_layout.gradients[s], m_scales};
      Llama<double> model(m_config, subnetwork, 2, k_seq_len, Recompute::none, false);
      const auto weights = initial<double>(m_exec, subnetwork.weights, 7);
      DataSet data = validation();
      const auto ranks =
          std::count(m_layout.table_of_worker.begin(), m_layout.table_of_worker.end(), s);
      expected += static_cast<double>(ranks) / m_world.size() *
                  evaluate<double>(m_self, m_exec, model, weights, {data, 8, 2, 0}).val_loss;
    }
    const ModelSubnetwork mine{my_table(), my_table(), m_scales};
    Llama<double> model(m_config, mine, micro_batch, k_seq_len, Recompute::none, false);
    const auto weights = initial<double>(m_exec, my_table(), 7);
    DataSet data = validation();
    const auto ensemble = [&] {
      return evaluate_ensemble<double>(m_world, m_exec, model, weights, m_layout.table_of_worker,
                                       {data, 8, micro_batch, 0});
    };
    const double result = ensemble();
    EXPECT_NEAR(result, expected, 1e-13 * expected);
    EXPECT_EQ(result, ensemble());
    EXPECT_EQ(result, m_world.max(result));
    const double whole = dense(1, 0).val_loss;
    EXPECT_EQ(m_subnetworks == 1, std::abs(result - whole) < 1e-12);
  }
}

TEST_F(EvaluateMerged, AFaultOfTheDataIsTheSameErrorEverywhere) {
  DataSet data = validation();
  m_world.barrier();
  // Only the last rank reads what is cut off.
  if (m_world.is_root()) std::filesystem::resize_file(m_folder / "val.bin", 1024 + 2 * 650);
  m_world.barrier();
  const auto source = owned_source(m_layout, m_buckets, BufferLayout::weights);
  const auto weights = initial<double>(m_exec, my_table(), 7);
  Delivery<double> delivery(m_world);
  EXPECT_THROW(evaluate_merged<double>(m_world, m_exec, delivery,
                                       MergedModel<double>{m_config, my_table(), weights, source},
                                       View1<double>("streams", 0), {data, 8, 2, 0}),
               DataError);
  Llama<double> model(m_config, my_table(), 2, k_seq_len, Recompute::none, false);
  EXPECT_THROW(evaluate_ensemble<double>(m_world, m_exec, model, weights, m_layout.table_of_worker,
                                         {data, 8, 2, 0}),
               DataError);
}

}  // namespace
}  // namespace sdp
