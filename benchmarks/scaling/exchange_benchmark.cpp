// SPDX-License-Identifier: Apache-2.0
// Time to average the gradients of all ranks: the exchange, its sharded form (gradients to their
// owners, weights back), bucketed MPI_Iallreduce through the same interface, and one blocking
// MPI_Allreduce of the whole buffer as the peer. Runs are interleaved; medians, of the slowest
// rank.
//
//   mpirun -n R exchange_benchmark [--repeat N] [--bucket-mb B] [--slots S] [MILLION_ELEMENTS...]
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/timer.hpp"
#include "benchmarks/scaling/options.hpp"
#include "comm/exchange.hpp"
#include "comm/mpi_error.hpp"
#include "comm/mpi_session.hpp"

namespace {

using namespace sdp;
using bench::median;
using bench::Options;

/// A model of matrices of a million elements with a vector after each.
ParameterTable make_table(index_t elements) {
  std::vector<TensorSpec> tensors;
  for (index_t left = elements; left > 0;) {
    TensorSpec tensor;
    tensor.name = std::to_string(tensors.size());
    tensor.cols = std::min<index_t>(left, 1000);
    tensor.rows = tensors.size() % 2 == 0 ? std::min<index_t>(left / tensor.cols, 1000) : 1;
    tensor.shape = {tensor.rows, tensor.cols};
    left -= tensor.size();
    tensors.push_back(std::move(tensor));
  }
  return ParameterTable(std::move(tensors));
}

void run(World const& world, Options const& options, double millions) {
  const auto table = make_table(static_cast<index_t>(millions * 1e6));
  const auto layout = dense_layout(table, world.workers());
  const auto buckets = make_buckets(table, static_cast<index_t>(options.bucket_mb * 1048576.0), 4);
  ExchangeOptions exchange_options;
  exchange_options.staging_slots = options.slots;
  Exchange<float> exchange(world,
                           make_schedule(layout, buckets, world.worker(), GradientReturn::holders),
                           exchange_options);
  Exchange<float> sharded(world,
                          make_schedule(layout, buckets, world.worker(), GradientReturn::none),
                          exchange_options);
  exchange_options.method = ReductionMethod::allreduce;
  Exchange<float> bucketed(world,
                           make_schedule(layout, buckets, world.worker(), GradientReturn::holders),
                           exchange_options);
  const View1<float> gradients("gradients", static_cast<std::size_t>(table.size()));
  const View1<float> weights("weights", static_cast<std::size_t>(table.size()));
  Kokkos::deep_copy(gradients, 1.0f);

  const std::vector<std::function<void()>> ways = {
      [&] {
        exchange.begin(gradients);
        exchange.finish();
      },
      [&] {
        sharded.begin(gradients);
        sharded.finish();
        sharded.return_weights(weights);
      },
      [&] {
        bucketed.begin(gradients);
        bucketed.finish();
      },
      [&] {
        check_mpi(MPI_Allreduce(MPI_IN_PLACE, gradients.data(), static_cast<int>(table.size()),
                                MPI_FLOAT, MPI_SUM, world.comm()),
                  "MPI_Allreduce");
        const float scale = 1.0f / static_cast<float>(world.size());
        kernels::SumTerms<float> terms;
        terms.add(0, gradients.data());
        kernels::ordered_sum(ExecSpace(), terms, scale, gradients);
      }};
  std::vector<std::vector<double>> times(ways.size());
  for (int round = -1; round < options.repeat; ++round)
    for (std::size_t way = 0; way < ways.size(); ++way) {
      world.barrier();
      const Timer timer;
      ways[way]();
      const double slowest = world.max(timer.milliseconds());
      if (round >= 0) times[way].push_back(slowest);
    }
  if (!world.is_root()) return;
  const double peer = median(times[3]);
  const double bytes =
      2.0 * (world.size() - 1) / world.size() * 4.0 * static_cast<double>(table.size());
  std::printf("%10.1f %8zu %12.3f %12.3f %12.3f %12.3f %10.2f %10.2f\n", millions, buckets.size(),
              median(times[0]), median(times[1]), median(times[2]), peer, peer / median(times[0]),
              bytes / median(times[0]) * 1e-6);
}

}  // namespace

int main(int argc, char** argv) {
  const MpiSession session(argc, argv);
  Kokkos::initialize(argc, argv);
  {
    const World world = World::from(MPI_COMM_WORLD);
    const Options options = bench::parse(argc, argv, {0.1, 1.0, 10.0, 30.0});
    if (world.is_root()) {
      std::printf("%d ranks, buckets of %.3g MiB, %d slots, median of %d interleaved runs, ms\n",
                  world.size(), options.bucket_mb, options.slots, options.repeat);
      std::printf("%10s %8s %12s %12s %12s %12s %10s %10s\n", "M floats", "buckets", "exchange",
                  "sharded", "Iallreduce", "Allreduce", "speed-up", "GB/s sent");
    }
    for (double millions : options.millions) run(world, options, millions);
  }
  Kokkos::finalize();
  return 0;
}
