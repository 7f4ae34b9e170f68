#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Draws training and validation loss against the step.
#
#   bash inputs/plot_metrics.sh RUN_FOLDER [PICTURE.png]
#
# Reads RUN_FOLDER/metrics.jsonl; needs gnuplot. The picture is RUN_FOLDER/loss.png unless named.
set -euo pipefail
if [[ $# -lt 1 || $# -gt 2 ]]; then
  echo "usage: bash inputs/plot_metrics.sh RUN_FOLDER [PICTURE.png]" >&2
  exit 2
fi
metrics=$1/metrics.jsonl
picture=${2:-$1/loss.png}
if [[ ! -s $metrics ]]; then
  echo "plot_metrics.sh: $metrics is missing or empty" >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

column() {  # event, field: "step value" of every line of that event that has the field
  awk -v event="\"event\":\"$1\"" -v field="\"$2\":" '
    { gsub(/[ \t]/, "") }
    index($0, event) && match($0, /"step":[0-9]+/) {
      step = substr($0, RSTART + 7, RLENGTH - 7)
      at = index($0, field)
      if (at && match(substr($0, at + length(field)), /^-?[0-9][0-9.eE+-]*/))
        print step, substr($0, at + length(field), RLENGTH)
    }' "$metrics"
}
column train loss >"$work/train"
column eval val_loss >"$work/val"
if [[ ! -s $work/train ]]; then
  echo "plot_metrics.sh: no training loss in $metrics" >&2
  exit 1
fi
# The mean of nine neighbours shows the course of a loss that jumps from batch to batch.
awk '{ step[NR] = $1; loss[NR] = $2 }
     END {
       for (i = 1; i <= NR; ++i) {
         reach = 4
         if (i - 1 < reach) reach = i - 1
         if (NR - i < reach) reach = NR - i
         sum = 0
         for (j = i - reach; j <= i + reach; ++j) sum += loss[j]
         print step[i], sum / (2 * reach + 1)
       }
     }' "$work/train" >"$work/smooth"
last_step=$(awk '$1 > last { last = $1 } END { print last }' "$work/train" "$work/val")
curves="'$work/train' with lines lw 1 lc rgb '#c3d7ec' title 'training loss, one batch'"
curves+=", '$work/smooth' with lines lw 2.2 lc rgb '#3f77b0' title 'training loss, running mean'"
if [[ -s $work/val ]]; then
  last=$(awk 'END { printf "%.3f", $2 }' "$work/val")
  curves+=", '$work/val' with linespoints lw 2.2 pt 7 ps 1.1 lc rgb '#c8452f'"
  curves+=" title 'validation loss (last $last)'"
fi
gnuplot <<GNUPLOT
set terminal pngcairo size 1200,720 font "DejaVu Sans,13" background rgb "white"
set output "$picture"
set title "Training and held-out loss: $(basename "$1")" font ",16"
set xlabel "update"
set ylabel "loss (nats per token)"
set border 3 lc rgb "#555555"
set tics nomirror out textcolor rgb "#333333"
set grid ytics xtics lt 1 lc rgb "#e4e4e4" lw 1
set key top right spacing 1.3 samplen 2.5
set xrange [0:$last_step]
set offsets 0, 0, graph 0.03, graph 0.03
plot $curves
GNUPLOT
echo "$picture"
