// SPDX-License-Identifier: Apache-2.0
// main() of the MPI tests: every rank runs every test; ranks other than 0 print only their failures.
#include <gtest/gtest.h>
#include <mpi.h>

#include <Kokkos_Core.hpp>
#include <cstdio>

namespace {

class QuietPrinter : public ::testing::EmptyTestEventListener {
 public:
  explicit QuietPrinter(int rank) : m_rank(rank) {}
  void OnTestPartResult(::testing::TestPartResult const& result) override {
    if (result.failed())
      std::fprintf(stderr, "[rank %d] %s:%d: %s\n", m_rank,
                   result.file_name() ? result.file_name() : "unknown", result.line_number(),
                   result.summary());
  }

 private:
  int m_rank;
};

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  ::testing::InitGoogleTest(&argc, argv);
  Kokkos::initialize(argc, argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new QuietPrinter(rank));
  }
  int result = RUN_ALL_TESTS();
  MPI_Allreduce(MPI_IN_PLACE, &result, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  Kokkos::finalize();
  MPI_Finalize();
  return result;
}
