#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Alternates whole training steps of a ResNet-18 in sdp and in PyTorch and prints one table of medians.

Started by run_step_comparison.sh, which sets thread counts and placement. Full width, 64 images of
three channels a step in all, SGD with momentum, on one core and on two:

  sdp      1 process of 64 images; 2 processes of 32, each with one thread, and their exchange
  PyTorch  1 process of 64 images with 1 and with 2 threads, each in both memory formats; the faster
           format counts

Times are medians over the steps of a run, then over the rounds. Memory: peak resident bytes minus
those before the model is built, over all processes.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import sys

from step_comparison import ROOT, find_python, median_of, processes, run, say, verdict

DECK = ROOT / "inputs/resnet18-cifar10.toml"
PEER = ROOT / "benchmarks/peers/pytorch_resnet.py"
DATA = ROOT / "data/step/random_cifar10.bin"
RUNS = ROOT / "runs/step"
BATCH = 64
WARMUP = 2
FORMATS = ("channels first", "channels last")


def write_images(path, count):
    """CIFAR-10 records of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = random.Random(1)
    with open(path, "wb") as f:
        for i in range(count):
            f.write(bytes([i % 10]) + source.randbytes(3072))


def run_sdp(binary, ranks, steps):
    out = RUNS / f"resnet18-{ranks}"
    shutil.rmtree(out, ignore_errors=True)
    launch = [os.environ.get("SDP_MPIRUN", "mpirun"), "-n", str(ranks)] if ranks > 1 else []
    run([*launch, binary, "train", DECK, f"run.out_dir={out}", "sdp.regime=none",
         "train.match=steps", f"train.steps={WARMUP + steps}", f"train.global_batch={BATCH}",
         f"train.micro_batch={BATCH // ranks}", "train.log_every=1", "checkpoint.at_end=false",
         f'data.train=["{DATA}"]', "data.val=[]", "train.eval_every=0"])
    with open(out / "metrics.jsonl", encoding="utf-8") as f:
        events = [json.loads(line) for line in f]
    times = [e["step_ms"] for e in events if e["event"] == "train"][WARMUP:]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return {"step_ms": statistics.median(times), "parameters": summary["parameters"],
            "rss_increase_bytes": ranks * summary["process_model_bytes"]["mean"]}


def run_peer(python, threads, memory_format, steps):
    options = ["--threads", threads, "--batch", BATCH, "--warmup", WARMUP, "--steps", steps]
    if memory_format == "channels last":
        options.append("--channels-last")
    return json.loads(run([str(part) for part in (python, PEER, *options)]).strip()
                      .splitlines()[-1])


def measure(a, python):
    results = {("sdp", cores, ""): [] for cores in (1, 2)}
    results |= {("PyTorch", cores, f): [] for cores in (1, 2) for f in FORMATS}
    for number in range(a.rounds):
        for (peer, cores, memory_format), rows in sorted(results.items(), key=lambda i: i[0][1]):
            say(f"round {number + 1} of {a.rounds}: {peer}, {cores} core(s), {memory_format} ...")
            rows.append(run_sdp(a.sdp, cores, a.steps) if peer == "sdp"
                        else run_peer(python, cores, memory_format, a.steps))
    counts = {row["parameters"] for rows in results.values() for row in rows}
    if len(counts) != 1:
        sys.exit(f"the models differ: {sorted(counts)} parameters")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdp", type=pathlib.Path, default=ROOT / "build/default/bin/sdp")
    parser.add_argument("--python", help="a Python with torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of a run")
    parser.add_argument("--json", type=pathlib.Path, help="write every figure here too")
    a = parser.parse_args()
    a.sdp = a.sdp.absolute()
    if not a.sdp.exists():
        sys.exit(f"{a.sdp} is not there: build it with cmake --preset default && "
                 "cmake --build build/default --target sdp")
    python = find_python(a.python)
    if not DATA.exists():
        write_images(DATA, 640)
    results = measure(a, python)
    if a.json:
        a.json.write_text(json.dumps([{"peer": key[0], "cores": key[1], "format": key[2],
                                       "rounds": rows} for key, rows in results.items()], indent=2)
                          + "\n", encoding="utf-8")

    print(f"Training step of a ResNet-18, width 64, {BATCH} images, fp32; medians of {a.rounds} "
          f"interleaved rounds of {a.steps} steps;\nPyTorch "
          f"{results['PyTorch', 1, FORMATS[0]][0]['version']}; {os.cpu_count()} cores\n")
    print(f"{'':44} {'step ms':>9} {'images/s':>9} {'MiB':>7}")
    step, memory = {}, {}
    for (peer, cores, memory_format), rows in results.items():
        ms, mib = median_of(rows, "step_ms"), median_of(rows, "rss_increase_bytes") / 2 ** 20
        label = (f"sdp, {processes(cores)} of {BATCH // cores}" if peer == "sdp" else
                 f"PyTorch, {cores} thread{'s' if cores > 1 else ''}, {memory_format}")
        print(f"{label:44} {ms:9.1f} {1e3 * BATCH / ms:9.1f} {mib:7.0f}")
        step[peer, cores] = min(ms, step.get((peer, cores), ms))
        memory[peer, cores] = min(mib, memory.get((peer, cores), mib))
    print(f"\n{'':58} {'measured':>8}  wanted")
    for cores in (1, 2):
        on = f"on {cores} core{'s' if cores > 1 else ''}"
        print(verdict(f"{on}: images/s, sdp / PyTorch",
                      step["PyTorch", cores] / step["sdp", cores], 1.0))
        print(verdict(f"{on}: memory, sdp / PyTorch",
                      memory["sdp", cores] / memory["PyTorch", cores], 1.0, at_least=False))


if __name__ == "__main__":
    main()
