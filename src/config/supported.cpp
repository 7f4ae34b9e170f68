// SPDX-License-Identifier: Apache-2.0
#include "config/supported.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "config/names.hpp"

namespace sdp {

namespace {

void refuse(bool asked, std::string_view key, std::string const& value, std::string_view instead) {
  if (asked)
    throw ConfigError(fmt::format("{} is {}, which is not available in this version; use {}", key,
                                  value, instead));
}

std::string in_quotes(std::string const& word) {
  return '"' + word + '"';
}

}  // namespace

void require_supported(Config const& config) {
  refuse(config.model.kind == ModelKind::resnet18, "model.kind", "\"resnet18\"", "\"llama\"");
  refuse(config.run.precision == Precision::bf16, "run.precision", "\"bf16\"",
         "\"fp32\" or \"fp64\"");
  refuse(config.train.match == Match::flops, "train.match", "\"flops\"", "\"steps\"");
  refuse(config.optimizer.sharding == Sharding::holders, "optimizer.sharding", "\"holders\"",
         "\"none\"");
  refuse(config.sdp.regime != Regime::none, "sdp.regime", in_quotes(to_string(config.sdp.regime)),
         "\"none\"");
  // Keys of a subnetwork that a dense run would otherwise pass over in silence.
  refuse(config.sdp.coverage != 1.0, "sdp.coverage", fmt::format("{}", config.sdp.coverage), "1.0");
  refuse(!config.sdp.mask_file.empty(), "sdp.mask_file", '"' + config.sdp.mask_file + '"', "\"\"");
  refuse(config.sdp.remask_every > 0, "sdp.remask_every", std::to_string(config.sdp.remask_every),
         "0");
  refuse(config.sdp.protect_first > 0, "sdp.protect_first",
         std::to_string(config.sdp.protect_first), "0");
  refuse(config.sdp.protect_last > 0, "sdp.protect_last", std::to_string(config.sdp.protect_last),
         "0");
  refuse(config.system.ranks_per_node > 0, "system.ranks_per_node",
         std::to_string(config.system.ranks_per_node), "0");
  refuse(config.checkpoint.files > 1, "checkpoint.files", std::to_string(config.checkpoint.files),
         "1");
  refuse(config.checkpoint.async, "checkpoint.async", "true", "false");
  refuse(config.system.comm == Transport::nccl, "system.comm", "\"nccl\"", "\"auto\" or \"mpi\"");
  refuse(config.system.gradient_wire == WireType::bf16, "system.gradient_wire", "\"bf16\"",
         "\"fp32\"");
}

}  // namespace sdp
