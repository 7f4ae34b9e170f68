// SPDX-License-Identifier: Apache-2.0
// What a plan says, against what a run of the same deck measures.
#include <nlohmann/json.hpp>

#include "comm/stream.hpp"
#include "tests/train/run_fixture.hpp"
#include "train/plan.hpp"

namespace sdp {
namespace {

class PlanMeasured : public test::RunFixture {
 protected:
  /// Memory and bytes of a run, from its summary, beside those of the plan.
  void check(std::string const& name, std::vector<std::string> overrides) {
    SCOPED_TRACE(name);
    for (char const* always :
         {"data.val=[]", "checkpoint.at_end=false", "sdp.neuron_group=4", "model.num_layers=4"})
      overrides.push_back(always);
    memory_ledger::reset_peaks();
    const Config config = deck(m_world, name, overrides);
    train(m_world, config);
    m_world.barrier();
    Machine machine;
    machine.node_memory = k_host_memory;
    const Plan plan = make_plan(config, m_world.size(), machine);
    std::ifstream file(out(name) / "summary.json");
    const auto summary = nlohmann::json::parse(file);
    const auto compare = [&](char const* category, MinMeanMax const& planned, double tolerance) {
      auto const& measured = summary["memory"][category]["measured"];
      EXPECT_NEAR(planned.min, measured["min"].get<double>(), tolerance) << category;
      EXPECT_NEAR(planned.mean, measured["mean"].get<double>(), tolerance) << category;
      EXPECT_NEAR(planned.max, measured["max"].get<double>(), tolerance) << category;
    };
    compare("weights", plan.own.memory.weights, 1e-3);
    compare("gradients", plan.own.memory.gradients, 1e-3);
    compare("optimizer", plan.own.memory.optimizer, 1e-3);
    compare("activations", plan.own.memory.activations, 1e-3);
    // Kokkos reports the 128 bytes of a header for an allocation without elements.
    compare("communication", plan.own.memory.communication, 256.0);
    auto const& sent = summary["sent_bytes_per_step"]["measured"];
    EXPECT_NEAR(plan.own.sent_bytes.mean, sent.is_null() ? 0.0 : sent.get<double>(), 1e-3);
  }
};

TEST_F(PlanMeasured, DenseRun) {
  check("dense", {});
  check("dense_sharded", {"optimizer.sharding=holders"});
}

TEST_F(PlanMeasured, AllVariants) {
  const int ranks = m_world.size();
  for (std::string regime : {"forward", "backward"})
    for (std::string level : {"block", "neuron"})
      for (std::string sharding : {"none", "holders"})
        check(regime + "_" + level + "_" + sharding,
              {"sdp.regime=" + regime, "sdp.level=" + level, "optimizer.sharding=" + sharding,
               "sdp.subnetworks=" + std::to_string(ranks),
               ranks == 1 ? "sdp.coverage=1.0" : "sdp.coverage=0.5"});
}

TEST_F(PlanMeasured, MixedPrecision) {
  const int ranks = m_world.size();
  for (std::string wire : {"fp32", "bf16"}) {
    const std::vector<std::string> bf16{"run.precision=bf16", "system.gradient_wire=" + wire};
    check("dense_" + wire, bf16);
    for (std::string regime : {"forward", "backward"})
      for (std::string sharding : {"none", "holders"}) {
        auto overrides = bf16;
        for (std::string const& more :
             {"sdp.regime=" + regime, "optimizer.sharding=" + sharding,
              "sdp.subnetworks=" + std::to_string(ranks),
              std::string(ranks == 1 ? "sdp.coverage=1.0" : "sdp.coverage=0.5")})
          overrides.push_back(more);
        check(regime + "_" + sharding + "_" + wire, overrides);
      }
  }
  check("sgd", {"run.precision=bf16", "optimizer.kind=sgd", "model.recompute=block",
                "optimizer.sharding=holders"});
  check("fp32_narrow", {"run.precision=fp32", "system.gradient_wire=bf16"});
}

TEST_F(PlanMeasured, MoreRanksThanSubnetworks) {
  if (m_world.size() < 4) GTEST_SKIP() << "needs more ranks than subnetworks";
  check("replicated", {"sdp.regime=forward", "sdp.subnetworks=2", "sdp.coverage=0.5"});
  check("sgd", {"sdp.regime=backward", "sdp.subnetworks=3", "sdp.coverage=0.6666666666666666",
                "optimizer.kind=sgd", "optimizer.sharding=holders"});
}

TEST_F(PlanMeasured, NodesOfTwoRanks) {
  if (m_world.size() < 4) GTEST_SKIP() << "needs two nodes";
  for (char const* placement : {"round_robin", "node_aligned"})
    for (std::string regime : {"forward", "backward"})
      check(placement + regime,
            {"system.ranks_per_node=2", "sdp.subnetworks=2", "sdp.coverage=0.5",
             "sdp.regime=" + regime, std::string("sdp.placement=") + placement});
}

}  // namespace
}  // namespace sdp
