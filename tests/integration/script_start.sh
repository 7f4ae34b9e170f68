# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# The opening of a test that starts the program on several ranks. To be sourced with the name of the
# test, the program and the words of the launcher, of which RANKS stands for the number of ranks:
#
#   source script_start.sh NAME SDP LAUNCHER...
#
# Leaves the present folder in an empty one, $work, which disappears at the end with its processes.
set -u
export LC_ALL=C

if (($# < 3)); then
  echo "usage: ${0##*/} SDP ... LAUNCHER..." >&2
  exit 2
fi
sdp=$(realpath -- "$2") || exit 2
launcher=("${@:3}")
# Without --quiet Open MPI 4 adds a banner of its own to any non-zero exit code; `start` takes away
# that of Open MPI 5, which has no such option.
"$3" --version 2>&1 | grep -qE '(Open MPI|OpenRTE)\)? [1-4]\.' && launcher+=(--quiet)

inputs=$(realpath -- "$(dirname -- "${BASH_SOURCE[0]}")/../../inputs")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/sdp_$1.XXXXXX") || exit 2
scratch=$(realpath -- "$scratch")
work=$scratch/work

passed=0
failed=0
limit=60
tests=$(realpath -- "$(dirname -- "${BASH_SOURCE[0]}")/..")
source "$tests/integration/bad_input_files.sh"
source "$tests/integration/bad_input_check.sh"
source "$tests/cli/command_check.sh"
trap 'stop_everything; rm -rf -- "$scratch"' EXIT
mkdir -p "$work/data"
cd "$work" || exit 2
