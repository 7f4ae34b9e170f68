#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The commands on images, from the outside: the decks that come with the program, a run of a small
# ResNet-18 as subnetworks, and its way out into safetensors and back.
#
#   image_command_test.sh SDP LAUNCHER...
#
# The word RANKS in LAUNCHER stands for the number of ranks. Needs nothing but a shell, awk, gzip and
# the core utilities; every input is made here.
source "$(dirname -- "${BASH_SOURCE[0]}")/../integration/script_start.sh" image_commands "$@"

# big_endian VALUE...: four bytes each.
big_endian() {
  local value
  for value; do
    printf '%b' "$(printf '\\x00\\x00\\x%02x\\x%02x' $((value >> 8)) $((value & 255)))"
  done
}

# idx NAME COUNT SIDE: compressed images and their labels; the class shows as brightness.
idx() {
  local i bytes=$(($3 * $3)) octal
  {
    printf '\0\0\10\3'
    big_endian "$2" "$3" "$3"
    for ((i = 0; i < $2; i++)); do
      printf -v octal '%03o' $((20 + 70 * (i % 3)))
      repeat $bytes "$octal"
    done
  } | gzip -nc >"data/$1-images-idx3-ubyte.gz"
  {
    printf '\0\0\10\1'
    big_endian "$2"
    for ((i = 0; i < $2; i++)); do printf '%b' "\\x0$((i % 3))"; done
  } | gzip -nc >"data/$1-labels-idx1-ubyte.gz"
}

# cifar COUNT LABEL_BYTES: records of CIFAR-10 (1) or CIFAR-100 (2).
cifar() {
  local i
  for ((i = 0; i < $1; i++)); do
    printf '%b' "\\x0$((i % 10))"
    (($2 == 1)) || printf '%b' "\\x0$((i % 10))"
    repeat 3072 120
  done
}

# ---- the decks that come with the program ----
mkdir -p data/cifar-10-batches-bin data/cifar-100-binary
cifar 30 1 >data/cifar-10-batches-bin/test_batch.bin
for i in {1..5}; do cp data/cifar-10-batches-bin/{test_batch,data_batch_$i}.bin; done
cifar 30 2 >data/cifar-100-binary/test.bin
for i in {1..5}; do cat data/cifar-100-binary/test.bin; done >data/cifar-100-binary/train.bin
idx train 130 28
idx t10k 40 28
before=$(listing)
on 8
for set in 10 100; do
  run "deck for CIFAR-$set" 0 train "$inputs/resnet18-cifar$set.toml" --dry-run --json
  check "one JSON object" one_object "$scratch/out"
  check "training images" test "$(value train_images "$scratch/out")" = 150
  check "validation images" test "$(value val_samples "$scratch/out")" = 30
  check "steps of equal FLOPs" test "$(value steps "$scratch/out")" -gt 130000
  run "deck for CIFAR-$set, dense" 0 train "$inputs/resnet18-cifar$set.toml" --dry-run --json \
    sdp.regime=none
  check "its steps" test "$(value steps "$scratch/out")" = 78000
done
on 4
fashion=("$inputs/resnet18-fashion.toml" 'data.train=["data/train-images-idx3-ubyte.gz"]'
  'data.val=["data/t10k-images-idx3-ubyte.gz"]')
run "deck for Fashion-MNIST" 0 train "${fashion[@]}" --dry-run --json
check "training images" test "$(value train_images "$scratch/out")" = 130
check "subnetworks" test "$(value subnetworks "$scratch/out")" = 4
run "deck for Fashion-MNIST, dense" 0 train "${fashion[@]}" --dry-run --json sdp.regime=none
check "its steps" test "$(value steps "$scratch/out")" = 938
published=/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz
if [[ -f $published ]]; then
  run "deck for Fashion-MNIST, as it is" 0 train "$inputs/resnet18-fashion.toml" --dry-run --json
  check "training images" test "$(value train_images "$scratch/out")" = 60000
else
  echo "not checked: the published images ($published is not installed)"
fi
check "nothing is written" unchanged "$before"

# ---- a run of subnetworks ----
idx small 48 9
idx test 30 9
cat >deck.toml <<'TOML'
[run]
out_dir = "run"
[model]
kind = "resnet18"
num_classes = 3
in_channels = 1
width = 4
[data]
kind = "idx"
train = ["data/small-images-idx3-ubyte.gz"]
val = ["data/test-images-idx3-ubyte.gz"]
[train]
steps = 12
match = "steps"
global_batch = 16
bn_batches = 3
eval_every = 6
log_every = 3
[optimizer]
lr = 0.02
[sdp]
regime = "forward"
level = "neuron"
coverage = 0.5
subnetworks = 4
neuron_group = 1
TOML
run "train" 0 train deck.toml
check "closing table" says '^run finished'
check "train records" test "$(records train step run/metrics.jsonl | xargs)" = "3 6 9 12"
check "images per second" test "$(records train images_per_s run/metrics.jsonl | wc -l)" = 4
check "eval records" test "$(records eval step run/metrics.jsonl | xargs)" = "6 12"
accuracy=$(records eval val_accuracy_no_recalibration run/metrics.jsonl | tail -n 1)
check "accuracy without recalibration" test -n "$accuracy"
check "and with it, in the summary" same "$(value val_accuracy run/summary.json)" \
  "$(records eval val_accuracy run/metrics.jsonl | tail -n 1)"
check "it learns" below "$(records train loss run/metrics.jsonl | tail -n 1)" 0.9
check "from chance, ln 3" below 0.9 "$(records train loss run/metrics.jsonl | head -n 1)"
before=$(listing)
run "train again" 0 train deck.toml
check "it is finished" says 'has done its 12 steps already'
check "nothing changes" unchanged "$before"

# ---- out and back ----
saved=run/checkpoints/step-00000012.h5
# evaluated NAME CHECKPOINT: loss and accuracy of one rank are those of the checkpoint.
evaluated() {
  run "evaluate $1" 0 eval deck.toml --checkpoint "$2" --json
  check "the same loss" same "$(value val_loss "$scratch/out")" "$alone"
  check "the same accuracy" same "$(value val_accuracy "$scratch/out")" "$accuracy"
}
run "evaluate on 4 ranks" 0 eval deck.toml --checkpoint $saved --json
check "samples" test "$(value samples "$scratch/out")" = 30
check "the accuracy of the run" same "$(value val_accuracy "$scratch/out")" "$accuracy"
many=$(value val_loss "$scratch/out")
on 1
run "evaluate" 0 eval deck.toml --checkpoint $saved --json
alone=$(value val_loss "$scratch/out")
check "the loss of four ranks" near "$alone" "$many" 1e-5
check "the accuracy of four ranks" same "$(value val_accuracy "$scratch/out")" "$accuracy"
run "info" 0 info $saved --json
check "kind" test "$(value kind "$scratch/out")" = resnet18
check "width" test "$(value width "$scratch/out")" = 4
run "export" 0 export $saved --out exported
check "one file" test "$(cd exported && echo *)" = model.safetensors
evaluated "the folder" exported
evaluated "the file" exported/model.safetensors
run "import" 0 import exported/model.safetensors --out imported.h5
evaluated "the import" imported.h5
run "export the import" 0 export imported.h5 --out again
run "import that" 0 import again --out again.h5
evaluated "both ways twice" again.h5
run "export bf16" 0 export $saved --out half --dtype bf16
check "half the size" near "$(stat -c %s half/model.safetensors)" \
  $(($(stat -c %s exported/model.safetensors) / 2)) 0.2
run "evaluate bf16" 0 eval deck.toml --checkpoint half --json
check "nearly the loss" near "$(value val_loss "$scratch/out")" "$alone" 0.05
check "but not the same" test "$(value val_loss "$scratch/out")" != "$alone"

on 4
first=$(records train loss run/metrics.jsonl | head -n 1)
run "train on from an export" 0 train deck.toml run.out_dir=on train.steps=3 \
  model.init_from=exported/model.safetensors
check "it begins where the other ended" below "$(records train loss on/metrics.jsonl)" "$first"

echo "$passed passed, $failed failed in $SECONDS s"
((failed == 0 && passed > 0))
