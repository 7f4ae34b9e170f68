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

}  // namespace

void require_supported(Config const& config) {
  refuse(config.run.precision == Precision::bf16, "run.precision", "\"bf16\"",
         "\"fp32\" or \"fp64\"");
  refuse(config.system.comm == Transport::nccl, "system.comm", "\"nccl\"", "\"auto\" or \"mpi\"");
  refuse(config.system.gradient_wire == WireType::bf16, "system.gradient_wire", "\"bf16\"",
         "\"fp32\"");
}

}  // namespace sdp
