#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh Debian or Ubuntu machine to a LLaMA trained twice, densely and with subnetworks at
# equal FLOPs, in under ten minutes on two cores.
#
#   bash inputs/quickstart.sh [OPTIONS]
#
#   --text FILE_OR_FOLDER  your own text instead of documentation prose: a text file, JSONL with a
#                          field `text`, gzip or zstd of either, or a folder of them
#   --steps N              updates of the dense run, instead of the deck's
#   --vocab-size V         pieces of the tokenizer (1024)
#   --prompt TEXT          what the sample continues
#
# Installs missing packages, builds, prepares English text, trains a tokenizer, trains both models
# on four ranks, compares loss, memory and messages, draws the losses, evaluates on held-out text and
# prints a sample. Works from any folder and may be repeated: build, text and tokens are kept, every
# start gets a folder of its own. All that it writes is under build/, data/ and runs/ of the
# checkout.
set -euo pipefail

usage() { sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
refuse() { echo "quickstart.sh: $1 (--help lists the options)" >&2; exit 2; }
text='' steps='' vocab=1024 prompt=''
ranks=4  # the deck has four subnetworks
while (($# > 0)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --text | --steps | --vocab-size | --prompt)
      if (($# < 2)) || [[ -z $2 ]]; then refuse "$1 needs a value"; fi
      case $1 in
        --text) text=$2 ;;
        --prompt) prompt=$2 ;;
        *) if [[ ! $2 =~ ^[1-9][0-9]{0,8}$ ]]; then refuse "$1 $2: a whole number is expected"; fi
           case $1 in --steps) steps=$2 ;; *) vocab=$2 ;; esac ;;
      esac
      shift 2 ;;
    *) refuse "unknown option $1" ;;
  esac
done
if [[ -n $text ]]; then
  if [[ ! -r $text ]]; then refuse "--text $text: no file or folder that can be read"; fi
  text=$(readlink -f "$text")
  bytes=$(find "$text" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }')
  if ((bytes < 50000)); then
    refuse "--text $text: $bytes bytes are too little to train on, at least 50,000 are wanted"
  fi
elif [[ -z $prompt ]]; then
  prompt='The function returns'
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=10 number=0 began=$SECONDS step_began=$SECONDS
step() {
  number=$((number + 1)) step_began=$SECONDS
  printf '\n[%d/%d] %s\n' "$number" "$count" "$1"
}
done_in() { printf '      %s s\n' $((SECONDS - step_began)); }

step "Packages"
bash inputs/install_dependencies.sh --plot
done_in

step "Build (build/quickstart)"
log=build/quickstart/build.log
mkdir -p build/quickstart
build() {
  cmake -S . -B build/quickstart -G Ninja -DCMAKE_BUILD_TYPE=Release -DSDP_BUILD_TESTS=OFF &&
    cmake --build build/quickstart --target sdp
}
show_build() {  # the file that is compiled, on one line of a terminal
  while IFS= read -r line; do
    if [[ -t 1 && $line == \[* ]]; then printf '\r\033[K      %.70s' "$line"; fi
  done
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
}
if [[ ! -x build/quickstart/bin/sdp ]]; then
  echo "      two to three minutes on two cores; output in $log"
fi
if ! build 2>&1 | tee "$log" | show_build; then
  tail -n 25 "$log" >&2
  echo "The build failed; all of its output is in $log" >&2
  exit 1
fi
sdp=build/quickstart/bin/sdp
"$sdp" --version | sed 's/^/      /'
done_in

step "Text"
if [[ -z $text ]]; then
  set=data/quickstart
  bash inputs/prepare_text.sh "$set" | sed 's/^/      /'
  source=$set/text
else
  # A folder a text: another name, size or date of any file makes another one.
  set=data/text-$(find "$text" -type f -printf '%p %s %T@\n' | LC_ALL=C sort | cksum | cut -d' ' -f1)
  source=$text
  mkdir -p "$set"
  echo "      $source"
fi
done_in

step "Tokenizer of $vocab pieces, and token shards"
if [[ $vocab != 1024 ]]; then
  set=$set/vocabulary-$vocab
fi
mkdir -p "$set"
tokenizer=$set/tokenizer.model
if [[ ! -f $set/tokens.done ]]; then
  rm -f "$set"/text_train_*.bin "$set"/text_val_*.bin "$set"/tokenizer.*
  "$sdp" tokenize --train-model "$tokenizer" --vocab-size "$vocab" --jsonl-field text \
    "$source" | sed 's/^/      /'
  "$sdp" tokenize --model "$tokenizer" --out "$set/text" --val-fraction 0.05 \
    --jsonl-field text "$source" | sed 's/^/      /'
  touch "$set/tokens.done"
else
  echo "      kept from before: $set"
fi
done_in

source inputs/mpi_environment.sh
# A failed rank has said why; the launcher would add a page.
export OMPI_MCA_orte_execute_quiet=1 PRTE_MCA_prte_execute_quiet=1
mkdir -p runs
run=1
while ! mkdir "runs/quickstart-$(printf %02d "$run")" 2>/dev/null; do run=$((run + 1)); done
out=runs/quickstart-$(printf %02d "$run")
trap 'rmdir "$out" 2>/dev/null || true' EXIT  # of a run that did not start
options=("data.train=[\"$set/text_train_*.bin\"]" "data.val=[\"$set/text_val_*.bin\"]"
         "data.tokenizer=$tokenizer" "model.vocab_size=$vocab")
if [[ -n $steps ]]; then
  options+=("train.steps=$steps" "train.eval_every=$(((steps + 4) / 5))"
            "schedule.warmup_steps=$((steps / 20))")
fi
train() {  # name of the run, further overrides
  "$SDP_MPIRUN" -n "$ranks" "$sdp" train inputs/llama-quickstart.toml "${options[@]}" \
    "run.name=$1" "run.out_dir=$out/$1" "${@:2}" || {
    status=$?
    echo "Training ended with code $status" >&2
    exit "$status"
  }
}
step "Training the whole model on each of $ranks ranks ($out/dense)"
train dense sdp.regime=none
done_in

step "Training a subnetwork on each of $ranks ranks, at equal FLOPs ($out/subnetworks)"
train subnetworks
done_in

step "Comparison"
"$sdp" compare "$out/dense" "$out/subnetworks" | tee "$out/comparison.txt" | sed 's/^/      /'
done_in

step "Loss curves"
bash inputs/plot_losses.sh "$out/loss.png" "$out/dense" "$out/subnetworks" | sed 's/^/      /'
done_in

checkpoint=$out/subnetworks/checkpoints/$(<"$out/subnetworks/checkpoints/latest")
step "The merged model on all of the held-out text"
"$SDP_MPIRUN" -n 2 "$sdp" eval "$out/subnetworks/config.toml" --checkpoint "$checkpoint" \
  train.eval_batches=0 | sed 's/^/      /'
done_in

step "Sample of the merged model"
"$sdp" sample --checkpoint "$checkpoint" --tokenizer "$tokenizer" --prompt "$prompt" --tokens 160 \
  --temperature 0.7 --top-k 50 --seed 1
done_in

cat <<SUMMARY

Done in $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s.
  comparison    $PWD/$out/comparison.txt
  loss curves   $PWD/$out/loss.png
  metrics       $PWD/$out/{dense,subnetworks}/metrics.jsonl, summary.json, plan.json
  checkpoint    $PWD/$checkpoint
  tokenizer     $PWD/$tokenizer
  program       $PWD/$sdp  (--help lists its commands)
  deck          $PWD/inputs/llama-quickstart.toml  (inputs/reference.toml explains every key)
From $PWD:
  other subnetworks  $SDP_MPIRUN -n 4 $sdp train $out/subnetworks/config.toml run.out_dir=runs/mine sdp.level=neuron
  another prompt     $sdp sample --checkpoint $checkpoint --tokenizer $tokenizer --prompt "TEXT"
  your own text      bash inputs/quickstart.sh --text FILE_OR_FOLDER
SUMMARY
