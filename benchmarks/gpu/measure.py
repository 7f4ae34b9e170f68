#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks and measures sdp on one GPU beside PyTorch. Started by run.sh; see README.md.

What it finds goes into results.json of --out, section by section, and from there into a table.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import report
from steps import SHAPES, steps
from support import ROOT, attempt, find_python, say
from training import losses, nccl


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
    parser.add_argument("--most", type=int, default=64, help="largest micro-batch to try")
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a run")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="of the dense model and PyTorch")
    parser.add_argument("--curve-steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the host")
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
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
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

def environment(a):
    def output(*command):
        try:
            result = attempt(command)
        except OSError:
            return ""
        return result.stdout.strip() if result.returncode == 0 else ""

    cpu = re.search(r"Model name:\s*(.*)", output("lscpu"))
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "gpu": "none (dry run)" if a.dry_run else
               output("nvidia-smi", "--query-gpu=name,memory.total,driver_version",
                      "--format=csv,noheader"),
        "cpu": f"{cpu.group(1) if cpu else 'unknown'}, {os.cpu_count()} cores",
        "sdp": output(a.sdp, "--version"),
        "torch": "" if a.no_torch else output(sys.executable, "-c",
                                              "import torch; print(torch.__version__)"),
        "load": os.getloadavg()[0], "dry_run": a.dry_run, "peak_tflops": a.peak_tflops,
    }


# ---- kernels ----

def kernels(a, _):
    found = {"tests": [], "memory": []}
    tests = sorted(a.tests.glob("test_kernels_*")) if a.tests and a.tests.is_dir() else []
    for test in tests:
        say(f"kernels: {test.name} ...")
        result = attempt([test])
        passed = re.search(r"PASSED\s*\]\S* (\d+) test", result.stdout)
        failed = sorted(set(re.findall(r"FAILED\s*\]\S* ([\w/]+\.[\w/]+)", result.stdout)))
        found["tests"].append({"name": test.name, "passed": int(passed.group(1)) if passed else 0,
                               "failed": failed, "code": result.returncode})
    benchmark = a.sdp.parent / "benchmark_kernels"
    if benchmark.exists():
        say("kernels: memory-bound kernels beside the triad ...")
        options = ["--benchmark_min_time=0.01", "--benchmark_filter=swiglu"] if a.dry_run else []
        result = attempt([benchmark, "--benchmark_format=json", *options])
        if result.returncode == 0:
            for row in json.loads(result.stdout[result.stdout.index("{"):])["benchmarks"]:
                if "of_triad" in row:
                    found["memory"].append({"name": row["name"].split("/")[0],
                                            "of_triad": row["of_triad"]})
    return found


SECTIONS = {"kernels": kernels, "nccl": nccl, "losses": losses, "steps": steps}


def main():
    a = arguments()
    if not a.no_torch:
        find_python(sys.executable)
    a.out.mkdir(parents=True, exist_ok=True)
    store = a.out / "results.json"
    results = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    if a.sections:
        results["environment"] = environment(a)

    def save(section, found):
        results[section] = found
        store.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    a.save = save
    for section in a.sections:
        save(section, SECTIONS[section](a, results.get(section)))
    a.result.parent.mkdir(parents=True, exist_ok=True)
    a.result.write_text(report.table(results), encoding="utf-8")
    print(a.result.read_text(encoding="utf-8"))
    print(f"written to {a.result}; every figure is in {store}")


if __name__ == "__main__":
    main()
