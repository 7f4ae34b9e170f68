#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A run in the life of a batch job, from the outside: signals at any moment, limits of time, ranks that
# die or stand still, training that diverges.
#
#   batch_test.sh SDP LAUNCHER...
#
# The word RANKS in LAUNCHER stands for the number of ranks. BATCH_ONLY=text runs the parts whose
# name contains the text. Needs nothing but a shell, awk and the core utilities.
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$here/script_start.sh" batch "$@"
source "$here/batch_check.sh"
tokens data/train.bin 200
tokens data/val.bin 400
batch_deck 1000000 >deck.toml

# part NAME: a clean folder for a part of the test; false where it is not asked for.
part() {
  name=$1
  rm -rf run
  [[ $1 == *"${BATCH_ONLY:-}"* ]]
}

# stopped [STEP]: the program has ended with 75 after one checkpoint, of the last update.
stopped() {
  judge 75
  local last
  last=$(records train step $metrics | tail -n 1)
  check "a checkpoint of the last update" same "$(latest_step)" "$last"
  check "its record" record_of checkpoint "$last"
  check "it says so" says "stopped after step $last of"
  check "no summary" absent run/summary.json
  (($# == 0)) || check "after update $1" test "$last" = "$1"
}

# ---- signals ----
# The deck is a pipe, so that the program is still reading it when the signal comes.
if part "a signal during the start"; then
  on 1
  mkfifo pipe.toml
  for signal in USR1 USR2 TERM INT; do
    rm -rf run
    begin train pipe.toml
    exec 3>pipe.toml
    kill -s $signal $launched
    cat deck.toml >&3
    exec 3>&-
    finish
    name="SIG$signal during the start"
    stopped 1
  done
fi

if part "a second SIGTERM"; then
  on 1
  [[ -p pipe.toml ]] || mkfifo pipe.toml
  begin train pipe.toml
  exec 3>pipe.toml
  kill -s TERM $launched
  sleep 1
  kill -s TERM $launched
  kill -s INT $launched
  sleep 0.3
  check "repeated within two seconds it changes nothing" kill -0 $launched
  kill -s USR1 $launched
  sleep 0.9
  kill -s USR2 $launched
  check "neither does another signal" kill -0 $launched
  began=$SECONDS
  kill -s INT $launched
  finish
  exec 3>&-
  check "two seconds later it ends the process, not with $code" test $code = 130
  check "at once" test $((SECONDS - began)) -le 1
fi

if part "repeated signals through the launcher, and checkpoints by seconds"; then
  on 2
  begin train deck.toml checkpoint.every_seconds=1 checkpoint.async=true checkpoint.files=2
  two_checkpoints() { (($(records checkpoint step $metrics 2>/dev/null | wc -l) >= 2)); }
  check "checkpoints come by the clock" wait_until two_checkpoints
  for ((i = 0; i < 20; i++)); do
    kill -s USR1 $launched
    kill -s USR2 $launched
  done
  finish
  stopped
  check "every update once" test "$(records train step $metrics)" = "$(seq "$(latest_step)")"
  check "every checkpoint once" \
    test "$(records checkpoint step $metrics)" = "$(records checkpoint step $metrics | sort -nu)"
fi

# Evaluation of the whole validation set takes many times longer than everything else here.
for regime in none forward; do
  if part "a signal during an evaluation, regime $regime"; then
    on 2
    halves=("sdp.regime=$regime" sdp.coverage=0.5 sdp.level=neuron)
    [[ $regime == none ]] && halves=()
    for ((i = 0; i < 40; i++)); do cp data/val.bin data/long$i.bin; done
    begin train deck.toml "${halves[@]}" train.eval_every=3 train.eval_batches=0 \
      'data.val=["data/long*.bin"]'
    check "it comes to the evaluation" wait_until record_of train 3
    sleep 0.2
    check "which takes its time" test -z "$(records eval step $metrics)"
    began=$SECONDS
    kill -s USR1 $launched
    finish
    stopped 3
    check "without waiting for it" test $((SECONDS - began)) -le 5
    check "no evaluation" test -z "$(records eval step $metrics)"
    run "$name: go on" 0 train deck.toml "${halves[@]}" train.eval_every=3 train.steps=6
    check "what was left out is made up for" test "$(steps_of eval)" = "3 6"
    check "every update once" test "$(steps_of train)" = "1 2 3 4 5 6"
    losses=$(records train loss $metrics)
    evaluations=$(records eval val_loss $metrics)
    rm -rf run data/long*.bin
    run "$name: without a stop" 0 train deck.toml "${halves[@]}" train.eval_every=3 train.steps=6
    check "the same losses" same "$losses" "$(records train loss $metrics)"
    check "the same evaluations" same "$evaluations" "$(records eval val_loss $metrics)"
  fi
done

if part "a limit of time"; then
  on 2
  began=$SECONDS
  begin train deck.toml system.max_walltime=3
  finish
  stopped
  check "in time" test $((SECONDS - began)) -le 10
fi

if part "what the ranks of a stopped run leave with"; then
  on 2
  "${launch[@]}" bash -c '"$0" train deck.toml system.max_walltime=1 >out.$OMPI_COMM_WORLD_RANK 2>&1
    code=$?; echo $code >code.$OMPI_COMM_WORLD_RANK; exit $code' "$sdp" >"$scratch/out" 2>"$scratch/err"
  code=$?
  cat out.0 >>"$scratch/out"
  stopped
  check "rank 0 speaks" test "$(cat code.0)" = 75
  check "for all" test "$(cat code.1)" = 0
fi

# ---- ranks that die or stand still ----
if part "a rank that dies"; then
  on 4
  begin train deck.toml
  check "it starts" wait_until record_of train 3
  read -r -a ranks <<<"$(ranks_here)"
  check "four ranks" test ${#ranks[@]} = 4
  began=$(date +%s%N)
  kill -s KILL "${ranks[2]}"
  finish
  took=$((($(date +%s%N) - began) / 1000000))
  check "the job ends, not with $code" test $code != 0
  check "within 10 s ($took ms)" test $took -lt 10000
  check "no rank stays behind" wait_until no_ranks_here
  echo "a job of 4 ranks ends $took ms after one of them died"
fi

if part "a rank that stands still"; then
  on 4
  begin train deck.toml system.watchdog_seconds=2
  check "it starts" wait_until record_of train 3
  rank_two=
  for process in $(ranks_here); do
    tr '\0' '\n' <"/proc/$process/environ" | grep -qx 'OMPI_COMM_WORLD_RANK=2' && rank_two=$process
  done
  began=$SECONDS
  check "a rank to stop" kill -s STOP "$rank_two"
  finish
  check "code 5, not $code" test $code = 5
  check "in time" test $((SECONDS - began)) -le 8
  for rank in 0 1 3; do
    check "rank $rank reports" complains \
      "^sdp: error: rank $rank: no progress for 2 s in step [0-9]+, phase \"[a-z ]+\"; "
  done
  check "a peer is named" complains 'waits for .*(ranks? .*2|all ranks in MPI_)'
  check "no rank stays behind" wait_until no_ranks_here
fi

# ---- training that diverges ----
if part "a run that diverges"; then
  on 2
  run "$name: a good part" 0 train deck.toml train.steps=6 checkpoint.every_steps=1
  rm run/summary.json
  run "$name: past all bounds" 4 train deck.toml train.steps=40 checkpoint.every_steps=1 \
    optimizer.lr=1e39
  check "it says why" complains '^sdp: error: .*not finite'
  check "the last good checkpoint is the latest" test "$(latest_step)" = 6
  for file in "$folder"/*.h5; do
    check "all are sound" valid "$file"
  done
  run "$name: go on" 0 train deck.toml train.steps=9
  losses=$(records train loss $metrics)
  rm -rf run
  run "$name: without that" 0 train deck.toml train.steps=9
  check "the same losses" same "$losses" "$(records train loss $metrics)"
fi

if part "updates that are not finite"; then
  on 2
  # Gradients of all ranks overflow; nothing is ever updated.
  run "$name" 4 train deck.toml train.max_nonfinite=4 train.steps=40 model.init_std=1e30 \
    checkpoint.every_steps=1
  check "each is said" test "$(grep -c 'update skipped' "$scratch/err")" = 4
  check "and counted" test "$(records train skipped $metrics | xargs)" = "1 2 3 4"
  check "it says why" complains '^sdp: error: .*4 updates in a row.*train.max_nonfinite'
fi

echo "$passed passed, $failed failed in $SECONDS s"
((failed == 0 && passed > 0))
