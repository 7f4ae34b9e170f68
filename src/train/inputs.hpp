// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/flat_pieces.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "train/data_set.hpp"
#include "train/resume.hpp"

namespace sdp {

/// The data sets of a deck, opened and with every header checked; each stays where it is in memory.
/// `val` is absent where the deck names none.
struct DataSets {
  std::unique_ptr<DataSet> train;
  std::unique_ptr<DataSet> val;
};

/// Collective; ConfigError, the same on every rank.
DataSets open_data(World const& world, Config const& config, bool with_train);

/// Where a run starts from: nothing, a checkpoint of its own that it continues, or other weights.
struct StartPoint {
  ResumeChain resume;
  std::string init_from;  ///< checkpoint file or safetensors, empty for random weights
  bool finished = false;  ///< the run in out_dir has done all its steps
};

/// Decides it by checkpoint.resume, run.out_dir and model.init_from, and checks what it finds
/// against the deck. A checkpoint of the run's own that is damaged is passed over for an older one;
/// DataError where none is left. Collective; errors are the same on every rank. Writes nothing. The
/// configuration and the data must outlive the result.
StartPoint find_start(World const& world, Config const& config, DataSet const& training_set);

/// Reads pieces of the flat buffer of a table from a checkpoint or from safetensors. Rank-local;
/// ConfigError or DataError.
template <class V>
void load_weights(std::string const& path, ModelConfig const& expected, ParameterTable const& table,
                  std::vector<FlatPiece> const& pieces, View1<V> const& weights);
/// The same for the whole buffer.
template <class V>
void load_weights(std::string const& path, ModelConfig const& expected, ParameterTable const& table,
                  View1<V> const& weights) {
  load_weights(path, expected, table, flat_pieces(table), weights);
}

extern template void load_weights<float>(std::string const&, ModelConfig const&,
                                         ParameterTable const&, std::vector<FlatPiece> const&,
                                         View1<float> const&);
extern template void load_weights<double>(std::string const&, ModelConfig const&,
                                          ParameterTable const&, std::vector<FlatPiece> const&,
                                          View1<double> const&);
extern template void load_weights<kernels::bf16>(std::string const&, ModelConfig const&,
                                                 ParameterTable const&,
                                                 std::vector<FlatPiece> const&,
                                                 View1<kernels::bf16> const&);

}  // namespace sdp
