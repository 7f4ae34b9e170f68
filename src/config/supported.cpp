// SPDX-License-Identifier: Apache-2.0
#include "config/supported.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "base/version.hpp"
#include "config/names.hpp"

namespace sdp {

namespace {

void refuse(bool asked, std::string_view key, std::string const& value, std::string_view instead,
            std::string_view where = "") {
  if (asked)
    throw ConfigError(fmt::format("{} is {}, which is not available{} in this version; use {}", key,
                                  value, where, instead));
}

}  // namespace

void require_supported(Config const& config) {
  if (config.system.comm == Transport::nccl && !has_nccl())
    throw ConfigError(
        "system.comm is \"nccl\", but this sdp was built without it, which takes CUDA and NCCL; "
        "use "
        "\"auto\" or \"mpi\"");
  const bool narrow = config.system.gradient_wire == WireType::bf16;
  refuse(narrow && config.run.precision == Precision::fp64, "system.gradient_wire", "\"bf16\"",
         "\"fp32\"", " with run.precision \"fp64\"");
  refuse(narrow && config.system.reduction == Reduction::allreduce, "system.gradient_wire",
         "\"bf16\"", "\"fp32\"", " with system.reduction \"allreduce\"");
  const bool shared = config.system.node_memory == Toggle::on;
  refuse(shared && narrow, "system.node_memory", "\"on\"", "\"auto\"",
         " with system.gradient_wire \"bf16\"");
  refuse(shared && config.system.reduction == Reduction::allreduce, "system.node_memory", "\"on\"",
         "\"auto\"", " with system.reduction \"allreduce\"");
}

}  // namespace sdp
