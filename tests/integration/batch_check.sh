# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# What the batch and kill tests have in common, beside the functions of the command test: a small
# deck, its data, and how a run is looked at.

# tokens FILE LINES: a shard of which every byte of that many lines of English is a token.
tokens() {
  local text
  text=$(english "$2" | tr -d '\n')
  {
    le 4 20240520
    le 4 1
    le 4 ${#text}
    head -c 1012 /dev/zero
    printf '%s' "$text" | sed 's/./&\x00/g'
  } >"$1"
}

# batch_deck STEPS: a run that takes a millisecond or two for an update.
batch_deck() {
  cat <<TOML
[run]
out_dir = "run"
precision = "fp32"
[model]
kind = "llama"
vocab_size = 128
hidden_size = 16
intermediate_size = 32
num_layers = 2
num_heads = 4
num_kv_heads = 4
[data]
kind = "tokens"
train = ["data/train.bin"]
val = ["data/val.bin"]
[train]
steps = $1
global_batch = 8
micro_batch = 1
seq_len = 16
log_every = 1
eval_batches = 2
[optimizer]
lr = 3e-3
[schedule]
kind = "constant"
[sdp]
hash_every = 10
neuron_group = 4
TOML
}

metrics=run/metrics.jsonl
folder=run/checkpoints

# record_of EVENT STEP: metrics has it.
record_of() { grep -qsF "{\"event\":\"$1\",\"step\":$2," $metrics; }
steps_of() { records "$1" step $metrics | xargs; }
latest_step() { sed -n '1s/^step-0*\([0-9]\{1,\}\)\.h5$/\1/p' $folder/latest 2>/dev/null; }
checkpoint_of() { printf '%s/step-%08d.h5' $folder "$1"; }
valid() { "$sdp" info "$1" >/dev/null 2>&1; }
