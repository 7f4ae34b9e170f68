#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The script of the GPU comparison on a host, with a program that has too little memory, does not
# answer or refuses in some of its runs: the table names each of them, and what was measured is not
# measured again.
#
#   gpu_comparison_test.sh SDP PYTHON
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1
sdp=$(realpath -- "$1")
python=$2
root=$(realpath -- "$(dirname -- "${BASH_SOURCE[0]}")/../..")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/sdp_gpu_comparison.XXXXXX")
trap 'rm -rf -- "$scratch"' EXIT
mkdir -p "$scratch/bin"

cat >"$scratch/bin/sdp" <<END
#!/usr/bin/env bash
echo "\$*" >>"$scratch/calls"
case "\$*" in
  *step*micro_batch=2*) echo "sdp: error: out of memory: there is too little" >&2; exit 2 ;;
  *step*backward*neuron*coverage=0.25*) exec sleep 600 ;;
  *step*backward*block*coverage=0.25*) echo "sdp: error: not today" >&2; exit 2 ;;
esac
exec "$sdp" "\$@"
END
chmod +x "$scratch/bin/sdp"

compare() {
  "$python" "$root/benchmarks/gpu/measure.py" --sdp "$scratch/bin/sdp" --dry-run --no-torch \
    --only steps --recompute none --limits step=20 --out "$scratch/out" "$@" >"$scratch/log" 2>&1 ||
    { cat "$scratch/log"; exit 1; }
}
failed=0
expect() {  # what, regular expression of a line of the table
  grep -qE -- "$2" "$scratch/out/table.md" && return
  echo "not in the table: $1"
  failed=1
}
runs() { grep -c '^bench step' "$scratch/calls" || true; }

compare
expect "the batch that fits" 'Micro-batch: .*2 ran out of memory; 1 fits'
expect "the dense model" '^\| dense \| 1 \| 100\.0 \| [0-9.]+ \|'
expect "a subnetwork" '^\| forward, neuron \| 0\.25 \|'
expect "a run without an answer" '^\| backward, neuron, 0\.25: no answer within 20 s'
expect "a run that was refused" '^\| backward, block, 0\.25: not today'
expect "the share of the memory" 'memory share from the plan, points \| 0\.0 \|'
first=$(runs)
compare
if (($(runs) != first)); then echo "measured once more: $(($(runs) - first)) runs"; failed=1; fi
expect "what the first call measured" '^\| forward, neuron \| 0\.25 \|'
compare --micro-batch 1 --limits step=1
if (($(runs) <= first)); then echo "other settings were not measured"; failed=1; fi
[[ $failed == 0 ]] || cat "$scratch/out/table.md"
exit "$failed"
