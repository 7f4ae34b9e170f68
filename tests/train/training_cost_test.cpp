// SPDX-License-Identifier: Apache-2.0
// What training sends and stores against the formulas of the method: bytes counted in front of the
// MPI library, memory by the ledger.
#include <nlohmann/json.hpp>

#include "tests/support/pmpi_counter.hpp"
#include "tests/train/run_fixture.hpp"
#include "train/arrangement.hpp"

namespace sdp {
namespace {

class TrainingCost : public test::RunFixture {
 protected:
  /// Bytes that a rank gives to MPI for one update, mean over ranks: the slope between runs of 4
  /// and of 8 updates, which leaves out what starts and ends a run.
  double bytes_of_an_update(std::vector<std::string> const& overrides) {
    double sent[2];
    for (int i : {0, 1}) {
      auto all = overrides;
      for (std::string const& fixed :
           {std::string("data.val=[]"), std::string("checkpoint.at_end=false"),
            "train.steps=" + std::to_string(4 << i)})
        all.push_back(fixed);
      const auto before = test::pmpi_counts().sent_bytes;
      train(m_world, deck(m_world, "run" + std::to_string(m_runs++), all));
      sent[i] = static_cast<double>(test::pmpi_counts().sent_bytes - before);
    }
    return m_world.min_mean_max((sent[1] - sent[0]) / 4).mean;
  }
  int m_runs = 0;
};

TEST_F(TrainingCost, BytesAndStateAreThoseOfTheFormulas) {
  const double n = m_world.size();
  const std::vector<std::string> model{"model.hidden_size=32", "model.intermediate_size=64",
                                       "model.num_layers=4", "sdp.neuron_group=8"};
  const std::string ranks = std::to_string(m_world.size());
  for (std::string regime : {"none", "forward", "backward"})
    for (std::string level : {"block", "neuron"})
      for (std::string coverage : {"0.5", "0.25"})
        for (std::string sharding : {"none", "holders"})
          for (std::string kind : {"adamw", "sgd"}) {
            if (regime == "none" && (level != "block" || coverage != "0.5")) continue;
            if (std::stod(coverage) * n < 1) continue;
            SCOPED_TRACE(regime + " " + level + " " + coverage + " " + sharding + " " + kind);
            auto overrides = model;
            overrides.push_back("system.node_memory=off");  // every byte is in a message
            for (std::string const& more :
                 {"sdp.regime=" + regime, "sdp.level=" + level, "sdp.coverage=" + coverage,
                  "sdp.subnetworks=" + ranks, "optimizer.sharding=" + sharding,
                  "optimizer.kind=" + kind})
              overrides.push_back(more);
            const Config config = deck(m_world, "unused", overrides);
            const Arrangement a = arrange(config, m_world.size(), m_world.size());
            double droppable = 0;
            for (Unit const& unit : a.units.units)
              droppable += static_cast<double>(unit.parameters);
            const auto p = static_cast<double>(a.gradients(0).logical_size());
            const double shared = p - droppable;
            const double c = regime == "none" ? 1.0 : std::stod(coverage);
            const double elements =
                regime == "backward"
                    ? (1 - 1 / n) * shared + (c - 1 / n) * droppable + (1 - 1 / n) * p
                    : 2 * (1 - 1 / n) * shared + 2 * (c - 1 / n) * droppable;

            memory_ledger::reset_peaks();
            const double bytes = bytes_of_an_update(overrides);
            EXPECT_NEAR(bytes, 8 * elements, 0.01 * 8 * elements);

            // w + g + o bytes a parameter; fp64 has twice those of fp32.
            const double fraction = (shared + c * droppable) / p;
            const double moments = kind == "adamw" ? 16 : 8;
            const double state = 8 * (regime == "backward" ? 1 : fraction) + 8 * fraction +
                                 (sharding == "holders" ? moments / n : moments * fraction);
            double measured = 0;
            for (MemoryCategory category :
                 {MemoryCategory::weights, MemoryCategory::gradients, MemoryCategory::optimizer})
              measured +=
                  m_world.min_mean_max(static_cast<double>(memory_ledger::usage(category).peak))
                      .mean;
            EXPECT_NEAR(measured, state * p, 0.02 * state * p);
          }
}

}  // namespace
}  // namespace sdp
