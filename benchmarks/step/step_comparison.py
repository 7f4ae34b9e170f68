#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Alternates training runs of sdp and of the PyTorch peer and prints one table of medians.

Started by run_step_comparison.sh, which sets thread counts and placement. Figures:

  tokens/s    over all processes, median over the steps of a run, then over the rounds
  GFLOP/s     model FLOPs a process: 6 * (parameters without the embedding table) * tokens
              + causal attention 6 * L * D * T per token
  SGEMM       OpenBLAS, 1024^3, one thread, best of many in each round, median over the rounds
  memory      peak resident bytes minus those before the model is built, one process, on the model
              of llama_memory.toml
"""

import argparse
import ctypes
import ctypes.util
import json
import os
import pathlib
import shutil
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
from support import LLAMA_PEER, ROOT, Shape, find_python, last_json, run, say, write_shard

SPEED_DECK = ROOT / "benchmarks/step/llama_30m.toml"
MEMORY_DECK = ROOT / "benchmarks/step/llama_memory.toml"
DATA = ROOT / "data/step"
RUNS = ROOT / "runs/step"
WARMUP = 3


def sgemm_gflops(n=1024, repeats=12):
    """Best rate of OpenBLAS on one thread; None where it is not installed."""
    library = ctypes.util.find_library("openblas")
    if not library:
        return None
    blas = ctypes.CDLL(library)
    block = (ctypes.c_float * (n * n))
    a, b, c = block(*([0.5] * n * n)), block(*([0.25] * n * n)), block()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        blas.cblas_sgemm(101, 111, 111, n, n, n, ctypes.c_float(1), a, n, b, n, ctypes.c_float(0),
                         c, n)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * n ** 3 / best


def run_sdp(binary, deck, shape, ranks, warmup, steps):
    out = RUNS / f"{deck.stem}-{ranks}"
    shutil.rmtree(out, ignore_errors=True)
    launch = [os.environ.get("SDP_MPIRUN", "mpirun"), "-n", str(ranks)] if ranks > 1 else []
    run([*launch, binary, "train", deck, f"run.out_dir={out}",
         f"train.steps={warmup + steps}", f"train.global_batch={ranks * shape.batch}",
         f'data.train=["{DATA}/random_train_*.bin"]', f'data.val=["{DATA}/random_val_*.bin"]'])
    with open(out / "metrics.jsonl", encoding="utf-8") as f:
        events = [json.loads(line) for line in f]
    times = [e["step_ms"] for e in events if e["event"] == "train"][warmup:]
    with open(out / "summary.json", encoding="utf-8") as f:
        summary = json.load(f)
    median = statistics.median(times)
    return {"step_ms": median, "tokens_per_s": 1e3 * ranks * shape.batch * shape.t / median,
            "parameters": summary["parameters"],
            "ledger_bytes": summary["memory"]["total"]["measured"]["max"],
            "rss_increase_bytes": summary["process_model_bytes"]["max"]}


def run_peer(python, shape, ranks, warmup, steps):
    options = [*shape.options(), "--warmup", warmup, "--steps", steps]
    if ranks > 1:
        launch = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
        command = [*launch, LLAMA_PEER, "--ddp", *options]
    else:
        command = [python, LLAMA_PEER, *options]
    return last_json(run(command))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdp", type=pathlib.Path, default=ROOT / "build/default/bin/sdp")
    parser.add_argument("--python", help="a Python with torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a run")
    parser.add_argument("--json", type=pathlib.Path, help="write every figure here too")
    return parser.parse_args()


def measure(a, python, speed, memory):
    results = {("sdp", 1): [], ("PyTorch", 1): [], ("sdp", 2): [], ("PyTorch", 2): []}
    sgemm = []
    for number in range(a.rounds):
        sgemm.append(sgemm_gflops())
        for peer, ranks in results:
            say(f"round {number + 1} of {a.rounds}: {peer}, {processes(ranks)} ...")
            r = (run_sdp(a.sdp, SPEED_DECK, speed, ranks, WARMUP, a.steps) if peer == "sdp"
                 else run_peer(python, speed, ranks, WARMUP, a.steps))
            if r["parameters"] != speed.parameters:
                sys.exit(f"{peer} has {r['parameters']} parameters, not {speed.parameters}")
            results[peer, ranks].append(r)
    say("memory ...")
    resident = {"sdp": run_sdp(a.sdp, MEMORY_DECK, memory, 1, 1, 1),
                "PyTorch": run_peer(python, memory, 1, 1, 1)}
    return results, sgemm, resident


def processes(ranks):
    return f"{ranks} process" + ("es" if ranks > 1 else "")


def median_of(rows, key):
    return statistics.median(row[key] for row in rows)


def verdict(name, value, wanted, at_least=True, unit=""):
    if value is None:
        return f"{name:58} {'not measured':>12}"
    good = value >= wanted if at_least else value <= wanted
    sign = ">=" if at_least else "<="
    return f"{name:58} {value:8.2f}{unit}  {sign} {wanted:.2f}{unit}  {'ok' if good else 'MISSED'}"


def main():
    a = arguments()
    if not a.sdp.exists():
        sys.exit(f"{a.sdp} is not there: build it with cmake --preset default && "
                 "cmake --build build/default --target sdp")
    python = find_python(a.python)
    speed, memory = Shape.of_deck(SPEED_DECK), Shape.of_deck(MEMORY_DECK)
    DATA.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("random_train_000000", 200_000, 1), ("random_val_000000", 8_000, 2)):
        if not (DATA / f"{name}.bin").exists():
            write_shard(DATA / f"{name}.bin", count, min(speed.v, memory.v), seed)
    results, sgemm, resident = measure(a, python, speed, memory)
    if a.json:
        everything = {"sgemm_gflops": sgemm, "memory": resident, "runs": [
            {"peer": peer, "ranks": ranks, "rounds": rows} for (peer, ranks), rows in
            results.items()]}
        a.json.write_text(json.dumps(everything, indent=2) + "\n")

    gemm = statistics.median(sgemm) if all(sgemm) else None
    print(f"Training step of a {speed}, fp32, one thread a process;\n"
          f"medians of {a.rounds} interleaved rounds of {a.steps} steps; PyTorch "
          f"{results['PyTorch', 1][0]['version']}; {os.cpu_count()} cores, OpenBLAS SGEMM "
          f"{f'{gemm:.1f}' if gemm else 'n/a'} GFLOP/s\n")
    print(f"{'':28} {'tokens/s':>9} {'step ms':>9} {'GFLOP/s':>9} {'of SGEMM':>9}")
    rate = {}
    for (peer, ranks), rows in results.items():
        rate[peer, ranks] = median_of(rows, "tokens_per_s")
        gflops = 1e-9 * speed.flops_per_token() * rate[peer, ranks] / ranks
        label = f"{peer}, {processes(ranks)}"
        label += " (DDP, gloo)" if peer == "PyTorch" and ranks > 1 else ""
        print(f"{label:28} {rate[peer, ranks]:9.1f} {median_of(rows, 'step_ms'):9.1f} "
              f"{gflops:9.1f} {f'{gflops / gemm:9.1%}' if gemm else '      n/a'}")
    of_sgemm = 1e-9 * speed.flops_per_token() * rate["sdp", 1] / gemm if gemm else None
    mib = {peer: r["rss_increase_bytes"] / 2 ** 20 for peer, r in resident.items()}
    ledger = resident["sdp"]["ledger_bytes"] / 2 ** 20
    print(f"\nMemory of a {memory}:\n  sdp {mib['sdp']:.0f} MiB more resident than before the "
          f"model was built (ledger {ledger:.0f} MiB), PyTorch {mib['PyTorch']:.0f} MiB\n")
    print(f"{'':58} {'measured':>8}  wanted")
    print(verdict("one process: sdp / PyTorch", rate["sdp", 1] / rate["PyTorch", 1], 1.2))
    print(verdict("  or: fraction of OpenBLAS SGEMM", of_sgemm, 0.8))
    print(verdict("sdp, two processes / one", rate["sdp", 2] / rate["sdp", 1], 1.8))
    print(verdict("two processes: sdp / PyTorch DDP", rate["sdp", 2] / rate["PyTorch", 2], 1.2))
    print(verdict("resident increase: sdp / PyTorch", mib["sdp"] / mib["PyTorch"], 1.0,
                  at_least=False))
    print(verdict("|ledger - resident increase| / resident increase",
                  abs(ledger - mib["sdp"]) / mib["sdp"], 0.05, at_least=False))


if __name__ == "__main__":
    main()
