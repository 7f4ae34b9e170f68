// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "checkpoint/checkpoint.hpp"

namespace sdp {

/// A checkpoint in words, for a terminal: one fact a line, without the list of tensors.
std::string describe(CheckpointInfo const& info);

/// The same as one JSON object with keys path, format_version, written_by, kind, step, samples,
/// tokens, skipped, seed, best_val_loss (or null), model {shape}, parameters, statistics, type,
/// bytes (of all files), parts [{file, bytes, first_rank, last_rank}], moments, has_deck, has_mask,
/// tensors [{name, shape, transposed}].
std::string describe_json(CheckpointInfo const& info);

}  // namespace sdp
