#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Bad input, from the outside: for each fault the exit code, one sentence on standard error with the
# words that matter, no file touched, no hang.
#
#   bad_input_test.sh SDP DAMAGE RANKS LAUNCHER...
#
# SDP is the program, DAMAGE the one that damages checkpoints; RANKS is 1 (started without a
# launcher) or more (LAUNCHER... SDP ...). BAD_INPUT_ONLY=text runs the cases whose name contains the
# text. Needs nothing but a shell and the core utilities; every input is made here.
set -u
export LC_ALL=C

if (($# < 3)); then
  echo "usage: bad_input_test.sh SDP DAMAGE RANKS LAUNCHER..." >&2
  exit 2
fi
sdp=$(realpath -- "$1") || exit 2
damage=$(realpath -- "$2") || exit 2
ranks=$3
shift 3
launch=()
if ((ranks > 1)); then
  launch=("$@")
  # Without --quiet Open MPI 4 adds a banner of its own to any non-zero exit code; `start` takes away
  # that of Open MPI 5, which has no such option.
  "$1" --version 2>&1 | grep -qE '(Open MPI|OpenRTE)\)? [1-4]\.' && launch+=(--quiet)
fi

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/sdp_bad_input.XXXXXX") || exit 2
trap 'chmod -R u+rwx "$scratch"; rm -rf -- "$scratch"' EXIT
work=$scratch/work
mkdir -p "$work/data"
cd "$work" || exit 2

passed=0
failed=0
unchecked=0

source "$here/bad_input_files.sh"
source "$here/bad_input_check.sh"
make_inputs
source "$here/bad_input_cases.sh"
source "$here/damaged_checkpoint_cases.sh"
source "$here/bad_image_cases.sh"

echo "$passed passed, $failed failed, $unchecked not checked on $ranks rank(s)"
((failed == 0 && passed > 0))
