# SPDX-License-Identifier: Apache-2.0
"""How long the device of a step benchmark waits between its kernels, by Nsight Systems."""

import csv

from support import attempt, first_error

ONCE_A_STEP = "clip_factor"  # a kernel of every update
STEPS, WARMUP = 6, 4


def idle_share(trace):
    """Of the time from the first to the last of the traced updates that were timed, the share in
    which the device neither computed nor copied. `trace`: cuda_gpu_trace of `nsys stats` as CSV."""
    lines = trace.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("Start (ns)")), len(lines))
    work, updates = [], []
    for row in csv.DictReader(lines[first:]):
        begin = int(row["Start (ns)"])
        work.append((begin, begin + int(row["Duration (ns)"])))
        if ONCE_A_STEP in row["Name"]:
            updates.append(begin)
    if len(updates) < STEPS:
        return {"refused": f"{len(updates)} of {STEPS} updates in the trace"}
    begin, end = sorted(updates)[-STEPS], max(updates)
    busy, until, launches = 0, begin, 0
    for start, stop in sorted(work):
        if start >= end or stop <= begin:
            continue
        launches += 1
        busy += max(0, min(stop, end) - max(start, until))
        until = max(until, stop)
    return {"share": 1 - busy / (end - begin), "launches": launches / (STEPS - 1)}


def launch_gaps(bench, trace, seconds, nsys):
    """idle_share of `bench`, or {"refused": why}. Tracing makes launches slower, so that without it
    the share is smaller."""
    for command in (
            [nsys, "profile", "--trace=cuda", "--sample=none", "--cpuctxsw=none",
             "--force-overwrite=true", f"--output={trace}", *bench, "--steps", STEPS, "--warmup",
             WARMUP],
            [nsys, "stats", "--report=cuda_gpu_trace", "--format=csv", "--force-export=true",
             f"{trace}.nsys-rep"]):
        result = attempt(command, seconds)
        if result.returncode != 0:
            return {"refused": first_error(result)}
    return idle_share(result.stdout)
