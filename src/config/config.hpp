// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/design.hpp"
#include "base/index.hpp"

namespace sdp {

// The deck as typed structs, every default resolved. `inputs/reference.toml` documents each key.

enum class Precision { fp32, bf16, fp64 };
enum class ModelKind { llama, resnet18 };
enum class Recompute { none, block };
enum class DataKind { tokens, cifar10, cifar100, idx };
enum class TokenFormat { automatic, llmc, nanogpt_u16 };
enum class Match { steps, flops };
enum class OptimizerKind { adamw, sgd };
enum class Decay { matrices, all };
enum class Sharding { none, holders };
enum class ScheduleKind { cosine, wsd, linear, constant };
enum class Regime { none, backward, forward };
enum class Level { block, neuron };
enum class BlockUnit { sublayer, layer };
enum class ForwardScale { automatic, inverse_keep, none };
enum class Transport { automatic, mpi, nccl };
enum class Reduction { exchange, allreduce };
enum class WireType { fp32, bf16 };
enum class Toggle { automatic, on, off };

struct RunConfig {
  std::string name = "run";
  std::uint64_t seed = 1;
  std::string out_dir;
  Precision precision = Precision::fp32;
  bool deterministic = true;

  bool operator==(RunConfig const&) const = default;
};

/// Shape of a LLaMA; all sizes in elements.
struct LlamaConfig {
  index_t vocab_size = 0;         ///< V
  index_t hidden_size = 0;        ///< D
  index_t intermediate_size = 0;  ///< F
  index_t num_layers = 0;         ///< L
  index_t num_heads = 0;          ///< H
  index_t num_kv_heads = 0;       ///< K
  index_t head_dim = 0;           ///< h
  index_t max_seq_len = 0;
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-5;
  bool tie_embeddings = false;
  double init_std = 0.02;

  bool operator==(LlamaConfig const&) const = default;
};

struct ResnetConfig {
  index_t num_classes = 10;
  index_t in_channels = 3;
  index_t width = 64;

  bool operator==(ResnetConfig const&) const = default;
};

struct ModelConfig {
  ModelKind kind = ModelKind::llama;
  LlamaConfig llama;
  ResnetConfig resnet;
  Recompute recompute = Recompute::none;
  std::string init_from;

  bool operator==(ModelConfig const&) const = default;
};

struct DataConfig {
  DataKind kind = DataKind::tokens;
  std::vector<std::string> train;
  std::vector<std::string> val;
  TokenFormat format = TokenFormat::automatic;
  bool augment = true;
  std::string tokenizer;

  bool operator==(DataConfig const&) const = default;
};

struct TrainConfig {
  std::int64_t steps = 0;
  std::int64_t global_batch = 0;
  std::int64_t micro_batch = 0;
  std::int64_t seq_len = 0;
  std::int64_t eval_every = 0;    ///< 0: only at the end
  std::int64_t eval_batches = 0;  ///< 0: the whole validation set
  std::int64_t bn_batches = 64;
  std::int64_t log_every = 10;
  Match match = Match::steps;
  double label_smoothing = 0.0;
  std::int64_t max_nonfinite = 10;

  bool operator==(TrainConfig const&) const = default;
};

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::adamw;
  double lr = 6e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  Decay decay = Decay::matrices;
  double momentum = 0.9;
  bool nesterov = false;
  double grad_clip = 1.0;  ///< 0: off
  Sharding sharding = Sharding::none;

  bool operator==(OptimizerConfig const&) const = default;
};

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::cosine;
  std::int64_t warmup_steps = 0;
  double final_ratio = 0.1;
  double decay_fraction = 0.2;

  bool operator==(ScheduleConfig const&) const = default;
};

struct SdpConfig {
  Regime regime = Regime::none;
  Level level = Level::block;
  double coverage = 1.0;
  std::int64_t subnetworks = 1;
  Design design = Design::automatic;
  Placement placement = Placement::round_robin;
  std::uint64_t mask_seed = 1;
  std::string mask_file;
  BlockUnit block_unit = BlockUnit::sublayer;
  std::int64_t neuron_group = 0;  ///< 0: the largest divisor of F up to 64
  ForwardScale forward_scale = ForwardScale::automatic;
  std::int64_t protect_first = 0;
  std::int64_t protect_last = 0;
  std::int64_t remask_every = 0;  ///< 0: never
  std::int64_t hash_every = 100;

  bool operator==(SdpConfig const&) const = default;
};

struct CheckpointConfig {
  std::int64_t every_steps = 0;
  std::int64_t every_seconds = 0;
  bool at_end = true;
  std::int64_t keep = 2;
  std::int64_t files = 1;
  bool async = false;
  std::string resume = "auto";  ///< "auto", "never" or a path

  bool operator==(CheckpointConfig const&) const = default;
};

struct SystemConfig {
  Transport comm = Transport::automatic;
  Reduction reduction = Reduction::exchange;
  WireType gradient_wire = WireType::fp32;
  Toggle gpu_aware_mpi = Toggle::automatic;
  Toggle node_memory = Toggle::automatic;
  std::int64_t ranks_per_node = 0;  ///< 0: detected
  std::int64_t bucket_mb = 64;
  std::int64_t watchdog_seconds = 600;
  std::int64_t max_walltime = 0;  ///< seconds; 0: none

  bool operator==(SystemConfig const&) const = default;
};

struct Config {
  RunConfig run;
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  SdpConfig sdp;
  CheckpointConfig checkpoint;
  SystemConfig system;

  bool operator==(Config const&) const = default;
};

}  // namespace sdp
