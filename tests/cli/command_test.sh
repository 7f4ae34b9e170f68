#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The commands of the program, from the outside, as a user goes through them: text to tokens, a run
# that ends, one that is stopped and continued, one that diverges, evaluation, export and import, and
# a sampled text. Exit codes, output and files.
#
#   command_test.sh SDP LAUNCHER...
#
# The word RANKS in LAUNCHER stands for the number of ranks. Needs nothing but a shell, awk and the
# core utilities; every input is made here.
source "$(dirname -- "${BASH_SOURCE[0]}")/../integration/script_start.sh" commands "$@"

# ---- what the program says of itself ----
on 1
run "version" 0 --version
for library in 'Kokkos +[0-9]+\.' 'MPI +[^ ]' 'HDF5 +[0-9]+\.'; do
  check "--version has $library" says "$library"
done
run "help" 0 --help
for command in train eval plan bench export import info tokenize sample; do
  check "--help lists $command" says "^ +$command "
done
run "help of a command" 0 train --help
check "its options" says '--dry-run'
check "no complaint" test ! -s "$scratch/err"

# ---- text to tokens ----
english 300 >text.txt
gzip -c text.txt >text.gz
sed 's/.*/{"id": 7, "text": "&"}/' text.txt >lines.jsonl
sed 's/.*/{"text": "other", "body": "&"}/' text.txt | gzip -c >lines.jsonl.gz

run "train a tokenizer" 0 tokenize --train-model words.model --vocab-size 300 text.txt
check "it says the size" says '300 pieces'
check "the model" test -s words.model
run "tokenize" 0 tokenize --model words.model --out data/text --val-fraction 0.1 text.txt
for part in train val; do
  check "shard" good_shard data/text_${part}_000000.bin
  check "its name is printed" says "data/text_${part}_000000.bin"
done
count=$(($(int32 data/text_train_000000.bin 2) + $(int32 data/text_val_000000.bin 2)))
check "a tenth is validation" near "$(int32 data/text_val_000000.bin 2)" $((count / 10)) 0.02
check "as many tokens as it says" \
  says " $(int32 data/text_train_000000.bin 2) training and $(int32 data/text_val_000000.bin 2) val"
run "tokenize gzip" 0 tokenize --model words.model --out data/zip --val-fraction 0.1 text.gz
run "tokenize JSONL" 0 tokenize --model words.model --out data/line --val-fraction 0.1 lines.jsonl
check "a document each line" says '300 documents'
check "documents for training" test "$(documents data/line_train_000000.bin)" = 270
check "documents for validation" test "$(documents data/line_val_000000.bin)" = 30
run "tokenize gzip of JSONL" 0 tokenize --model words.model --out data/body --val-fraction 0.1 \
  --jsonl-field body lines.jsonl.gz
for part in train val; do
  check "gzip: same tokens" cmp data/text_${part}_000000.bin data/zip_${part}_000000.bin
  check "other field: same tokens" cmp data/line_${part}_000000.bin data/body_${part}_000000.bin
done

# ---- a run to its end ----
write_deck
before=$(listing)
halves=(sdp.regime=forward sdp.coverage=0.5 sdp.subnetworks=2)
run "plan" 0 plan deck.toml --ranks 8 "${halves[@]}"
check "DDP and ZeRO beside it" says 'DDP +ZeRO-1 +ZeRO-2 +ZeRO-3$'
run "plan as JSON" 0 plan deck.toml --ranks 4 "${halves[@]}" --json
check "one JSON object" one_object "$scratch/out"
check "ranks of the plan" test "$(value ranks "$scratch/out")" = 4
run "plan for too many ranks" 2 plan deck.toml --ranks 16
run "plan for no rank" 2 plan deck.toml --ranks 0
run "plan on a machine that is not there" 2 plan deck.toml --ranks 4 --machine nowhere.toml
check "nothing is written" unchanged "$before"
run "plan to a folder" 0 plan deck.toml --ranks 4 "${halves[@]}" --out plans/four
check "the plan" test -s plans/four/plan.json
check "the mask" test -s plans/four/mask.json
before=$(listing)
run "bench of a worker" 0 bench step deck.toml "${halves[@]}" --ranks 4 --worker 3 --steps 2 --json
check "one JSON object" one_object "$scratch/out"
for pair in ranks:4 worker:3 subnetwork:1 regime:forward micro_batch:2 steps:2; do
  check "bench: ${pair%:*}" test "$(value "${pair%:*}" "$scratch/out")" = "${pair#*:}"
done
check "no peak, no MFU" test "$(value mfu "$scratch/out")" = null
run "bench for a reader" 0 bench step deck.toml --steps 1 --warmup 0 --peak-tflops 1
for word in forward backward optimizer 'tokens/s' MFU weights memory_bandwidth; do
  check "bench: $word" says "^$word "
done
name="bench of a worker in a batch script"
SLURM_NTASKS=8 SLURM_PROCID=0 start bench step deck.toml --steps 1 --warmup 0 --json
judge 0
run "bench of no deck" 2 bench step nowhere.toml
run "bench of nothing" 2 bench
run "bench of a worker that is not there" 2 bench step deck.toml --ranks 4 --worker 4
check "it says which there are" complains 'worker 4 .* 0 to 3'
run "bench of no steps" 2 bench step deck.toml --steps 0
run "bench of a batch that ranks cannot share" 2 bench step deck.toml --ranks 3
run "bench of messages without a deck" 2 bench comm
run "bench of messages with a deck and sizes" 2 bench comm deck.toml --elements 1
on 2
run "bench of a worker on ranks" 2 bench step deck.toml
run "bench of messages" 0 bench comm deck.toml "${halves[@]}" --repeat 2
check "all-reduce beside it" says 'all-reduce +in buckets'
grep -E '^[a-z0-9_]+ = ' "$scratch/out" >machine.toml
run "bench of sizes" 0 bench comm --elements 0.01 0.1 --bucket-mb 0.125 --repeat 2 --json
check "one JSON object" one_object "$scratch/out"
check "ranks" test "$(value ranks "$scratch/out")" = 2
on 1
run "plan on the machine that was measured" 0 plan deck.toml --ranks 2 --machine machine.toml --json
check "its name" test "$(value machine "$scratch/out")" = "2 ranks, 2 on a node"
check "nothing else is written" same "$before" "$(rm machine.toml && listing)"
on 2
before=$(listing)
run "dry run" 0 train deck.toml --dry-run --json
check "one JSON object" one_object "$scratch/out"
check "ranks" test "$(value ranks "$scratch/out")" = 2
check "steps" test "$(value steps "$scratch/out")" = 40
check "nothing is written" unchanged "$before"

run "train" 0 train deck.toml
check "closing table" says '^run finished'
tiny=runs/tiny
metrics=$tiny/metrics.jsonl
saved=$tiny/checkpoints/step-00000040.h5
for file in config.toml metrics.jsonl summary.json checkpoints/latest; do
  check "output" test -s $tiny/$file
done
check "the last two checkpoints" \
  test "$(cd $tiny/checkpoints && echo *.h5)" = "step-00000030.h5 step-00000040.h5"
check "latest" test "$(cat $tiny/checkpoints/latest)" = step-00000040.h5
check "train records" test "$(records train step $metrics | xargs)" = "5 10 15 20 25 30 35 40"
check "tokens" test "$(records train tokens $metrics | tail -n 1)" = $((40 * 8 * 32))
check "eval records" test "$(records eval step $metrics | xargs)" = "20 40"
check "checkpoint records" test "$(records checkpoint step $metrics | xargs)" = "10 20 30 40"
check "their path" test "$(records checkpoint path $metrics | tail -n 1)" = $saved
while read -r line; do
  check "a record a line" one_object - <<<"$line"
done <$metrics
check "it learns" below "$(records train loss $metrics | tail -n 1)" 4.5
check "from chance, ln 300" below 4.5 "$(records train loss $metrics | head -n 1)"
loss=$(records eval val_loss $metrics | tail -n 1)
check "summary: one JSON object" one_object $tiny/summary.json
check "summary: steps" test "$(value steps $tiny/summary.json)" = 40
check "summary: val_loss" same "$(value val_loss $tiny/summary.json)" "$loss"

before=$(listing)
run "train again" 0 train deck.toml
check "it is finished" says 'has done its 40 steps already'
check "nothing changes" unchanged "$before"
run "train the resolved deck" 0 train $tiny/config.toml
check "it is the same run" says 'has done its 40 steps already'
check "nothing changes" unchanged "$before"

# ---- a run that is stopped and continued ----
# Without decay the updates do not depend on the number of steps, so that a run of any length is the
# reference.
stopped=runs/stopped
overrides=(schedule.kind=constant train.log_every=1 train.eval_every=0 checkpoint.every_steps=0)
name="a signal"
begin train deck.toml "${overrides[@]}" run.out_dir=$stopped train.steps=1000000
check "it starts" wait_until grep -qs '"step":3,' $stopped/metrics.jsonl
kill -USR1 $launched
finish
judge 75
step=$(records checkpoint step $stopped/metrics.jsonl)
check "one checkpoint, at the last step" \
  same "$step" "$(records train step $stopped/metrics.jsonl | tail -n 1)"
check "it says where" says "stopped after step $step of 1000000"
check "latest" test "$(cat $stopped/checkpoints/latest)" = "$(printf 'step-%08d.h5' "$step")"
check "no summary" absent $stopped/summary.json

steps=$((step + 10))
run "go on" 0 train deck.toml "${overrides[@]}" run.out_dir=$stopped train.steps=$steps
check "it says so" says "continued after step $step"
check "every step once" test "$(records train step $stopped/metrics.jsonl)" = "$(seq $steps)"
check "summary" test "$(value steps $stopped/summary.json)" = $steps
run "without a stop" 0 train deck.toml "${overrides[@]}" run.out_dir=runs/whole train.steps=$steps
for key in loss grad_norm samples; do
  check "the same $key at every step" same "$(records train $key $stopped/metrics.jsonl)" \
    "$(records train $key runs/whole/metrics.jsonl)"
done
check "the same val_loss" \
  same "$(value val_loss $stopped/summary.json)" "$(value val_loss runs/whole/summary.json)"

# ---- a run of which a rank stands still ----
name="a rank that stands still"
limit=20
begin train deck.toml "${overrides[@]}" run.out_dir=runs/still train.steps=1000000 \
  system.watchdog_seconds=2
check "it starts" wait_until grep -qs '"step":3,' runs/still/metrics.jsonl
read -r rank _ <<<"$(ranks_here)"
check "a rank to stop" kill -STOP "$rank"
finish
check "code 5, not $code" test $code = 5
check "it says why" complains '^sdp: error: .* for 2 s'
check "no rank stays behind" wait_until no_ranks_here
check "no result" test -z "$(result_files runs/still)"
limit=60

# ---- a run that diverges ----
run "a learning rate past all bounds" 4 train deck.toml run.out_dir=runs/diverged \
  optimizer.lr=1e300 checkpoint.every_steps=0
check "it says why" complains '^sdp: error: .*not finite.*train.max_nonfinite'
check "no result" test -z "$(result_files runs/diverged)"

# ---- the model of a run ----
on 4
run "evaluate on four ranks" 0 eval deck.toml --checkpoint $saved --json
check "one JSON object" one_object "$scratch/out"
check "the loss of the run" near "$(value val_loss "$scratch/out")" "$loss" 1e-6
on 1
run "evaluate" 0 eval deck.toml --checkpoint $saved --json
check "one JSON object" one_object "$scratch/out"
alone=$(value val_loss "$scratch/out")
check "the loss of the run" near "$alone" "$loss" 1e-6
check "targets" test "$(value targets "$scratch/out")" = $((32 * $(value samples "$scratch/out")))
check "perplexity" near "$(value perplexity "$scratch/out")" \
  "$(awk -v loss="$alone" 'BEGIN { print exp(loss) }')" 1e-4
run "evaluate for a reader" 0 eval deck.toml --checkpoint $saved
check "the loss" says "^validation loss $(printf %.6f "$alone") "

run "info" 0 info $saved --json
check "one JSON object" one_object "$scratch/out"
for pair in kind:llama step:40 vocab_size:300 num_kv_heads:2 has_deck:true tokens:10240; do
  check "${pair%:*}" test "$(value "${pair%:*}" "$scratch/out")" = "${pair#*:}"
done
run "info for a reader" 0 info $saved
check "step" says '^step +40$'

run "export" 0 export $saved --out exported
check "a Hugging Face folder" test "$(cd exported && echo *)" = "config.json model.safetensors"
check "config.json" one_object exported/config.json
check "its sizes" test "$(value num_hidden_layers exported/config.json)" = 2
run "evaluate the export" 0 eval deck.toml --checkpoint exported --json
check "the same loss" same "$(value val_loss "$scratch/out")" "$alone"
run "import" 0 import exported --out imported.h5
run "evaluate the import" 0 eval deck.toml --checkpoint imported.h5 --json
check "the same loss" same "$(value val_loss "$scratch/out")" "$alone"
run "export bf16" 0 export $saved --out half --dtype bf16
check "half the size" near "$(stat -c %s half/model.safetensors)" \
  $(($(stat -c %s exported/model.safetensors) / 2)) 0.05
run "evaluate bf16" 0 eval deck.toml --checkpoint half --json
check "nearly the loss" near "$(value val_loss "$scratch/out")" "$alone" 0.01
check "but not the same" test "$(value val_loss "$scratch/out")" != "$alone"

for try in 1 2 3; do
  run "sample" 0 sample --checkpoint $saved --tokenizer words.model --prompt "The old house" \
    --tokens 40 --seed $((try / 3))
  cp "$scratch/out" sample$try
  check "it begins with the prompt" test "$(head -c 13 sample$try)" = "The old house"
  check "and goes on" test "$(wc -c <sample$try)" -gt 30
done
check "one seed, one text" cmp sample1 sample2
check "another seed, another text" differ sample1 sample3

echo "$passed passed, $failed failed in $SECONDS s"
((failed == 0 && passed > 0))
