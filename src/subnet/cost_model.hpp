// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace sdp {

/// What a rank can do, in sustained rates rather than peaks: FLOP/s, bytes/s, seconds.
struct Machine {
  std::string name = "8 x H200, NDR";
  int ranks_per_node = 8;
  double flops_fp32 = 4.0e13;
  double flops_bf16 = 5.0e14;
  double flops_fp64 = 4.0e13;
  double memory_bandwidth = 4.0e12;
  double node_bandwidth = 3.5e11;     ///< that a rank sends to ranks of its node
  double node_latency = 2.0e-6;       ///< what a message costs beside its bytes
  double network_bandwidth = 4.5e10;  ///< that a rank sends to other nodes
  double network_latency = 4.0e-6;
  double overlap = 0.9;      ///< part of the computing time during which messages move
  bool node_memory = false;  ///< ranks of a node address each other's memory: CPUs

  bool operator==(Machine const&) const = default;
};

/// The machine of inputs/machines/cpu-2-cores.toml: what a rank on one core of a server CPU can do.
Machine cpu_cores();

/// What one rank does in one step.
struct StepWork {
  double flops = 0.0;
  double memory_bytes = 0.0;   ///< read and written, beside what the FLOPs keep busy
  double node_bytes = 0.0;     ///< sent to ranks of its node
  double network_bytes = 0.0;  ///< sent to other nodes
  double node_messages = 0.0;
  double network_messages = 0.0;
};

struct StepTime {
  double step_ms = 0.0;
  double compute_ms = 0.0;
  double exchange_ms = 0.0;
};

/// compute = flops / rate + memory bytes / bandwidth;
/// exchange = bytes / bandwidth + messages * latency, inside the node and outside, added;
/// step = compute + max(0, exchange - overlap * compute).
StepTime predict_step(Machine const& machine, double flops_rate, StepWork const& work);

/// Bytes and messages of one rank in a collective of all ranks that moves `bytes` per rank `passes`
/// times in one direction (a reduce-scatter or an all-gather is one pass, an all-reduce two), two
/// levels: passes * (1 - 1/G) * bytes inside nodes of G ranks and passes * (1 - 1/M) * bytes / G
/// between M nodes. Messages: trees over G and over M for each of `pieces` pieces.
StepWork collective_work(double passes, double bytes, double pieces, int ranks, int ranks_per_node);

/// Elements of weights, gradients and optimizer state that a rank stores, with their bytes.
struct StateBytes {
  double weight = 4.0;     ///< w
  double gradient = 4.0;   ///< g
  double optimizer = 8.0;  ///< o, master weights among it
  double wire = 4.0;       ///< of a gradient in a message
};

/// Memory traffic of one step beside the matrix products: activations are written and read twice
/// in each of `micro_steps` passes, weights read in both directions and gradients read and written;
/// the update reads gradients, weights and state and writes weights and state of `updated`
/// elements.
double step_memory_bytes(StateBytes const& bytes, double micro_steps, double activation_bytes,
                         double weights, double gradients, double updated);

}  // namespace sdp
