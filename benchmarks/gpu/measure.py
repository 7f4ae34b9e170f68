#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks and measures sdp on one GPU beside PyTorch. Started by run.sh; see README.md.

What it finds goes into results.json of --out, run by run, and from there into a table. What is
there already is not measured again: a call that was stopped is simply repeated.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import report
from steps import SHAPES, steps
from store import Store
from support import ROOT, attempt, find_python, first_error, say
from training import losses, nccl

# Seconds after which a call of each kind is given up: several times what the slowest should take.
LIMITS = {"tool": 120, "test": 900, "benchmark": 900, "train": 1800, "step": 900, "torch": 1200,
          "trace": 600, "nccl": 240}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdp", type=pathlib.Path, required=True, help="the GPU build")
    parser.add_argument("--cpu-sdp", type=pathlib.Path, help="a CPU build, for its losses")
    parser.add_argument("--tests", type=pathlib.Path, help="folder of the kernel tests")
    parser.add_argument("--only", help=f"sections, comma-separated, of {', '.join(SECTIONS)}")
    parser.add_argument("--models", help="comma-separated, of 134M, 1B")
    parser.add_argument("--recompute", default="none,block", help="comma-separated")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: bf16 if it can")
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--micro-batch", type=int, help="instead of the largest that fits")
    parser.add_argument("--most", type=int, default=512, help="largest micro-batch to try")
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a run")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="of the dense model and PyTorch")
    parser.add_argument("--curve-steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the host")
    parser.add_argument("--limits", default="", metavar="KIND=SECONDS,...",
                        help="after which a call is given up; "
                             + ",".join(f"{k}={v}" for k, v in LIMITS.items()))
    parser.add_argument("--again", action="store_true",
                        help="measure what the sections and models asked for have already")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/gpu")
    parser.add_argument("--result", type=pathlib.Path, help="the table (Markdown)")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    a = parser.parse_args()
    if a.dry_run:
        a.models, a.seq_len, a.most = a.models or "tiny", 64, 2
        a.steps, a.warmup, a.rounds, a.curve_steps = 2, 1, 1, 10
        a.out = a.out if a.out != ROOT / "runs/gpu" else ROOT / "runs/gpu-dry-run"
        a.result = a.result or a.out / "table.md"
    a.models = (a.models or "134M,1B").split(",")
    unknown = [m for m in a.models if m not in SHAPES]
    a.sections = list(SECTIONS) if a.only is None else [s for s in a.only.split(",") if s]
    unknown += [s for s in a.sections if s not in SECTIONS]
    a.sections = [s for s in SECTIONS if s in a.sections]
    limits = dict(part.partition("=")[::2] for part in a.limits.split(",") if part)
    unknown += [f"--limits {kind}={s}" for kind, s in limits.items()
                if kind not in LIMITS or not s.isdigit()]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    a.limits = LIMITS | {kind: int(s) for kind, s in limits.items()}
    a.device = "cpu" if a.dry_run else "cuda"
    date = datetime.date.today().isoformat()
    a.result = a.result or ROOT / f"benchmarks/results/gpu-{date}.md"
    for binary in filter(None, (a.sdp, a.cpu_sdp)):
        if not binary.exists():
            sys.exit(f"{binary} is not there")
    a.sdp = a.sdp.resolve()
    a.cpu_sdp = a.cpu_sdp.resolve() if a.cpu_sdp else None
    return a


# ---- what the machine is ----

def output(a, *command):
    try:
        result = attempt(command, a.limits["tool"])
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def device_memory(a):
    """Bytes, or None where nothing says how many."""
    if a.dry_run:
        return None
    mib = output(a, "nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    return int(mib.splitlines()[0]) << 20 if mib else None


def environment(a):
    cpu = re.search(r"Model name:\s*(.*)", output(a, "lscpu"))
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "gpu": "none (dry run)" if a.dry_run else
               output(a, "nvidia-smi", "--query-gpu=name,memory.total,driver_version",
                      "--format=csv,noheader"),
        "cpu": f"{cpu.group(1) if cpu else 'unknown'}, {os.cpu_count()} cores",
        "sdp": a.version,
        "torch": "" if a.no_torch else output(a, sys.executable, "-c",
                                              "import torch; print(torch.__version__)"),
        "load": os.getloadavg()[0], "dry_run": a.dry_run, "peak_tflops": a.peak_tflops,
    }


# ---- kernels ----

def kernel_test(a, test):
    say(f"kernels: {test.name} ...")
    result = attempt([test], a.limits["test"])
    passed = re.search(r"PASSED\s*\]\S* (\d+) test", result.stdout)
    failed = sorted(set(re.findall(r"FAILED\s*\]\S* ([\w/]+\.[\w/]+)", result.stdout)))
    ended = None if result.returncode == 0 or failed else first_error(result)
    return {"passed": int(passed.group(1)) if passed else 0, "failed": failed, "ended": ended}


def memory_bound(a, benchmark):
    """The counters of every memory-bound kernel by its name, or {"refused": why}."""
    say("kernels: memory-bound kernels beside the bandwidth of the memory ...")
    options = (["--benchmark_min_time=0.01", "--benchmark_filter=swiglu"] if a.dry_run else
               ["--benchmark_filter=-linear"])
    result = attempt([benchmark, "--benchmark_format=json", *options], a.limits["benchmark"])
    if result.returncode != 0 or "{" not in result.stdout:
        return {"refused": first_error(result)}
    found = {}
    for row in json.loads(result.stdout[result.stdout.index("{"):])["benchmarks"]:
        name = re.split("/(?:min_time|iterations|manual_time)", row["name"])[0]
        if row.get("error_occurred"):
            found[name] = {"refused": row["error_message"]}
        elif "of_triad" in row:
            found[name] = {key: row[key] for key in ("GB/s", "of_triad", "of_copy") if key in row}
    return found


def kernels(a):
    found = a.store.part("kernels", sdp=a.version)
    tests = found.setdefault("tests", {})
    for test in sorted(a.tests.glob("test_kernels_*")) if a.tests and a.tests.is_dir() else []:
        a.store.once(tests, test.name, lambda test=test: kernel_test(a, test))
    benchmark = a.sdp.parent / "benchmark_kernels"
    a.store.once(found, "memory", lambda: memory_bound(a, benchmark) if benchmark.exists() else
                 {"refused": "benchmark_kernels is not beside sdp (SDP_BUILD_BENCHMARKS)"})


SECTIONS = {"kernels": kernels, "losses": losses, "steps": steps, "nccl": nccl}


def main():
    a = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not a.no_torch:
        find_python(sys.executable)
    a.out.mkdir(parents=True, exist_ok=True)
    a.store = Store(a.out / "results.json", a.again)
    a.version = output(a, a.sdp, "--version")
    a.cpu_version = output(a, a.cpu_sdp, "--version") if a.cpu_sdp else ""
    if a.sections:
        a.device_memory = device_memory(a)
        a.store.results["environment"] = environment(a)
    for section in a.sections:
        SECTIONS[section](a)
        a.store.save()
    a.result.parent.mkdir(parents=True, exist_ok=True)
    a.result.write_text(report.table(a.store.results), encoding="utf-8")
    print(a.result.read_text(encoding="utf-8"))
    print(f"written to {a.result}; every figure is in {a.store.path}")


if __name__ == "__main__":
    main()
