// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/min_mean_max.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "subnet/cost_model.hpp"
#include "train/arrangement.hpp"
#include "train/bench_options.hpp"

namespace sdp {

/// Milliseconds, of the slowest rank, median over rounds.
struct CommTimes {
  double gradients = 0.0;  ///< averaged over their holders
  double weights = 0.0;    ///< returned by the owners that updated them; 0 where none return
  double bucketed = 0.0;   ///< all-reduce of as many elements, as system.reduction has it
  /// Blocking MPI all-reduce, of as many elements at once and of one holder set after another;
  /// absent where MPI cannot read the buffers, and the second with very many sets.
  std::optional<double> all_reduce;
  std::optional<double> by_holder_set;
};

/// The exchange of one arrangement beside all-reduce of as many elements.
struct CommCase {
  std::string name;
  std::int64_t elements = 0;  ///< gradients of a worker, mean
  std::int64_t buckets = 0;
  std::int64_t holder_sets = 1;
  MinMeanMax sent_bytes;
  MinMeanMax messages;
  double all_reduce_bytes = 0.0;  ///< that a rank sends: 2(1-1/R) of the gradients
  CommTimes times;
  double predicted_ms = 0.0;  ///< of the slowest rank on the machine that was measured
};

/// What messages cost between ranks of a node, or of several nodes.
struct LinkCost {
  int ranks = 1;           ///< that exchanged with each other, in several groups at the same time
  double bandwidth = 0.0;  ///< bytes/s that a rank sends
  double latency = 0.0;    ///< seconds that a message costs beside its bytes
};

struct CommBenchResult {
  int ranks = 1;
  int ranks_per_node = 1;
  double bucket_mb = 0.0;
  int repeat = 1;
  std::vector<CommCase> cases;
  std::optional<LinkCost> node;     ///< absent where no two ranks share a node
  std::optional<LinkCost> network;  ///< absent where there is one node
  Machine machine;                  ///< with what was measured put in
};

/// Times the exchange of the deck's mask: gradients to their holders, and the weights that owners
/// return; beside it all-reduce of as many elements by the same transport and buckets. Rounds of
/// all of them alternate. Collective; ConfigError on every rank as arrange().
CommBenchResult bench_comm(World const& world, Config const& config,
                           CommBenchOptions const& options);

/// The same for dense models of that many elements each, without a deck.
CommBenchResult bench_comm(World const& world, std::vector<std::int64_t> const& elements,
                           double bucket_mb, CommBenchOptions const& options);

/// One JSON object on one line.
std::string bench_comm_json(CommBenchResult const& result);
/// For people, and the text of a machine file.
std::string bench_comm_table(CommBenchResult const& result);

}  // namespace sdp
