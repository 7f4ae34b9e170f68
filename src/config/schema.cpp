// SPDX-License-Identifier: Apache-2.0
#include "config/schema.hpp"

#include <algorithm>
#include <utility>

#include "config/names.hpp"

namespace sdp {

namespace {

Field field_of(bool& member) {
  return &member;
}
Field field_of(std::int64_t& member) {
  return &member;
}
Field field_of(std::uint64_t& member) {
  return &member;
}
Field field_of(double& member) {
  return &member;
}
Field field_of(std::string& member) {
  return &member;
}
Field field_of(std::vector<std::string>& member) {
  return &member;
}

template <DeckEnum E>
Field field_of(E& member) {
  return Choice{Details::EnumNames<E>::names, &member,
                [](void const* from) { return static_cast<int>(*static_cast<E const*>(from)); },
                [](void* to, int index) { *static_cast<E*>(to) = static_cast<E>(index); }};
}

// Limits keep every product that the program forms (elements, bytes, tokens) inside 64 bits.
constexpr double k_size_max = 1 << 24;
constexpr double k_count_max = 1e12;
constexpr double k_seed_max = 9007199254740992.0;  // 2^53
constexpr double k_seconds_max = 1e9;

constexpr Limits k_size{1, k_size_max};
constexpr Limits k_count{0, k_count_max};
constexpr Limits k_positive_count{1, k_count_max};
constexpr Limits k_seed{0, k_seed_max};
constexpr Limits k_seconds{0, k_seconds_max};
constexpr Limits k_non_negative{0};
constexpr Limits k_positive{.min = 0, .open_min = true};
constexpr Limits k_below_one{.min = 0, .max = 1, .open_max = true};
constexpr Limits k_ratio{0, 1};
constexpr Limits k_positive_ratio{.min = 0, .max = 1, .open_min = true};

bool adamw(Config const& c) {
  return c.optimizer.kind == OptimizerKind::adamw;
}
bool llama(Config const& c) {
  return c.model.kind == ModelKind::llama;
}

#define SDP_AT(member) [](Config& c) -> Field { return field_of(c.member); }
#define SDP_RULE(statement) [](Config& c, [[maybe_unused]] Launch const& launch) { statement; }

// clang-format off
Key const k_schema[] = {
  // ---- run ----
  {.name = "run.name", .field = SDP_AT(run.name),
   .doc = "Name of the run in the terminal and in summary.json."},
  {.name = "run.seed", .field = SDP_AT(run.seed), .doc = "Seed of initial weights and data order.",
   .limits = k_seed},
  {.name = "run.out_dir", .field = SDP_AT(run.out_dir),
   .doc = "Folder that receives the resolved deck, metrics, summary and checkpoints.",
   .example = "\"runs/reference\"", .may_be_empty = false},
  {.name = "run.precision", .field = SDP_AT(run.precision),
   .doc = "Type of weights and activations; sums, moments and master weights stay wider.",
   .rule = "\"fp32\" on CPUs, \"bf16\" on GPUs",
   .derive = SDP_RULE(c.run.precision = launch.gpu ? Precision::bf16 : Precision::fp32)},
  {.name = "run.deterministic", .field = SDP_AT(run.deterministic),
   .doc = "Same bits from the same binary, ranks and deck; false permits sums in any order."},

  // ---- model ----
  {.name = "model.kind", .field = SDP_AT(model.kind), .doc = "Architecture.",
   .example = "\"llama\""},
  {.name = "model.vocab_size", .field = SDP_AT(model.llama.vocab_size),
   .doc = "Entries of the vocabulary, V; every token of the data must be below it.",
   .limits = {1, 2147483647.0}, .belongs = Belongs::llama, .example = "4096"},
  {.name = "model.hidden_size", .field = SDP_AT(model.llama.hidden_size),
   .doc = "Width of the residual stream, D.", .limits = k_size, .belongs = Belongs::llama,
   .example = "512"},
  {.name = "model.intermediate_size", .field = SDP_AT(model.llama.intermediate_size),
   .doc = "Neurons of each SwiGLU MLP, F.", .limits = k_size, .belongs = Belongs::llama,
   .example = "1376"},
  {.name = "model.num_layers", .field = SDP_AT(model.llama.num_layers),
   .doc = "Transformer layers, L.", .limits = {1, 65536}, .belongs = Belongs::llama,
   .example = "8"},
  {.name = "model.num_heads", .field = SDP_AT(model.llama.num_heads),
   .doc = "Query heads, H.", .limits = {1, 65536}, .belongs = Belongs::llama, .example = "8"},
  {.name = "model.num_kv_heads", .field = SDP_AT(model.llama.num_kv_heads),
   .doc = "Key and value heads, K, a divisor of num_heads; fewer is grouped-query attention.",
   .limits = {1, 65536}, .belongs = Belongs::llama, .rule = "num_heads",
   .derive = SDP_RULE(c.model.llama.num_kv_heads = c.model.llama.num_heads)},
  {.name = "model.head_dim", .field = SDP_AT(model.llama.head_dim),
   .doc = "Width of one head, h; even, because rotary embedding turns pairs.",
   .limits = k_size, .belongs = Belongs::llama, .rule = "hidden_size / num_heads",
   .derive = SDP_RULE(c.model.llama.head_dim =
                          c.model.llama.hidden_size / c.model.llama.num_heads)},
  {.name = "model.max_seq_len", .field = SDP_AT(model.llama.max_seq_len),
   .doc = "Longest sequence the model is meant for, in tokens; at least train.seq_len.",
   .limits = k_size, .belongs = Belongs::llama, .rule = "train.seq_len",
   .derive = SDP_RULE(c.model.llama.max_seq_len = c.train.seq_len)},
  {.name = "model.rope_theta", .field = SDP_AT(model.llama.rope_theta),
   .doc = "Base of the rotary frequencies.", .limits = k_positive, .belongs = Belongs::llama},
  {.name = "model.rms_norm_eps", .field = SDP_AT(model.llama.rms_norm_eps),
   .doc = "Added to the mean square in RMSNorm.", .limits = k_positive, .belongs = Belongs::llama},
  {.name = "model.tie_embeddings", .field = SDP_AT(model.llama.tie_embeddings),
   .doc = "Use the embedding as LM head.", .belongs = Belongs::llama},
  {.name = "model.init_std", .field = SDP_AT(model.llama.init_std),
   .doc = "Standard deviation of initial weights; residual outputs are divided by sqrt(2L).",
   .limits = k_non_negative, .belongs = Belongs::llama},
  {.name = "model.recompute", .field = SDP_AT(model.recompute),
   .doc = "\"block\" keeps only block inputs and computes the rest again in backward.",
   .belongs = Belongs::llama},
  {.name = "model.num_classes", .field = SDP_AT(model.resnet.num_classes),
   .doc = "Classes of the classifier.", .limits = k_size, .belongs = Belongs::resnet18},
  {.name = "model.in_channels", .field = SDP_AT(model.resnet.in_channels),
   .doc = "Channels of the input images.", .limits = {1, 65536}, .belongs = Belongs::resnet18},
  {.name = "model.width", .field = SDP_AT(model.resnet.width),
   .doc = "Channels of the first stage; the others have 2, 4 and 8 times as many.",
   .limits = {1, 65536}, .belongs = Belongs::resnet18},
  {.name = "model.init_from", .field = SDP_AT(model.init_from),
   .doc = "Checkpoint or safetensors to take the initial weights from; empty: draw them."},

  // ---- data ----
  {.name = "data.kind", .field = SDP_AT(data.kind),
   .doc = "\"tokens\" for llama; one of the image sets for resnet18.", .example = "\"tokens\""},
  {.name = "data.train", .field = SDP_AT(data.train),
   .doc = "Globs of the training files; for \"idx\" the images, whose labels lie beside them.",
   .example = "[\"data/train_*.bin\"]", .may_be_empty = false},
  {.name = "data.val", .field = SDP_AT(data.val),
   .doc = "Globs of the validation files; empty: no evaluation."},
  {.name = "data.format", .field = SDP_AT(data.format),
   .doc = "Layout of token files; \"auto\" tells llm.c shards by their magic number.",
   .belongs = Belongs::llama},
  {.name = "data.augment", .field = SDP_AT(data.augment),
   .doc = "Random crops and horizontal flips of training images.", .belongs = Belongs::resnet18},
  {.name = "data.tokenizer", .field = SDP_AT(data.tokenizer),
   .doc = "Path of the sentencepiece model that made the tokens; recorded in checkpoints.",
   .belongs = Belongs::llama},

  // ---- train ----
  {.name = "train.steps", .field = SDP_AT(train.steps), .doc = "Updates of the run.",
   .limits = k_positive_count, .example = "1000"},
  {.name = "train.global_batch", .field = SDP_AT(train.global_batch),
   .doc = "Samples of one update, over all ranks.", .limits = {1, 1e9}, .example = "64"},
  {.name = "train.micro_batch", .field = SDP_AT(train.micro_batch),
   .doc = "Samples a rank computes at a time; global_batch / (ranks * micro_batch) is whole.",
   .limits = {1, 1e9}, .rule = "global_batch / ranks",
   .derive = SDP_RULE(c.train.micro_batch =
                          std::max<std::int64_t>(c.train.global_batch / launch.ranks, 1))},
  {.name = "train.seq_len", .field = SDP_AT(train.seq_len),
   .doc = "Tokens of one sample, T.", .limits = k_size, .belongs = Belongs::llama,
   .example = "256"},
  {.name = "train.eval_every", .field = SDP_AT(train.eval_every),
   .doc = "Updates between evaluations; 0: only after the last.", .limits = k_count},
  {.name = "train.eval_batches", .field = SDP_AT(train.eval_batches),
   .doc = "Evaluated part of the validation set, in units of global_batch samples; 0: all of it.",
   .limits = k_count},
  {.name = "train.bn_batches", .field = SDP_AT(train.bn_batches),
   .doc = "Training batches that recalibrate batch norm of a merged model before evaluation.",
   .limits = k_count, .belongs = Belongs::resnet18},
  {.name = "train.log_every", .field = SDP_AT(train.log_every),
   .doc = "Updates between lines of metrics.jsonl and of the terminal.",
   .limits = k_positive_count},
  {.name = "train.match", .field = SDP_AT(train.match),
   .doc = "\"flops\": steps counts dense updates; the run takes as many as its first mask affords."},
  {.name = "train.label_smoothing", .field = SDP_AT(train.label_smoothing),
   .doc = "Part of the target that is spread over all classes.", .limits = k_below_one},
  {.name = "train.max_nonfinite", .field = SDP_AT(train.max_nonfinite),
   .doc = "Non-finite updates in a row, all skipped, after which the run gives up.",
   .limits = k_positive_count},

  // ---- optimizer ----
  {.name = "optimizer.kind", .field = SDP_AT(optimizer.kind), .doc = "Update rule.",
   .rule = "\"adamw\" for llama, \"sgd\" for resnet18",
   .derive = SDP_RULE(c.optimizer.kind = llama(c) ? OptimizerKind::adamw : OptimizerKind::sgd)},
  {.name = "optimizer.lr", .field = SDP_AT(optimizer.lr), .doc = "Peak learning rate.",
   .limits = k_non_negative, .rule = "6e-4 for adamw, 0.1 for sgd",
   .derive = SDP_RULE(c.optimizer.lr = adamw(c) ? 6e-4 : 0.1)},
  {.name = "optimizer.beta1", .field = SDP_AT(optimizer.beta1),
   .doc = "Decay of the first moment (adamw).", .limits = k_below_one},
  {.name = "optimizer.beta2", .field = SDP_AT(optimizer.beta2),
   .doc = "Decay of the second moment (adamw).", .limits = k_below_one},
  {.name = "optimizer.eps", .field = SDP_AT(optimizer.eps),
   .doc = "Added to the root of the second moment (adamw).", .limits = k_positive},
  {.name = "optimizer.weight_decay", .field = SDP_AT(optimizer.weight_decay),
   .doc = "Decoupled for adamw (times the learning rate), L2 on the gradient for sgd.",
   .limits = k_non_negative, .rule = "0.1 for adamw, 5e-4 for sgd",
   .derive = SDP_RULE(c.optimizer.weight_decay = adamw(c) ? 0.1 : 5e-4)},
  {.name = "optimizer.decay", .field = SDP_AT(optimizer.decay),
   .doc = "What decays: tensors of two dimensions or more (embedding and head too), or all.",
   .rule = "\"matrices\" for adamw, \"all\" for sgd",
   .derive = SDP_RULE(c.optimizer.decay = adamw(c) ? Decay::matrices : Decay::all)},
  {.name = "optimizer.momentum", .field = SDP_AT(optimizer.momentum), .doc = "Momentum (sgd).",
   .limits = k_below_one},
  {.name = "optimizer.nesterov", .field = SDP_AT(optimizer.nesterov),
   .doc = "Nesterov's form of the momentum (sgd)."},
  {.name = "optimizer.grad_clip", .field = SDP_AT(optimizer.grad_clip),
   .doc = "Largest global norm of the gradient; 0: no clipping.", .limits = k_non_negative,
   .rule = "1.0 for llama, 0.0 for resnet18",
   .derive = SDP_RULE(c.optimizer.grad_clip = llama(c) ? 1.0 : 0.0)},
  {.name = "optimizer.sharding", .field = SDP_AT(optimizer.sharding),
   .doc = "\"holders\" divides the optimizer state of a unit among the ranks that hold it."},

  // ---- schedule ----
  {.name = "schedule.kind", .field = SDP_AT(schedule.kind),
   .doc = "Shape of the learning rate after the warm-up."},
  {.name = "schedule.warmup_steps", .field = SDP_AT(schedule.warmup_steps),
   .doc = "Updates of linear warm-up.", .limits = k_count},
  {.name = "schedule.final_ratio", .field = SDP_AT(schedule.final_ratio),
   .doc = "Last learning rate over the peak.", .limits = k_ratio,
   .rule = "0.1 for llama, 0.0 for resnet18",
   .derive = SDP_RULE(c.schedule.final_ratio = llama(c) ? 0.1 : 0.0)},
  {.name = "schedule.decay_fraction", .field = SDP_AT(schedule.decay_fraction),
   .doc = "Part of the updates after warm-up in which wsd decays.", .limits = k_positive_ratio},

  // ---- sdp ----
  {.name = "sdp.regime", .field = SDP_AT(sdp.regime),
   .doc = "\"none\" is data parallelism; the others mask gradients, or gradients and weights."},
  {.name = "sdp.level", .field = SDP_AT(sdp.level),
   .doc = "What is dropped: residual blocks, or groups of neurons, heads and channels."},
  {.name = "sdp.coverage", .field = SDP_AT(sdp.coverage),
   .doc = "Part C of the subnetworks that hold each droppable unit; C * subnetworks is whole.",
   .limits = k_positive_ratio},
  {.name = "sdp.subnetworks", .field = SDP_AT(sdp.subnetworks),
   .doc = "Different subnetworks, N; at most the number of ranks.", .limits = {1, 64},
   .rule = "min(ranks, 8)",
   .derive = SDP_RULE(c.sdp.subnetworks = std::min(launch.ranks, 8))},
  {.name = "sdp.design", .field = SDP_AT(sdp.design),
   .doc = "Sets that hold units together; \"auto\": the largest spectral gap with at most 2N sets."},
  {.name = "sdp.placement", .field = SDP_AT(sdp.placement),
   .doc = "Subnetwork of a rank: rank mod N, or node mod N."},
  {.name = "sdp.mask_seed", .field = SDP_AT(sdp.mask_seed), .doc = "Seed of the mask.",
   .limits = k_seed, .rule = "run.seed", .derive = SDP_RULE(c.sdp.mask_seed = c.run.seed)},
  {.name = "sdp.mask_file", .field = SDP_AT(sdp.mask_file),
   .doc = "A mask.json to use instead of building one; empty: build."},
  {.name = "sdp.block_unit", .field = SDP_AT(sdp.block_unit),
   .doc = "Units at block level: attention and MLP apart, or whole layers.",
   .belongs = Belongs::llama},
  {.name = "sdp.neuron_group", .field = SDP_AT(sdp.neuron_group),
   .doc = "Neurons or channels of one group, best a multiple of 8; 0: the largest divisor up to 64.",
   .limits = {0, k_size_max}},
  {.name = "sdp.forward_scale", .field = SDP_AT(sdp.forward_scale),
   .doc = "Scaling of kept outputs in forward training by 1 / C; \"auto\": at neuron level only."},
  {.name = "sdp.protect_first", .field = SDP_AT(sdp.protect_first),
   .doc = "Leading blocks that every subnetwork holds.", .limits = {0, 65536}},
  {.name = "sdp.protect_last", .field = SDP_AT(sdp.protect_last),
   .doc = "Trailing blocks that every subnetwork holds.", .limits = {0, 65536}},
  {.name = "sdp.remask_every", .field = SDP_AT(sdp.remask_every),
   .doc = "Updates between changes of the mask; 0: never.", .limits = k_count},
  {.name = "sdp.hash_every", .field = SDP_AT(sdp.hash_every),
   .doc = "Updates between checks that all holders of a unit have the same bits; 0: never.",
   .limits = k_count},

  // ---- checkpoint ----
  {.name = "checkpoint.every_steps", .field = SDP_AT(checkpoint.every_steps),
   .doc = "Updates between checkpoints; 0: none by count.", .limits = k_count},
  {.name = "checkpoint.every_seconds", .field = SDP_AT(checkpoint.every_seconds),
   .doc = "Seconds between checkpoints; 0: none by time.", .limits = k_seconds},
  {.name = "checkpoint.at_end", .field = SDP_AT(checkpoint.at_end),
   .doc = "Write a checkpoint after the last update."},
  {.name = "checkpoint.keep", .field = SDP_AT(checkpoint.keep),
   .doc = "Newest checkpoints that are kept.", .limits = {1, 1e6}},
  {.name = "checkpoint.files", .field = SDP_AT(checkpoint.files),
   .doc = "Files that hold the tensors of a checkpoint, one for each group of ranks, at most one a rank.",
   .limits = {1, 65536}},
  {.name = "checkpoint.async", .field = SDP_AT(checkpoint.async),
   .doc = "Write checkpoints while training goes on, from a copy of what a rank saves in host memory."},
  {.name = "checkpoint.resume", .field = SDP_AT(checkpoint.resume),
   .doc = "\"auto\" continues the run in out_dir, \"never\" refuses a used one; or a path.",
   .may_be_empty = false},

  // ---- system ----
  {.name = "system.comm", .field = SDP_AT(system.comm),
   .doc = "Library that moves gradients; \"auto\": nccl between NVIDIA GPUs, else mpi."},
  {.name = "system.reduction", .field = SDP_AT(system.reduction),
   .doc = "Own exchange with a fixed order of sums, or the library's all-reduce as a reference."},
  {.name = "system.gradient_wire", .field = SDP_AT(system.gradient_wire),
   .doc = "Type of gradients in messages; sums stay fp32."},
  {.name = "system.gpu_aware_mpi", .field = SDP_AT(system.gpu_aware_mpi),
   .doc = "Whether MPI is given device pointers or host copies; \"auto\": what MPI says that it can do."},
  {.name = "system.node_memory", .field = SDP_AT(system.node_memory),
   .doc = "Whether ranks of a node add each other's gradients where they lie; \"auto\": where they can."},
  {.name = "system.ranks_per_node", .field = SDP_AT(system.ranks_per_node),
   .doc = "Ranks that share a node; 0: detected.", .limits = {0, 65536}},
  {.name = "system.bucket_mb", .field = SDP_AT(system.bucket_mb),
   .doc = "Size of a communication bucket, in MiB.", .limits = {1, 65536}},
  {.name = "system.watchdog_seconds", .field = SDP_AT(system.watchdog_seconds),
   .doc = "Seconds without progress after which the job is ended (exit code 5).",
   .limits = {1, k_seconds_max}},
  {.name = "system.max_walltime", .field = SDP_AT(system.max_walltime),
   .doc = "Seconds in which the run saves a checkpoint and stops with exit code 75; 0: no limit.",
   .limits = k_seconds},
};
// clang-format on
#undef SDP_AT
#undef SDP_RULE

/// Insertions, deletions and substitutions that turn one word into the other.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, changed}));
    }
  }
  return row[b.size()];
}

}  // namespace

std::span<Key const> schema() {
  return k_schema;
}

Key const* find_key(std::string_view name) {
  auto found = std::ranges::find(k_schema, name, &Key::name);
  return found == std::end(k_schema) ? nullptr : &*found;
}

bool is_section(std::string_view name) {
  return std::ranges::find(k_schema, name, &Key::section) != std::end(k_schema);
}

std::string nearest_name(std::string_view name) {
  if (name.size() > 64) return {};
  const auto leaf = name.substr(name.rfind('.') == name.npos ? 0 : name.rfind('.') + 1);
  const bool dotted = leaf.size() != name.size();
  std::size_t best = std::max<std::size_t>(2, leaf.size() / 3) + 1;
  std::string nearest;
  const auto consider = [&](std::string_view candidate, std::size_t distance) {
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  };
  for (Key const& key : k_schema) {
    if (!dotted) consider(key.section(), edit_distance(name, key.section()));
    consider(key.name, edit_distance(name, key.name));
    // The right key in the wrong section, or in none.
    consider(key.name, edit_distance(leaf, key.leaf()) + 1);
  }
  return nearest;
}

bool belongs(Key const& key, ModelKind kind) {
  return key.belongs == Belongs::everywhere ||
         (key.belongs == Belongs::llama) == (kind == ModelKind::llama);
}

}  // namespace sdp
