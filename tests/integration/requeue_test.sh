#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The job scripts for Slurm and PBS, with commands of the batch systems that are played by this script
# and start the real program: a job that is stopped before its time is over comes back and continues,
# a job that fails does not.
#
#   requeue_test.sh SDP LAUNCHER...
#
# The word RANKS in LAUNCHER stands for the number of ranks. Needs nothing but a shell, awk and the
# core utilities.
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$here/script_start.sh" requeue "$@"
source "$here/batch_check.sh"
mkdir "$scratch/bin"
tokens data/train.bin 50
tokens data/val.bin 20
batch_deck 1000000 >deck.toml
on 2

# ---- the batch systems ----
# A command of theirs is a file in $scratch/bin, which the jobs find first. Jobs are numbered; the
# file $scratch/again says that the queue has one more.
export SCRATCH=$scratch SDP=$sdp PATH="$scratch/bin:$PATH"
printf '%s\n' "${launch[@]}" >"$scratch/launch"
command_file() {
  { printf '#!/usr/bin/env bash\n' && cat; } >"$scratch/bin/$1"
  chmod +x "$scratch/bin/$1"
}
# srun: notes its options and starts the program on two ranks.
command_file srun <<'SH'
while [[ $1 == -* ]]; do
  echo "$1" >>"$SCRATCH/srun_options"
  shift
done
mapfile -t launch <"$SCRATCH/launch"
for name in "${!SLURM_@}"; do unset "$name"; done
exec "${launch[@]}" "$@"
SH
command_file scontrol <<'SH'
echo "$*" >>"$SCRATCH/scontrol_calls"
[[ ! -e $SCRATCH/no_requeue ]] && echo again >"$SCRATCH/again"
SH
# qsub -v LIST SCRIPT: keeps the job for later.
command_file qsub <<'SH'
[[ $1 == -v && $# == 3 ]] || exit 2
echo "$2" >"$SCRATCH/job_variables"
cp "$3" "$SCRATCH/job_script"
echo again >"$SCRATCH/again"
echo "$((++count)).server"
SH
command_file qstat <<'SH'
[[ $1 == -f && $2 == "$PBS_JOBID" ]] || exit 2
printf 'Job Id: %s\n    Job_Name = sdp\n    Resource_List.ncpus = 32\n' "$2"
[[ -e $SCRATCH/no_walltime ]] || printf '    Resource_List.walltime = %s\n' "$(cat "$SCRATCH/walltime")"
printf '    resources_used.walltime = 00:00:00\n'
SH

# slurm_job ARGUMENTS...: what sbatch does with a job that its script is run for, in the background.
# Like Slurm it runs a copy of the script.
slurm_job() {
  local script=$inputs/slurm/train.sbatch
  cp "$script" "$scratch/job_script"
  env SLURM_JOB_ID=77 SLURM_NTASKS=2 SLURM_PROCID=0 SLURM_CPUS_PER_TASK=1 \
    bash "$scratch/job_script" "$@" >>"$scratch/out" 2>>"$scratch/err" </dev/null &
  launched=$!
}
# pbs_job: runs the job that qsub keeps.
pbs_job() {
  local list=() name
  IFS=, read -ra list <"$scratch/job_variables"
  printf 'node\nnode\n' >"$scratch/nodes"
  (
    cd / || exit 2
    exec env PBS_JOBID=5.server PBS_O_WORKDIR="$work" PBS_NODEFILE="$scratch/nodes" \
      SDP_LAUNCH="$(tr '\n' ' ' <"$scratch/launch")" "${list[@]}" \
      bash "$scratch/job_script" >>"$scratch/out" 2>>"$scratch/err" </dev/null
  ) &
  launched=$!
}
# queued: whether the job is to run again; it is asked for once.
queued() { [[ -e $scratch/again ]] && rm "$scratch/again"; }
fresh() {
  rm -rf run
  rm -f "$scratch"/{again,srun_options,scontrol_calls,no_requeue,no_walltime}
  : >"$scratch/out"
  : >"$scratch/err"
}

# losses_of STEPS: of a run that nobody stopped.
losses_of() {
  rm -rf "$scratch/whole"
  mkdir "$scratch/whole"
  ln -s "$work/data" "$work/deck.toml" "$scratch/whole"
  (cd "$scratch/whole" && "${launch[@]}" "$sdp" train deck.toml train.steps="$1" >/dev/null 2>&1)
  records train loss "$scratch/whole/$metrics"
}
every_update_as_if_undisturbed() {
  check "every update once" test "$(records train step $metrics)" = "$(seq "$1")"
  check "as if nobody had stopped it" \
    same "$(records train loss $metrics)" "$(losses_of "$1")"
}

# ---- Slurm ----
for line in '--signal=B:USR1@[0-9]+' '--requeue' '--open-mode=append'; do
  name="directives of the Slurm script"
  check "$line" grep -qE "^#SBATCH $line$" "$inputs/slurm/train.sbatch"
done

fresh
name="Slurm: a job that is signalled before its end"
slurm_job deck.toml
check "it starts" wait_until record_of train 3
kill -s USR1 $launched
finish
check "the job ends well, not with $code" test $code = 0
check "it is requeued" test "$(cat "$scratch/scontrol_calls")" = "requeue 77"
check "tasks end together" grep -qx -- '--kill-on-bad-exit=1' "$scratch/srun_options"
step=$(latest_step)
check "a checkpoint" valid "$(checkpoint_of "$step")"
check "queued" queued
steps=$((step + 5))
slurm_job deck.toml train.steps=$steps
finish
check "it is finished, not $code" test $code = 0
check "it is not requeued" test "$(wc -l <"$scratch/scontrol_calls")" = 1
check "it continued" says "continued after step $step"
every_update_as_if_undisturbed $steps

fresh
name="Slurm: a signal while the program starts"
slurm_job deck.toml
some_ranks_here() { [[ -n $(ranks_here) ]]; }
check "it starts" wait_until some_ranks_here
kill -s USR1 $launched
finish
check "the job ends well, not with $code" test $code = 0
check "it is requeued" queued

fresh
name="Slurm: a job that cannot be requeued"
: >"$scratch/no_requeue"
slurm_job deck.toml system.max_walltime=1
finish
check "code 75, not $code" test $code = 75
check "it says so" complains 'could not be requeued'

fresh
name="Slurm: a job with a bad deck"
slurm_job deck.toml train.steps=none
finish
check "its code is passed on, not $code" test $code = 2
check "it is not requeued" absent "$scratch/again"

fresh
name="Slurm: without a job"
env -u SLURM_JOB_ID bash "$inputs/slurm/train.sbatch" deck.toml >"$scratch/out" 2>"$scratch/err"
check "usage" test $? = 2

# ---- PBS ----
fresh
name="PBS: a job with less time than it needs"
echo 00:01:02 >"$scratch/walltime"
export SDP_RESERVE=60
arguments=(deck.toml 'data.train=["data/train.bin"]' "run.name=a, \"b\" c")
bash "$inputs/pbs/train.pbs" "${arguments[@]}" >>"$scratch/out" 2>>"$scratch/err"
check "it is submitted" queued
check "it says the number" says '\.server$'
pbs_job
finish
check "the job ends well, not with $code" test $code = 0
step=$(latest_step)
check "a checkpoint" valid "$(checkpoint_of "$step")"
check "it says why" says "stopped after step $step"
check "it is submitted again" queued
check "with the same arguments" grep -qF '"a, \"b\" c"' run/config.toml
echo 10:00:00 >"$scratch/walltime"
pbs_job
check "it continues" wait_until record_of train $((step + 2))
kill -s USR1 $launched # as qsig does
finish
check "it is submitted again, $code" queued
step=$(latest_step)
every_update_as_if_undisturbed "$step"

name="PBS: a job that is deleted"
pbs_job
check "it continues" wait_until record_of train $((step + 2))
kill -s TERM $launched
finish
check "code 75, not $code" test $code = 75
check "it saves a checkpoint" test "$(latest_step)" -gt "$step"
check "it is not submitted again" absent "$scratch/again"

fresh
name="PBS: a job with a bad deck"
bash "$inputs/pbs/train.pbs" deck.toml train.steps=none >>"$scratch/out" 2>>"$scratch/err"
check "submitted" queued
pbs_job
finish
check "its code is passed on, not $code" test $code = 2
check "it is not submitted again" absent "$scratch/again"

fresh
name="PBS: a job of which the time is not known"
: >"$scratch/no_walltime"
bash "$inputs/pbs/train.pbs" deck.toml train.steps=3 >>"$scratch/out" 2>>"$scratch/err"
check "submitted" queued
pbs_job
finish
check "it runs, not $code" test $code = 0
check "and says so" complains 'will not stop by itself'

echo "$passed passed, $failed failed in $SECONDS s"
((failed == 0 && passed > 0))
