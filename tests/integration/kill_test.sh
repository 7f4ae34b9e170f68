#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs that are killed with SIGKILL and started again until they are done: a random rank or all of
# them, at random moments and in the middle of a save. Every start must continue from a valid
# checkpoint, and the run must end with the files of one that nobody disturbed.
#
#   kill_test.sh SDP KILLS SEED LAUNCHER...
#
# SEED 0 chooses one; it is printed. The word RANKS in LAUNCHER stands for the number of ranks. Needs
# nothing but a shell, awk and the core utilities.
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$here/script_start.sh" kill "${1:-}" "${@:4}"
source "$here/batch_check.sh"
kills=$2
seed=$3
((seed > 0)) || seed=$((SRANDOM % 32767 + 1))
RANDOM=$seed
echo "seed $seed"

tokens data/train.bin 200
tokens data/val.bin 20
steps=60
batch_deck $steps >deck.toml

# How the runs differ: ranks, then overrides. What this program does not have is left out.
common="checkpoint.every_steps=2 train.eval_every=20"
masked="sdp.coverage=0.5 sdp.subnetworks=2"
variants=(
  "4 sdp.regime=none"
  "4 $masked sdp.regime=forward sdp.level=neuron optimizer.sharding=holders"
  "2 $masked sdp.regime=backward sdp.level=block sdp.remask_every=7 optimizer.kind=sgd"
  "3 sdp.regime=none optimizer.sharding=holders train.global_batch=9 checkpoint.files=2"
  "4 $masked sdp.regime=forward sdp.level=block sdp.remask_every=9 checkpoint.async=true"
  "2 $masked sdp.regime=backward sdp.level=neuron optimizer.sharding=holders checkpoint.files=2
     checkpoint.async=true"
)

# choose NUMBER: launcher and overrides of a variant.
choose() {
  local words
  read -r -d '' -a words <<<"${variants[$1]}"
  on "${words[0]}"
  read -r -a overrides <<<"$common"
  overrides+=("${words[@]:1}")
  local -a kept=()
  local word
  for word in "${overrides[@]}"; do
    case $word in
    checkpoint.files=* | checkpoint.async=*)
      "$sdp" train deck.toml --dry-run "$word" >/dev/null 2>&1 </dev/null && kept+=("$word")
      ;;
    *) kept+=("$word") ;;
    esac
  done
  overrides=("${kept[@]}")
}

# pause MILLISECONDS
pause() { sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"; }
now() { echo $(($(date +%s%N) / 1000000)); }

# in_a_save: a file of a checkpoint is being written.
in_a_save() { compgen -G "$folder/*tmp*" >/dev/null; }

# kill_somebody MILLISECONDS: waits for about that long, in half of the cases then for a save to
# begin, and kills a rank, or all of them together with their launcher. False where the run was over.
kill_somebody() {
  local ranks victim end
  pause $((RANDOM % $1))
  how="at a random moment"
  if ((RANDOM % 2)); then
    how="in a save"
    end=$((SECONDS + 5))
    until in_a_save || ended "$launched" || ((SECONDS >= end)); do :; done
  fi
  read -r -a ranks <<<"$(ranks_here)"
  ((${#ranks[@]} > 0)) && ! ended "$launched" || return 1
  if ((RANDOM % 3)); then
    victim=${ranks[RANDOM % ${#ranks[@]}]}
    how="a rank of ${#ranks[@]} $how"
    kill -s KILL "$victim" 2>/dev/null || return 1
  else
    how="all of ${#ranks[@]} ranks $how"
    kill -s KILL "$launched" "${ranks[@]}" 2>/dev/null
  fi
}

# start_again, continued: the run goes on, from a checkpoint no older than `latest` said before.
before=
start_again() {
  before=$(latest_step)
  [[ -z $before ]] ||
    check "latest is a valid checkpoint" valid "$(checkpoint_of "$before")"
  begin train deck.toml "${overrides[@]}"
}
continued() {
  local from
  [[ $before == "$steps" ]] && says "has done its $steps steps already" && return
  from=$(sed -nE 's/.*\(continued after step ([0-9]+)\).*/\1/p' "$scratch/out")
  [[ -z $before ]] || check "it continues from $before, not '$from'" test "${from:-0}" -ge "$before"
  check "no checkpoint is passed over" test -z "$(grep 'passed over' "$scratch/err")"
}

# same_as_reference: the files of the run are those of the undisturbed one.
same_as_reference() {
  local final key
  final=$(checkpoint_of $steps)
  for file in "$reference"/run/checkpoints/*"$steps"*; do
    check "the bytes of ${file##*/}" diff -rq "$file" "$folder/${file##*/}"
  done
  check "the last checkpoint" test -s "$final"
  check "every update once" test "$(records train step $metrics)" = "$(seq $steps)"
  check "every evaluation once" test "$(steps_of eval)" = "20 40 60"
  for key in loss grad_norm samples; do
    check "the same $key" \
      same "$(records train $key $metrics)" "$(records train $key "$reference/$metrics")"
  done
  check "nothing half-written" test -z "$(compgen -G "$folder/*tmp*")"
}

declare -A durations
done_kills=0
for ((trial = 0; done_kills < kills; trial++)); do
  variant=$((trial % ${#variants[@]}))
  choose $variant
  reference=$scratch/reference$variant
  if [[ ! -d $reference ]]; then
    mkdir "$reference"
    ln -s "$work/data" "$work/deck.toml" "$reference"
    cd "$reference" || exit 2
    began=$(now)
    run "undisturbed, variant $variant" 0 train deck.toml "${overrides[@]}"
    durations[$variant]=$(($(now) - began))
    cd "$work" || exit 2
  fi
  rm -rf run
  name="variant $variant, trial $trial"
  told=$name
  before=
  begin train deck.toml "${overrides[@]}"
  while ((done_kills < kills)) && kill_somebody "${durations[$variant]}"; do
    done_kills=$((done_kills + 1))
    told+="; $how"
    name=$told
    finish
    check "it ends, not with $code" test $code != 0 -a $code != 75
    check "no rank stays behind" wait_until no_ranks_here
    told+=" (step $(latest_step))"
    start_again
    ((RANDOM % 3)) && break
  done
  finish
  name=$told
  judge 0
  continued
  same_as_reference
  echo "$told"
done

echo "$done_kills kills; $passed passed, $failed failed in $SECONDS s"
((failed == 0 && passed > 0))
