// SPDX-License-Identifier: Apache-2.0
#include "train/replica_check.hpp"

#include "tests/train/run_fixture.hpp"

namespace sdp {
namespace {

class Replicas : public test::RunFixture {
 protected:
  Arrangement arrangement(std::string const& regime) const {
    return arrange(
        deck(m_world, "unused",
             {"sdp.regime=" + regime, "sdp.subnetworks=" + std::to_string(m_world.size()),
              m_world.size() == 1 ? "sdp.coverage=1" : "sdp.coverage=0.5"}),
        m_world.size(), 1);
  }
};

TEST_F(Replicas, EqualCopiesPassAndOneChangedBitIsNamed) {
  for (char const* regime : {"none", "forward", "backward"}) {
    const Arrangement a = arrangement(regime);
    ParameterTable const& table = a.weights(m_world.worker());
    const ExecSpace exec;
    auto weights = initial<double>(exec, table, 3);
    const ReplicaCheck<double> check(m_world, a);
    EXPECT_NO_THROW(check.run(exec, weights));
    if (m_world.size() == 1) continue;
    // The head is the first tensor and shared by all.
    if (m_world.rank() == 1) {
      const auto host = Kokkos::create_mirror_view_and_copy(HostSpace(), weights);
      host(5) = std::nextafter(host(5), 2.0);
      Kokkos::deep_copy(weights, host);
    }
    try {
      check.run(exec, weights);
      ADD_FAILURE() << "a changed bit was not found";
    } catch (CommunicationError const& error) {
      EXPECT_NE(std::string(error.what()).find("lm_head.weight"), std::string::npos)
          << error.what();
      EXPECT_TRUE(error.agreed());
    }
  }
}

TEST_F(Replicas, UnitsWithOneHolderHaveNothingToCompare) {
  if (m_world.size() != 2) GTEST_SKIP() << "2 ranks: one holder for each unit";
  const Arrangement a = arrangement("forward");
  ParameterTable const& table = a.weights(m_world.worker());
  const ExecSpace exec;
  auto weights = initial<double>(exec, table, 3);
  const auto host = Kokkos::create_mirror_view_and_copy(HostSpace(), weights);
  for (Span const& span : table.spans())
    if (span.unit != k_shared) host(span.offset) += m_world.rank();
  Kokkos::deep_copy(weights, host);
  EXPECT_NO_THROW(ReplicaCheck<double>(m_world, a).run(exec, weights));
}

}  // namespace
}  // namespace sdp
