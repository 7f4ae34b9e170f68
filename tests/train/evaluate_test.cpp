// SPDX-License-Identifier: Apache-2.0
#include "train/evaluate.hpp"

#include "models/llama.hpp"
#include "tests/train/run_fixture.hpp"

namespace sdp {
namespace {

class Evaluate : public test::RunFixture {
 protected:
  EvalResult on(World const& world, index_t micro_batch, index_t eval_batches) {
    const Config config = deck(m_self, "unused");
    const ParameterTable table(llama_tensors(config.model.llama));
    const ExecSpace exec;
    const auto weights = initial<double>(exec, table, 7);
    Llama<double> model(config.model.llama, table, micro_batch, 9, Recompute::none, false);
    DataSet data = tokens("val.bin", 9);
    return evaluate<double>(world, exec, model, weights, {data, 8, micro_batch, eval_batches});
  }
};

TEST_F(Evaluate, DoesNotDependOnRanksOrMicroBatches) {
  const EvalResult one = on(m_self, 1, 0);
  EXPECT_EQ(one.samples, 77);  // floor(699 / 9)
  EXPECT_EQ(one.targets, 77 * 9);
  for (index_t micro_batch : {1, 3, 8}) {
    const EvalResult many = on(m_world, micro_batch, 0);
    EXPECT_EQ(many.samples, one.samples);
    EXPECT_NEAR(many.val_loss, one.val_loss, 1e-13 * one.val_loss);
  }
}

TEST_F(Evaluate, CountsBatchesFromTheStart) {
  EXPECT_EQ(on(m_world, 2, 3).samples, 24);
  EXPECT_NEAR(on(m_world, 2, 3).val_loss, on(m_self, 1, 3).val_loss, 1e-12);
  EXPECT_NE(on(m_self, 1, 3).val_loss, on(m_self, 1, 0).val_loss);
}

}  // namespace
}  // namespace sdp
