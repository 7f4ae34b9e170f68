#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Draws the losses of one or more runs against the FLOPs that a rank has spent.
#
#   bash inputs/plot_losses.sh PICTURE.png RUN_FOLDER...
#
# Reads metrics.jsonl and summary.json of each run; needs gnuplot.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: bash inputs/plot_losses.sh PICTURE.png RUN_FOLDER..." >&2
  exit 2
fi
picture=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

column() {  # file, event, field: "step value" of every line of that event that has the field
  awk -v event="\"event\":\"$2\"" -v field="\"$3\":" '
    { gsub(/[ \t]/, "") }
    index($0, event) && match($0, /"step":[0-9]+/) {
      step = substr($0, RSTART + 7, RLENGTH - 7)
      at = index($0, field)
      if (at && match(substr($0, at + length(field)), /^-?[0-9][0-9.eE+-]*/))
        print step, substr($0, at + length(field), RLENGTH)
    }' "$1"
}
flops_of_a_step() {  # summary.json: mean FLOPs of a rank in the whole run over its updates
  awk '{ gsub(/[ \t"]/, "") }
       /^steps:/ { steps = substr($0, 7) + 0 }
       /^flops_per_rank:/ { inside = 1 }
       inside && /^mean:/ { flops = substr($0, 6) + 0; inside = 0 }
       END { if (steps && flops) printf "%.9e", flops / steps }' "$1"
}

colors=('#3f77b0' '#c8452f' '#5a9a4a' '#8a5ab0' '#b08a3f' '#40a0a0')
curves='' number=0
for run in "$@"; do
  for file in metrics.jsonl summary.json; do
    if [[ ! -s $run/$file ]]; then
      echo "plot_losses.sh: $run/$file is missing or empty" >&2
      exit 1
    fi
  done
  flops=$(flops_of_a_step "$run/summary.json")
  if [[ -z $flops ]]; then
    echo "plot_losses.sh: $run/summary.json has no FLOPs of a finished run" >&2
    exit 1
  fi
  # The mean of nine neighbours shows the course of a loss that jumps from batch to batch.
  column "$run/metrics.jsonl" train loss | awk -v flops="$flops" '
    { step[NR] = $1; loss[NR] = $2 }
    END {
      for (i = 1; i <= NR; ++i) {
        reach = 4
        if (i - 1 < reach) reach = i - 1
        if (NR - i < reach) reach = NR - i
        sum = 0
        for (j = i - reach; j <= i + reach; ++j) sum += loss[j]
        print step[i] * flops * 1e-12, sum / (2 * reach + 1)
      }
    }' >"$work/train$number"
  column "$run/metrics.jsonl" eval val_loss |
    awk -v flops="$flops" '{ print $1 * flops * 1e-12, $2 }' >"$work/val$number"
  color=${colors[number % ${#colors[@]}]} name=$(basename "$run")
  curves+="${curves:+, }'$work/train$number' with lines lw 1.2 dt 3 lc rgb '$color'"
  curves+=" title '$name: training loss, running mean'"
  if [[ -s $work/val$number ]]; then
    last=$(awk 'END { printf "%.3f", $2 }' "$work/val$number")
    curves+=", '$work/val$number' with linespoints lw 2.2 pt 7 ps 1.1 lc rgb '$color'"
    curves+=" title '$name: validation loss (last $last)'"
  fi
  number=$((number + 1))
done
gnuplot <<GNUPLOT
set terminal pngcairo size 1200,720 font "DejaVu Sans,13" background rgb "white"
set output "$picture"
set title "Training and held-out loss against FLOPs" font ",16"
set xlabel "TFLOP spent by a rank, mean"
set ylabel "loss (nats per token)"
set border 3 lc rgb "#555555"
set tics nomirror out textcolor rgb "#333333"
set grid ytics xtics lt 1 lc rgb "#e4e4e4" lw 1
set key top right spacing 1.3 samplen 2.5
set xrange [0:*]
set offsets 0, 0, graph 0.03, graph 0.03
plot $curves
GNUPLOT
echo "$picture"
