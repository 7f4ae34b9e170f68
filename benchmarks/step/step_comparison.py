#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Alternates training runs of sdp and of the PyTorch peer and prints one table of medians.

Started by run_step_comparison.sh, which sets thread counts and placement. Figures:

  tokens/s    over all processes, median over the steps of a run, then over the rounds
  GFLOP/s     model FLOPs a process: 6 * (parameters without the embedding table) * tokens
              + causal attention 6 * L * D * T per token
  SGEMM       OpenBLAS, 1024^3, one thread, best of many in each round, median over the rounds
  memory      peak resident bytes minus those before the model is built, at twice the micro-batch
"""

import argparse
import array
import ctypes
import ctypes.util
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DECK = ROOT / "benchmarks/step/llama_30m.toml"
PEER = ROOT / "benchmarks/peers/pytorch_llama.py"
DATA = ROOT / "data/step"
RUNS = ROOT / "runs/step"
V, D, L, F, T, BATCH = 4096, 512, 8, 1376, 256, 8
WARMUP = 3


def flops_per_token():
    matrices = L * (4 * D * D + 3 * D * F) + V * D
    return 6 * matrices + 6 * L * D * T


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


def write_shard(path, count, seed):
    """llm.c GPT-2 shard of `count` uniform tokens."""
    header = array.array("i", [20240520, 1, count] + [0] * 253)
    source = random.Random(seed)
    tokens = array.array("H", (source.randrange(V) for _ in range(count)))
    with open(path, "wb") as f:
        header.tofile(f)
        tokens.tofile(f)


def run(command):
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {result.returncode}:\n"
                 f"{result.stdout[-2000:]}{result.stderr[-4000:]}")
    return result.stdout


def run_sdp(binary, ranks, steps, micro_batch=BATCH):
    out = RUNS / f"sdp-{ranks}-{micro_batch}"
    shutil.rmtree(out, ignore_errors=True)
    launch = [os.environ.get("SDP_MPIRUN", "mpirun"), "-n", str(ranks)] if ranks > 1 else []
    run([*launch, binary, "train", DECK, f"run.out_dir={out}", f"train.steps={WARMUP + steps}",
         f"train.micro_batch={micro_batch}", f"train.global_batch={ranks * micro_batch}",
         f'data.train=["{DATA}/random_train_*.bin"]', f'data.val=["{DATA}/random_val_*.bin"]'])
    with open(out / "metrics.jsonl", encoding="utf-8") as f:
        events = [json.loads(line) for line in f]
    times = [e["step_ms"] for e in events if e["event"] == "train"][WARMUP:]
    with open(out / "summary.json", encoding="utf-8") as f:
        summary = json.load(f)
    median = statistics.median(times)
    tokens = ranks * micro_batch * T
    ledger = sum(v["measured"]["max"] for v in summary["memory"].values()
                 if isinstance(v, dict) and "measured" in v)
    return {"step_ms": median, "tokens_per_s": 1e3 * tokens / median, "ledger_bytes": ledger,
            "rss_increase_bytes": summary.get("process_increase_bytes")}


def run_peer(python, ranks, steps, micro_batch=BATCH):
    options = ["--steps", steps, "--warmup", WARMUP, "--micro-batch", micro_batch]
    if ranks > 1:
        launch = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
        command = [*launch, PEER, "--ddp", *options]
    else:
        command = [python, PEER, *options]
    return json.loads(run([str(part) for part in command]).strip().splitlines()[-1])


def find_python(asked):
    candidates = [asked] if asked else [sys.executable, "/opt/venv/bin/python"]
    for python in candidates:
        probe = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
        if probe.returncode == 0:
            return python
    sys.exit(f"no torch in {' or '.join(candidates)}: pip install torch numpy, or name a Python "
             "that has it with --python")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdp", type=pathlib.Path, default=ROOT / "build/default/bin/sdp")
    parser.add_argument("--python", help="a Python with torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a run")
    parser.add_argument("--json", type=pathlib.Path, help="write every figure here too")
    return parser.parse_args()


def measure(a, python):
    results = {("sdp", 1): [], ("PyTorch", 1): [], ("sdp", 2): [], ("PyTorch", 2): []}
    sgemm = []
    for number in range(a.rounds):
        sgemm.append(sgemm_gflops())
        for peer, ranks in results:
            print(f"round {number + 1} of {a.rounds}: {peer}, {ranks} process"
                  f"{'es' if ranks > 1 else ''} ...", file=sys.stderr, flush=True)
            r = (run_sdp(a.sdp, ranks, a.steps) if peer == "sdp"
                 else run_peer(python, ranks, a.steps))
            results[peer, ranks].append(r)
    print("memory ...", file=sys.stderr, flush=True)
    memory = {"sdp": run_sdp(a.sdp, 1, 1, 2 * BATCH), "PyTorch": run_peer(python, 1, 1, 2 * BATCH)}
    return results, sgemm, memory


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
    DATA.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("random_train_000000", 200_000, 1), ("random_val_000000", 8_000, 2)):
        if not (DATA / f"{name}.bin").exists():
            write_shard(DATA / f"{name}.bin", count, seed)
    results, sgemm, memory = measure(a, python)

    gemm = statistics.median(s for s in sgemm if s) if all(sgemm) else None
    version = results["PyTorch", 1][0]["version"]
    print(f"Training step of a 30M LLaMA (V {V}, D {D}, L {L}, H 8, F {F}, T {T}, micro-batch "
          f"{BATCH}), fp32, one thread a process;\nmedians of {a.rounds} interleaved rounds of "
          f"{a.steps} steps; PyTorch {version}; {os.cpu_count()} cores, OpenBLAS SGEMM "
          f"{f'{gemm:.1f}' if gemm else 'n/a'} GFLOP/s\n")
    print(f"{'':28} {'tokens/s':>9} {'step ms':>9} {'GFLOP/s':>9} {'of SGEMM':>9}")
    rate = {}
    for (peer, ranks), rows in results.items():
        rate[peer, ranks] = median_of(rows, "tokens_per_s")
        gflops = 1e-9 * flops_per_token() * rate[peer, ranks] / ranks
        label = f"{peer}, {ranks} process{'es' if ranks > 1 else ''}"
        label += " (DDP, gloo)" if peer == "PyTorch" and ranks > 1 else ""
        print(f"{label:28} {rate[peer, ranks]:9.1f} {median_of(rows, 'step_ms'):9.1f} "
              f"{gflops:9.1f} {f'{gflops / gemm:9.1%}' if gemm else '      n/a'}")
    of_sgemm = 1e-9 * flops_per_token() * rate["sdp", 1] / gemm if gemm else None
    mib = {peer: (r["rss_increase_bytes"] or 0) / 2 ** 20 for peer, r in memory.items()}
    ledger = memory["sdp"]["ledger_bytes"] / 2 ** 20
    print(f"\nmemory at micro-batch {2 * BATCH}: sdp {mib['sdp']:.0f} MiB (ledger {ledger:.0f}), "
          f"PyTorch {mib['PyTorch']:.0f} MiB\n")
    print(f"{'':58} {'measured':>8}  wanted")
    print(verdict("one process: sdp / PyTorch", rate["sdp", 1] / rate["PyTorch", 1], 1.2))
    print(verdict("  or: fraction of OpenBLAS SGEMM", of_sgemm, 0.8))
    print(verdict("sdp, two processes / one", rate["sdp", 2] / rate["sdp", 1], 1.8))
    print(verdict("two processes: sdp / PyTorch DDP", rate["sdp", 2] / rate["PyTorch", 2], 1.2))
    known = memory["sdp"]["rss_increase_bytes"]
    print(verdict("resident increase: sdp / PyTorch", mib["sdp"] / mib["PyTorch"] if known else None,
                  1.0, at_least=False))
    print(verdict("ledger / resident increase", ledger / mib["sdp"] if known else None, 0.95))
    if a.json:
        everything = {"sgemm_gflops": sgemm, "memory": memory, "runs": [
            {"peer": peer, "ranks": ranks, "rounds": rows} for (peer, ranks), rows in
            results.items()]}
        a.json.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
