# SPDX-License-Identifier: Apache-2.0
"""The table of measure.py, as Markdown."""

import math

from figures import gib, median, number, reached, refusal, rows

FIRST_UPDATES = {"fp32": 1e-5, "bf16": 1e-2}  # wanted agreement with the CPU
POINTS = 3.0  # wanted agreement of shares with the plan, in percentage points
MFU = 0.45    # wanted of the dense 1B model
FORWARD = 4   # variants of forward masking
COPY = 0.80   # wanted of memory-bound kernels, of the rate of a copy
GAPS = 0.05   # wanted at most, of a step
CURVE_START = 20  # steps of a loss curve that are compared one by one
CURVES = {"fp32": (1e-3, 1e-2), "bf16": (1e-2, 1e-2)}  # wanted of those and of the last
MODEL_MEMORY = ("weights", "gradients", "optimizer", "activations")


def environment(e):
    title = "Dry run of the GPU comparison" if e["dry_run"] else "One GPU"
    out = [f"# {title}, {e['date'][:10]}", ""]
    if e["dry_run"]:
        out += ["Tiny shapes on a CPU: these figures say that every step of the script works, and",
                "nothing about any GPU.", ""]
    version = e["sdp"].splitlines()
    libraries = ", ".join(" ".join(line.split()) for line in version[1:])
    out += rows(("", ""), [("GPU", e["gpu"]), ("CPU", e["cpu"]),
                           ("sdp", version[0].removeprefix("sdp ") if version else ""),
                           ("libraries", libraries), ("PyTorch", e["torch"] or "none"),
                           ("began", e["date"]), ("load average", number(e["load"], "{:.2f}"))])
    return out


def kernels(k):
    out = ["## Kernels on the device", ""]
    if k.get("tests"):
        out += rows(("test", "passed", "failed"),
                    [(name, t["passed"], ", ".join(t["failed"]) or t["ended"] or "none")
                     for name, t in k["tests"].items()])
    else:
        out += ["No kernel tests were found.", ""]
    if "memory" not in k:
        return out
    if "refused" in k["memory"]:
        return out + [f"Memory-bound kernels were not measured: {k['memory']['refused']}", ""]
    lines = []
    for name, m in k["memory"].items():
        if "refused" in m:
            lines.append((name, "-", "-", "-", m["refused"]))
            continue
        copy = m.get("of_copy")  # hosts have the triad alone
        lines.append((name, number(m["GB/s"], "{:.0f}"), number(m["of_triad"], "{:.2f}"),
                      number(copy, "{:.2f}"), reached(copy, COPY)))
    return out + rows(("memory-bound kernel", "GB/s", "of the triad", "of a copy",
                       f"{COPY:.2f} of a copy"), lines)


def apart(value, other):
    """Relative difference; infinite for what is not a number."""
    off = abs(value - other) / abs(other)
    return off if math.isfinite(off) else math.inf


def difference(one, other, steps=None):
    """Largest relative difference of two loss curves, at some of their steps."""
    common = set(one["losses"]) & set(other["losses"]) & (steps or set(one["losses"]))
    return max((apart(one["losses"][s], other["losses"][s]) for s in common), default=None)


def last_step(run):
    return max(run["losses"], key=int)


def curve_verdict(name, run, reference):
    """Differences from the reference in the first steps and in the last, and what is wanted."""
    wanted = CURVES[name.split()[1]]
    off = (difference(run, reference, {str(s + 1) for s in range(CURVE_START)}),
           difference(run, reference, {last_step(run)}))
    good = None not in off and all(found <= most for found, most in zip(off, wanted))
    return (*(number(found, "{:.1e}") for found in off), "{:.0e} / {:.0e}".format(*wanted),
            "reached" if good else "missed")


def curves(title, runs, reference, verdicts=False):
    lines = []
    header = ["run", "loss", "val_loss", f"largest difference of the losses from {reference}",
              "data"]
    if verdicts:
        header += [f"in steps 1 to {CURVE_START}", "in the last step", "wanted", ""]
    other = runs.get(reference, {"refused": "no run"})
    for name, run in runs.items():
        if "refused" in run:
            lines.append((name, run["refused"], *["-"] * (len(header) - 2)))
            continue
        last = last_step(run)
        off = None if "refused" in other else difference(run, other)
        line = (name, f"{run['losses'][last]:.6f} after {last}", f"{run['val_loss']:.6f}",
                number(off, "{:.2e}"), run["data"])
        if verdicts:
            compared = name != reference and "refused" not in other
            line += curve_verdict(name, run, other) if compared else ("-",) * 4
        lines.append(line)
    return [f"## {title}", ""] + rows(header, lines)


def first_updates(runs, reference):
    """Losses and gradient norms of the first updates beside those of the reference."""
    lines = []
    for name, run in runs.items():
        for model, found in run.get("first", {}).items():
            expected = runs.get(reference, {}).get("first", {}).get(model, {"refused": "no run"})
            if name == reference or "refused" in expected:
                continue
            if "refused" in found:
                lines.append((name, model, found["refused"], "-", "-", "-"))
                continue
            off = {key: max(map(apart, found[key], expected[key])) for key in ("loss", "grad_norm")}
            wanted = FIRST_UPDATES[name.split()[1]]
            good = "reached" if max(off.values()) <= wanted else "missed"
            lines.append((name, model, number(off["loss"], "{:.1e}"),
                          number(off["grad_norm"], "{:.1e}"), f"{wanted:.0e}", good))
    return rows((f"three updates beside {reference}", "model", "loss", "gradient norm", "wanted",
                 ""), lines)


def nccl(n):
    runs = {name: n[name] for name in ("nccl", "mpi") if name in n}
    out = curves(f"{n['ranks']} ranks on one GPU", runs, "mpi")
    lines = []
    for transport in runs:
        bench = n.get(f"{transport}_bench", {"refused": "not run"})
        if "refused" in bench:
            lines.append((transport, bench["refused"], "-", "-"))
        else:
            case = bench["cases"][0]
            lines.append((transport, case["name"], number(case["exchange_ms"]),
                          number(case["bucketed_all_reduce_ms"])))
    return out + rows(("transport", "mask", "exchange ms", "all-reduce ms"), lines)


def planned_memory(row):
    return sum(row["memory"][c]["planned"] for c in MODEL_MEMORY)


def computing(row):
    """Planned milliseconds of a step without the exchange."""
    return row["predicted"]["compute_ms"]


def measured_memory(row):
    return sum(row["memory"][c]["measured"] for c in MODEL_MEMORY)


def variant_lines(found):
    """Dense and masked steps; shares are of the dense model, in percent. With them, of forward
    masking, the largest distances of step and memory from the plan and how many there are."""
    dense = [row for row in found["dense"] if "refused" not in row]
    lines, steps, memories = [], [], []
    if not dense:
        return [(f"dense: {refusal(found['dense']) or 'not run'}", *["-"] * 15)], steps, memories
    dense_ms = median(dense, "step_ms.median")
    dense_memory, dense_plan = measured_memory(dense[0]), planned_memory(dense[0])
    named = [("dense", dense[0], dense_ms)]
    any_order = [row for row in found["any_order"] if "refused" not in row] or found["any_order"]
    named += [("dense, sums in any order", row, median(any_order, "step_ms.median"))
              for row in any_order[:1]]
    named += [(name.rpartition(",")[0] if "refused" not in row else name, row,
               None if "refused" in row else row["step_ms"]["median"])
              for name, row in found["variants"].items()]
    for title, row, ms in named:
        if "refused" in row:
            lines.append((f"{title}: {row['refused']}", *["-"] * 15))
            continue
        step, memory = 100 * ms / dense_ms, 100 * measured_memory(row) / dense_memory
        phi, planned = 100 * row["flop_share"], 100 * planned_memory(row) / dense_plan
        planned_step = 100 * computing(row) / computing(dense[0])
        if row["regime"] == "forward":
            steps.append(abs(step - planned_step))
            memories.append(abs(memory - planned))
        lines.append((title, f"{row['coverage']:.4g}", f"{100 * row['true_fraction']:.1f}",
                      number(ms, "{:.2f}"), number(1e3 * tokens(row) / ms, "{:.0f}"),
                      number(1e-9 * row["model_flops_per_step"] / ms, "{:.2f}"),
                      number(100 * mfu(row, ms), "{:.1f}"), f"{phi:.1f}", f"{planned_step:.1f}",
                      f"{step:.1f}",
                      gib(measured_memory(row)), f"{planned:.1f}", f"{memory:.1f}",
                      gib(row["memory"]["workspace"]["measured"]),
                      gib(row["memory"]["total"]["measured"]), gib(row["device_bytes"] or None)))
    return lines, steps, memories


def tokens(row):
    return row["micro_batch"] * row["accumulation"] * row["seq_len"]


def mfu(row, ms):
    return row["model_flops_per_step"] / (1e-3 * ms) / row["peak_flops"]


def torch_lines(found, peak):
    lines = []
    for how in ("eager", "compile"):
        good = [row for row in found[how] if "refused" not in row]
        if not good:
            lines.append((f"PyTorch, {how}: {refusal(found[how]) or 'not run'}", *["-"] * 6))
            continue
        flops = median(good, "model_flops_per_s")
        memory = (gib(good[0].get(key)) for key in ("device_peak_bytes", "device_bytes"))
        lines.append((f"PyTorch, {how}", good[0]["micro_batch"],
                      number(median(good, "step_ms"), "{:.2f}"),
                      number(median(good, "tokens_per_s"), "{:.0f}"),
                      number(1e-12 * flops, "{:.2f}"), number(100 * flops / peak, "{:.1f}"),
                      " / ".join(memory)))
    return lines


def from_plan(what, distances):
    """The bar of a share that all variants of forward masking keep to."""
    worst = max(distances, default=None)
    verdict = reached(POINTS, worst) if distances else "not measured"
    if len(distances) < FORWARD and verdict == "reached":
        verdict = f"reached by {len(distances)}, {FORWARD - len(distances)} not measured"
    return what, number(worst, "{:.1f}"), f"<= {POINTS:.0f}", verdict


def gaps(what, found):
    """The bar of a device that waits, and beside it what the clocks of the device leave over."""
    traced = found.get("gaps", {"refused": "nsys not found"})
    share = traced.get("share")
    bars = [(f"{what}: gaps between kernels of the dense step, of its time",
             traced.get("refused") or f"{share:.3f}, {traced['launches']:.0f} launches",
             f"< {GAPS:.2f}", "not measured" if share is None else
             "reached" if share < GAPS else "missed")]
    whole = median(found["dense"], "step_ms.median")
    if whole:
        phases = sum(median(found["dense"], f"{phase}_ms.median")
                     for phase in ("forward", "backward", "optimizer"))
        bars.append((f"{what}: outside forward, backward and update, of the dense step",
                     f"{1 - phases / whole:.3f}", "-", "-"))
    return bars


def model(name, by_recompute, peak):
    out, bars = [], []
    for recompute, found in by_recompute.items():
        out += [f"## LLaMA {name}, recompute \"{recompute}\", micro-batch {found['micro_batch']}, "
                f"{found['precision']}", "", f"Micro-batch: {found['how']}.", ""]
        lines, step, memory = variant_lines(found)
        out += rows(("", "C", "c %", "step ms", "tokens/s", "TFLOP/s", "MFU %", "phi %",
                     "planned step %", "step %", "memory GiB", "planned memory %", "memory %",
                     "workspace GiB", "peak GiB", "device GiB"), lines)
        if found["eager"] or found["compile"]:
            out += rows(("", "micro-batch", "step ms", "tokens/s", "TFLOP/s", "MFU %",
                         "peak / in use GiB"), torch_lines(found, peak))
        what = f"{name}, recompute \"{recompute}\""
        peer = median(found["compile"], "tokens_per_s")
        for who, note in (("dense", ""), ("any_order", ", run.deterministic = false")):
            own = median(found[who], "tokens_per_s")
            ratio = own / peer if own and peer else None
            bars.append((f"{what}: tokens/s beside torch.compile{note}", number(ratio, "{:.2f}"),
                         ">= 1.00", reached(ratio, 1.0)))
        if name == "1B":
            share = median(found["dense"], "mfu")
            bars.append((f"{what}: MFU of the dense step", number(share, "{:.3f}"), f">= {MFU}",
                         reached(share, MFU)))
        bars += gaps(what, found)
        bars.append(from_plan(f"{what}: forward masking, step share from the plan, points", step))
        bars.append(from_plan(f"{what}: forward masking, memory share from the plan, points",
                              memory))
    return out, bars


def table(results):
    out = environment(results["environment"])
    bars = []
    for name, search in results.get("micro_batch", {}).items():
        if "refused" in search.get("found", {}):
            out += [f"## LLaMA {name}", "", f"Not measured: {search['found']['refused']}", ""]
    if "steps" in results:
        for name, by_recompute in results["steps"].items():
            peak = 1e12 * results["environment"]["peak_tflops"]
            lines, wanted = model(name, by_recompute, peak)
            out += lines
            bars += wanted
        out += ["Shares (%) are of the dense model, phi that of the FLOPs. memory: weights,",
                "gradients, optimizer state and activations by the ledger; peak: of all that it",
                "knows, workspace among it; device: all that is in use on it. A step is that of",
                "one worker of 8, without the exchange; medians.", "", "## Bars", ""]
        if results["environment"]["dry_run"]:
            bars = [(*bar[:3], "dry run") for bar in bars]
        out += rows(("", "measured", "wanted", ""), bars)
    if "losses" in results:
        runs = {name: run["curve"] for name, run in results["losses"].items() if "curve" in run}
        out += curves("Losses of the quick start model", runs, "cpu fp32", verdicts=True)
        out += first_updates(results["losses"], "cpu fp32")
    if "nccl" in results:
        out += nccl(results["nccl"])
    if "kernels" in results:
        out += kernels(results["kernels"])
    return "\n".join(out).rstrip() + "\n"
