// SPDX-License-Identifier: Apache-2.0
// Time to average the gradients of a masked model inside its holder sets, N = R subnetworks, each
// unit held by half of them:
//   exchange    the exchange, unsharded; ranks of a node address each other's gradients
//   messages    the same by messages alone
//   sharded     gradients to their owners, addressed where they lie, weights back by messages
//   per unit    one MPI_Allreduce for the holder set of every unit, in place
//   per set     one MPI_Allreduce for every distinct holder set, packed and unpacked
//   plain       one MPI_Allreduce among all ranks of as many elements as a rank holds
// Masks: "random" has a random set for each unit, "planes" deals the units to the 14 planes of
// AG(3,2) (8 ranks), or to the cyclic windows where there are not 8 ranks. One fifth of the model
// is shared. Runs are interleaved; medians, of the slowest rank.
//
//   mpirun -n R holder_sets_benchmark [--repeat N] [--bucket-mb B] [--slots S] [--units U]
//                                     [--brief] [MILLION_ELEMENTS...]
//
// --brief leaves out the all-reduces by unit and by set.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/median.hpp"
#include "base/memory_ledger.hpp"
#include "base/timer.hpp"
#include "benchmarks/scaling/options.hpp"
#include "comm/exchange.hpp"
#include "comm/holder_set_reduce.hpp"
#include "comm/mpi_error.hpp"
#include "comm/mpi_session.hpp"
#include "comm/node_memory.hpp"

namespace {

using namespace sdp;
using bench::Options;

using HolderSet = std::vector<int>;  ///< ascending workers

std::vector<HolderSet> random_sets(int workers, int units) {
  std::mt19937 generator(1);
  std::vector<HolderSet> sets;
  HolderSet order;
  for (int w = 0; w < workers; ++w) order.push_back(w);
  for (int u = 0; u < units; ++u) {
    std::shuffle(order.begin(), order.end(), generator);
    sets.emplace_back(order.begin(), order.begin() + std::max(1, workers / 2));
    std::sort(sets.back().begin(), sets.back().end());
  }
  return sets;
}

std::vector<HolderSet> dealt_sets(int workers, int units) {
  std::vector<HolderSet> design;
  if (workers == 8) {
    for (int a = 0; a < 8; ++a)
      for (int b = a + 1; b < 8; ++b)
        for (int c = b + 1; c < 8; ++c)
          if ((a ^ b ^ c) > c && (a ^ b ^ c) < 8) design.push_back({a, b, c, a ^ b ^ c});
  } else {
    for (int first = 0; first < workers; ++first) {
      HolderSet set;
      for (int i = 0; i < std::max(1, workers / 2); ++i) set.push_back((first + i) % workers);
      std::sort(set.begin(), set.end());
      design.push_back(set);
    }
  }
  std::vector<HolderSet> sets;
  for (int u = 0; u < units; ++u)
    sets.push_back(design[static_cast<std::size_t>(u) % design.size()]);
  return sets;
}

/// Tensors of 16 units each, a shared one after each of them.
struct Model {
  ExchangeLayout layout;
  std::vector<std::vector<IndexRange>> held;  ///< by unit, in the buffer of this worker
};

Model make_model(World const& world, std::vector<HolderSet> const& sets, double millions) {
  constexpr int k_units_each = 16;
  const auto units = static_cast<int>(sets.size());
  const auto cols = std::max<index_t>(1, static_cast<index_t>(millions * 1e6 * 0.8 / units / 16));
  std::vector<TensorSpec> tensors;
  for (int first = 0; first < units; first += k_units_each)
    for (index_t rows : {index_t{16} * std::min(k_units_each, units - first), index_t{64}}) {
      TensorSpec tensor;
      tensor.name = std::to_string(tensors.size());
      tensor.rows = rows;
      tensor.cols = cols;
      tensor.shape = {rows, cols};
      tensors.push_back(tensor);
    }
  Model model;
  model.held.resize(sets.size());
  for (int worker = 0; worker < world.workers(); ++worker) {
    std::vector<std::vector<Span>> spans(tensors.size());
    for (std::size_t t = 1; t < tensors.size(); t += 2)
      spans[t].push_back({static_cast<int>(t), 0, tensors[t].rows, 0, k_shared});
    for (int unit = 0; unit < units; ++unit) {
      auto const& set = sets[static_cast<std::size_t>(unit)];
      const int t = unit / k_units_each * 2;
      if (std::binary_search(set.begin(), set.end(), worker))
        spans[static_cast<std::size_t>(t)].push_back(
            {t, unit % k_units_each * index_t{16}, 16, 0, unit});
    }
    model.layout.gradients.emplace_back(tensors, spans);
    model.layout.table_of_worker.push_back(worker);
  }
  for (Span const& span :
       model.layout.gradients[static_cast<std::size_t>(world.worker())].spans()) {
    const IndexRange range{span.offset, span.offset + span.rows * cols};
    if (span.unit == k_shared)
      model.held.push_back({range});
    else
      model.held[static_cast<std::size_t>(span.unit)].push_back(range);
  }
  return model;
}

/// A communicator for every distinct holder set that this rank is in.
class Communicators {
 public:
  explicit Communicators(World const& world) : m_world(world) {}
  ~Communicators() {
    for (auto& [set, comm] : m_comms)
      if (comm != MPI_COMM_NULL) MPI_Comm_free(&comm);
  }
  /// Collective over the world.
  MPI_Comm of(HolderSet const& set) {
    auto [found, inserted] = m_comms.try_emplace(set, MPI_COMM_NULL);
    if (inserted) {
      const bool member = std::binary_search(set.begin(), set.end(), m_world.worker());
      check_mpi(MPI_Comm_split(m_world.comm(), member ? 0 : MPI_UNDEFINED, m_world.rank(),
                               &found->second),
                "MPI_Comm_split");
    }
    return found->second;
  }
  std::size_t size() const { return m_comms.size(); }

 private:
  World const& m_world;
  std::map<HolderSet, MPI_Comm> m_comms;
};

void all_reduce(float* data, index_t count, std::size_t holders, MPI_Comm comm) {
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, data, static_cast<int>(count), MPI_FLOAT, MPI_SUM, comm),
            "MPI_Allreduce");
  const float scale = 1.0f / static_cast<float>(holders);
  for (index_t i = 0; i < count; ++i) data[i] *= scale;
}

void run(World const& world, Options const& options, char const* name,
         std::vector<HolderSet> const& sets, double millions) {
  Model model = make_model(world, sets, millions);
  HolderSet everybody;
  for (int w = 0; w < world.workers(); ++w) everybody.push_back(w);
  const auto buckets = make_buckets(model.layout.gradients[0],
                                    static_cast<index_t>(options.bucket_mb * 1048576.0), 4);
  ExchangeOptions exchange_options;
  exchange_options.staging_slots = options.slots;
  auto schedule = [&](GradientReturn gradient_return) {
    return make_schedule(model.layout, buckets, world.worker(), gradient_return);
  };
  Exchange<float> messages(world, schedule(GradientReturn::holders), exchange_options);
  const auto size = messages.schedule().gradient_size;
  const auto memory = NodeMemory::allocate(world, MemoryCategory::gradients,
                                           size * static_cast<index_t>(sizeof(float)));
  // What goes by messages has a buffer of its own: it may lie in huge pages, shared memory may not.
  const View1<float> gradients("gradients", static_cast<std::size_t>(size));
  const View1<float> shared = memory ? memory->view<float>(size) : gradients;
  if (memory) exchange_options.node_gradients = memory->of_ranks();
  Exchange<float> exchange(world, schedule(GradientReturn::holders), exchange_options);
  Exchange<float> sharded(world, schedule(GradientReturn::none), exchange_options);

  // What the all-reduces by unit work on: by unit, then the shared tensors.
  Communicators communicators(world);
  struct Part {
    MPI_Comm comm;
    std::size_t holders;
    std::vector<IndexRange> ranges;
  };
  std::vector<Part> parts;
  for (std::size_t i = 0; i < model.held.size(); ++i) {
    HolderSet const& set = i < sets.size() ? sets[i] : everybody;
    const MPI_Comm comm = communicators.of(set);
    if (comm != MPI_COMM_NULL) parts.push_back({comm, set.size(), model.held[i]});
  }
  HolderSetReduce<float> by_set(world, model.layout);
  const View1<float> weights("weights", static_cast<std::size_t>(size));
  Kokkos::deep_copy(gradients, 1.0f);
  Kokkos::deep_copy(shared, 1.0f);
  const auto mean_size = world.sum(size) / world.size();
  const View1<float> plain("plain", static_cast<std::size_t>(mean_size));
  Kokkos::deep_copy(plain, 1.0f);

  const std::vector<std::function<void()>> ways = {
      [&] {
        exchange.begin(shared);
        exchange.finish();
      },
      [&] {
        messages.begin(gradients);
        messages.finish();
      },
      [&] {
        sharded.begin(shared);
        sharded.finish();
        sharded.return_weights(weights);
      },
      [&] {
        for (Part const& part : parts)
          for (IndexRange const& range : part.ranges)
            all_reduce(gradients.data() + range.begin, range.size(), part.holders, part.comm);
      },
      [&] { by_set.average(gradients); },
      [&] { all_reduce(plain.data(), mean_size, everybody.size(), world.comm()); }};
  std::vector<std::vector<double>> times(ways.size());
  for (int round = -1; round < options.repeat; ++round)
    for (std::size_t way = 0; way < ways.size(); ++way) {
      if (options.brief && (way == 3 || way == 4)) continue;
      world.barrier();
      const Timer timer;
      ways[way]();
      const double slowest = world.max(timer.milliseconds());
      if (round >= 0) times[way].push_back(slowest);
    }
  auto const& traffic = exchange.schedule().traffic;
  const auto sent = 4.0 * world.sum(static_cast<double>(traffic.gradients_sent));
  const auto number = world.sum(static_cast<double>(traffic.messages_sent));
  if (!world.is_root()) return;
  const double own = median(times[0]);
  std::printf(
      "%8s %6.1f %6zu %5zu %9.1f %9.1f %9.1f %9.1f %9.1f %9.1f %9.1f %7.2f %7.2f %7.2f %7.2f\n",
      name, millions, sets.size(), communicators.size() - 1, sent / number / 1024.0, own,
      median(times[1]), median(times[2]), median(times[3]), median(times[4]), median(times[5]),
      median(times[1]) / own, median(times[3]) / own, median(times[4]) / own,
      median(times[5]) / own);
}

}  // namespace

int main(int argc, char** argv) {
  const MpiSession session(argc, argv);
  Kokkos::initialize(argc, argv);
  memory_ledger::install();
  {
    const World world = World::from(MPI_COMM_WORLD);
    const Options options = bench::parse(argc, argv, {1.0, 10.0, 30.0});
    if (world.is_root()) {
      std::printf("%d ranks, buckets of %.3g MiB, %d slots, median of %d interleaved runs, ms\n",
                  world.size(), options.bucket_mb, options.slots, options.repeat);
      std::printf(
          "%8s %6s %6s %5s %9s %9s %9s %9s %9s %9s %9s   speed-up over messages, per unit, set, "
          "plain\n",
          "mask", "M", "units", "sets", "KiB/msg", "exchange", "messages", "sharded", "per unit",
          "per set", "plain");
    }
    for (double millions : options.millions) {
      run(world, options, "random", random_sets(world.workers(), options.units), millions);
      run(world, options, "planes", dealt_sets(world.workers(), options.units), millions);
    }
  }
  Kokkos::finalize();
  return 0;
}
