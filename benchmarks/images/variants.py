#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Dense training of a ResNet-18 and its four variants with subnetworks, at equal FLOPs.

Started by run.sh, which sets thread counts and placement. Every run has a folder under --out,
<variant>-<seed>; a folder with a summary is a finished run. Figures of the table:

  accuracy   of the merged model on the test images after the last update, in percent: mean and
             standard deviation (n - 1) over the seeds; before recalibration of batch norm too
  test loss  of the merged model; beside it, of the subnetworks alone, mean over the ranks
  state      weights, gradients and momentum of a rank; memory: peak of all categories of the
             ledger, the images among them; mean over ranks and seeds, since masks differ
  sent       gradients and weights, by a rank in an update
  step       median over the steps of all rounds of `time`, and its ratio to the dense one
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DECK = ROOT / "inputs/resnet18-fashion.toml"
RANKS = 4  # the deck has four subnetworks
EVALUATIONS = 3  # in a run, evenly spaced
WARMUP, TIMED = 5, 30  # steps of a timed run
STATE = ("weights", "gradients", "optimizer")  # categories of memory
VARIANTS = {
    "dense": ["sdp.regime=none"],
    "forward-block": ["sdp.regime=forward", "sdp.level=block"],
    "forward-neuron": ["sdp.regime=forward", "sdp.level=neuron"],
    "backward-block": ["sdp.regime=backward", "sdp.level=block"],
    "backward-neuron": ["sdp.regime=backward", "sdp.level=neuron"],
}
COLORS = dict(zip(VARIANTS, ["#333333", "#3f77b0", "#c8452f", "#5a9a4a", "#8a5ab0"]))


def title(variant):
    return variant.replace("-", ", ")


def start(command, quiet):
    result = subprocess.run([str(part) for part in command], cwd=ROOT, text=True, check=False,
                            stdout=subprocess.PIPE if quiet else None,
                            stderr=subprocess.PIPE if quiet else None)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {result.returncode}\n"
                 f"{(result.stderr or '')[-2000:]}")
    return result.stdout


def sdp_train(a, overrides, out, *options, quiet=True):
    launch = [os.environ.get("SDP_MPIRUN", "mpirun"), "-n", RANKS]
    return start([*launch, a.sdp, "train", DECK, *options, *a.overrides, *overrides,
                  f"run.out_dir={out}"], quiet)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def events(out, kind):
    with open(out / "metrics.jsonl", encoding="utf-8") as f:
        return [e for e in map(json.loads, f) if e["event"] == kind]


def train(a):
    for seed in range(1, a.seeds + 1):
        for variant, overrides in VARIANTS.items():
            out = a.out / f"{variant}-{seed}"
            if (out / "summary.json").exists():
                print(f"{out.name}: finished before", flush=True)
                continue
            run = [*overrides, f"run.seed={seed}", f"run.name={variant}-{seed}"]
            steps = json.loads(sdp_train(a, run, out, "--dry-run", "--json"))["steps"]
            every = -(-steps // EVALUATIONS)
            run += [f"train.eval_every={every}", f"checkpoint.every_steps={every}"]
            print(f"\n{out.name}: {steps} steps", flush=True)
            sdp_train(a, run, out, quiet=False)


def measure(a):
    times = {variant: [] for variant in VARIANTS}
    for number in range(a.rounds):
        for variant, overrides in VARIANTS.items():
            print(f"round {number + 1} of {a.rounds}: {title(variant)} ...", file=sys.stderr,
                  flush=True)
            out = a.out / "timing" / variant
            shutil.rmtree(out, ignore_errors=True)
            sdp_train(a, [*overrides, "train.match=steps", f"train.steps={WARMUP + TIMED}",
                          "schedule.warmup_steps=0",
                          "train.log_every=1", "data.val=[]", "sdp.hash_every=0",
                          "checkpoint.at_end=false"], out)
            rows = events(out, "train")[WARMUP:]
            times[variant].append({key: [row[key] for row in rows] for key in
                                   ("step_ms", "forward_ms", "backward_ms", "exchange_ms",
                                    "optimizer_ms")})
    (a.out / "timing.json").write_text(json.dumps(times) + "\n", encoding="utf-8")
    print(f"{'':16} {'step ms':>9} {'of dense':>9} {'exchange':>9}")
    for variant in VARIANTS:
        step, exchange = (median_time(times, variant, key) for key in ("step_ms", "exchange_ms"))
        ratio = step / median_time(times, "dense", "step_ms")
        print(f"{variant:16} {step:9.1f} {ratio:9.3f} {exchange:9.1f}")


def median_time(times, variant, key):
    return statistics.median(value for rounds in times[variant] for value in rounds[key])


def mean(values):
    return statistics.fmean(values)


def with_deviation(values):
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


class Runs:
    """The finished runs of one variant."""

    def __init__(self, a, variant):
        self.folders = [a.out / f"{variant}-{seed}" for seed in range(1, a.seeds + 1)
                        if (a.out / f"{variant}-{seed}" / "summary.json").exists()]
        self.summaries = [read_json(folder / "summary.json") for folder in self.folders]
        self.evaluations = [events(folder, "eval") for folder in self.folders]

    def mean_of(self, f):
        return mean([f(summary) for summary in self.summaries])

    def accuracies(self, key="val_accuracy"):
        """In percent, of the last evaluation; where nothing is recalibrated, the only one."""
        return [100 * rows[-1].get(key, rows[-1]["val_accuracy"]) for rows in self.evaluations]

    def memory(self, categories):
        return self.mean_of(lambda s: sum(s["memory"][c]["measured"]["mean"] for c in categories))

    def curve(self):
        """Accuracy by share of the run, mean over the seeds."""
        rows = min(len(e) for e in self.evaluations)
        return ([mean([e[i]["step"] / s["steps"] for e, s in zip(self.evaluations, self.summaries)])
                 for i in range(rows)],
                [100 * mean([e[i]["val_accuracy"] for e in self.evaluations]) for i in range(rows)])


def table(a):
    runs = {variant: Runs(a, variant) for variant in VARIANTS}
    runs = {variant: r for variant, r in runs.items() if r.folders}
    if not runs:
        sys.exit(f"{a.out} has no finished run")
    times = read_json(a.out / "timing.json") if (a.out / "timing.json").exists() else None
    mib = 2.0 ** 20
    lines = ["| | seeds | updates | phi | c | accuracy, % | before recalibration, % | test loss | "
             "of the subnetworks | state, MiB | activations, MiB | memory, MiB | sent, MiB | "
             "step, ms |",
             "|---" * 14 + "|"]
    for variant, r in runs.items():
        sent = r.mean_of(lambda s: s["sent_bytes_per_step"]["measured"])
        step = "not measured"
        if times:
            ms = median_time(times, variant, "step_ms")
            step = f"{ms:.0f} ({ms / median_time(times, 'dense', 'step_ms'):.2f})"
        plain, ensemble = "", ""
        if variant.startswith("forward"):
            plain = with_deviation(r.accuracies("val_accuracy_no_recalibration"))
            ensemble = f"{r.mean_of(lambda s: s['ensemble_loss']):.4f}"
        lines.append(
            f"| {title(variant)} | {len(r.folders)} | {r.mean_of(lambda s: s['steps']):.0f} | "
            f"{r.mean_of(lambda s: s['flop_share']['mean']):.3f} | "
            f"{r.mean_of(lambda s: s['true_fraction']['mean']):.3f} | "
            f"{with_deviation(r.accuracies())} | {plain} | "
            f"{r.mean_of(lambda s: s['val_loss']):.4f} | {ensemble} | "
            f"{r.memory(STATE) / mib:.2f} | {r.memory(['activations']) / mib:.1f} | "
            f"{r.memory(['total']) / mib:.1f} | {sent / mib:.2f} | {step} |")
    text = "\n".join(lines) + "\n"
    (a.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    for variant, r in runs.items():
        print(f"{variant}: {', '.join(f'{value:.2f}' for value in r.accuracies())}")
    draw(a.out / "accuracy.png", runs)


def draw(path, runs):
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), dpi=90)
    for number, (variant, r) in enumerate(runs.items()):
        shares, accuracies = r.curve()
        left.plot([100 * share for share in shares], accuracies, "o-", color=COLORS[variant],
                  label=title(variant), linewidth=1.6, markersize=4)
        values = r.accuracies()
        right.plot([number] * len(values), values, "o", color=COLORS[variant], markersize=5)
        right.plot([number - 0.25, number + 0.25], [mean(values)] * 2, "-", color=COLORS[variant])
        if variant.startswith("forward"):
            plain = r.accuracies("val_accuracy_no_recalibration")
            right.plot([number + 0.15] * len(plain), plain, "x", color=COLORS[variant],
                       markersize=5)
    left.set_xlabel("FLOPs spent, % of the dense run's")
    left.set_ylabel("test accuracy, %, mean over the seeds")
    left.legend(frameon=False, loc="lower right")
    right.set_xticks(range(len(runs)), [title(v).replace(", ", ",\n") for v in runs])
    right.set_ylabel("test accuracy at the end, %")
    right.set_title("dots: seeds; crosses: without recalibration", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    figure.suptitle("ResNet-18 on Fashion-MNIST, C = 1/2, equal FLOPs")
    figure.tight_layout()
    figure.savefig(path)
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="train|time|table|section.key=value")
    parser.add_argument("--sdp", type=pathlib.Path, default=ROOT / "build/default/bin/sdp")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="of `time`")
    a = parser.parse_intermixed_args()
    a.overrides = [word for word in a.words if "=" in word]
    asked = [word for word in a.words if "=" not in word] or ["train", "table"]
    if not set(asked) <= {"train", "time", "table"}:
        parser.error(f"{' '.join(asked)}: train, time or table is expected")
    a.sdp, a.out = a.sdp.absolute(), a.out.absolute()
    if asked != ["table"] and not a.sdp.exists():
        sys.exit(f"{a.sdp} is not there: build it with cmake --preset default && "
                 "cmake --build build/default --target sdp")
    a.out.mkdir(parents=True, exist_ok=True)
    for word, action in (("train", train), ("time", measure), ("table", table)):
        if word in asked:
            action(a)


if __name__ == "__main__":
    main()
