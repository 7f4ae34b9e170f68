// SPDX-License-Identifier: Apache-2.0
#include "subnet/cost_model.hpp"

#include <algorithm>
#include <cmath>

namespace sdp {

Machine cpu_cores() {
  Machine machine;
  machine.name = "2 CPU cores";
  machine.ranks_per_node = 2;
  machine.node_memory = true;
  machine.flops_fp32 = 8.0e10;
  machine.flops_bf16 = 8.0e10;
  machine.flops_fp64 = 4.0e10;
  machine.memory_bandwidth = 1.0e10;
  machine.node_bandwidth = 2.0e9;
  machine.node_latency = 5.0e-6;
  machine.network_bandwidth = 1.0e9;
  machine.network_latency = 5.0e-5;
  machine.overlap = 0.2;
  return machine;
}

StepTime predict_step(Machine const& machine, double flops_rate, StepWork const& work) {
  const double compute = work.flops / flops_rate + work.memory_bytes / machine.memory_bandwidth;
  const double exchange = work.node_bytes / machine.node_bandwidth +
                          work.node_messages * machine.node_latency +
                          work.network_bytes / machine.network_bandwidth +
                          work.network_messages * machine.network_latency;
  const double step = compute + std::max(0.0, exchange - machine.overlap * compute);
  return {1e3 * step, 1e3 * compute, 1e3 * exchange};
}

StepWork collective_work(double passes, double bytes, double pieces, int ranks,
                         int ranks_per_node) {
  const double inside = std::min(ranks, ranks_per_node);
  const double nodes = std::ceil(ranks / inside);
  StepWork work;
  work.node_bytes = passes * (1.0 - 1.0 / inside) * bytes;
  work.network_bytes = passes * (1.0 - 1.0 / nodes) * bytes / inside;
  work.node_messages = passes * pieces * std::ceil(std::log2(inside));
  work.network_messages = passes * pieces * std::ceil(std::log2(nodes));
  return work;
}

double step_memory_bytes(StateBytes const& bytes, double micro_steps, double activation_bytes,
                         double weights, double gradients, double updated) {
  return micro_steps * (4.0 * activation_bytes + 2.0 * weights * bytes.weight +
                        2.0 * gradients * bytes.gradient) +
         updated * (bytes.gradient + 2.0 * bytes.weight + 2.0 * bytes.optimizer);
}

}  // namespace sdp
