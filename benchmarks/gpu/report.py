# SPDX-License-Identifier: Apache-2.0
"""The table of measure.py, as Markdown."""

import statistics

FIRST_UPDATES = {"fp32": 1e-5, "bf16": 1e-2}  # wanted agreement with the CPU
POINTS = 3.0  # wanted agreement of shares with the plan, in percentage points
MFU = 0.45    # wanted of the dense 1B model
MODEL_MEMORY = ("weights", "gradients", "optimizer", "activations")


def median(rows, key):
    values = [get(row, key) for row in rows if "refused" not in row]
    return statistics.median(values) if values else None


def get(row, key):
    for part in key.split("."):
        row = row[part]
    return row


def number(value, form="{:.3g}"):
    return "-" if value is None else form.format(value)


def gib(value):
    return number(value and value / 2 ** 30, "{:.2f}" if value and value > 2 ** 28 else "{:.4f}")


def rows(header, lines):
    out = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return out + ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def refusal(list_of_runs):
    """Why there is no result, where there is none."""
    reasons = [run["refused"] for run in list_of_runs if "refused" in run]
    return reasons[0] if reasons else None


def reached(value, wanted):
    return "not measured" if value is None else "reached" if value >= wanted else "missed"


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
    out += rows(("test", "passed", "failed"),
                [(t["name"], t["passed"], ", ".join(t["failed"]) or
                  ("none" if t["code"] == 0 else f"ended with {t['code']}")) for t in k["tests"]])
    if k["memory"]:
        out += rows(("memory-bound kernel", "of the triad's bandwidth (wanted 0.80)"),
                    [(m["name"], number(m["of_triad"], "{:.2f}")) for m in k["memory"]])
    return out


def difference(one, other):
    """Largest relative difference of two loss curves."""
    common = set(one["losses"]) & set(other["losses"])
    return max(abs(one["losses"][s] - other["losses"][s]) / abs(other["losses"][s]) for s in common)


def curves(title, runs, reference):
    lines = []
    good = {name: run for name, run in runs.items() if "refused" not in run}
    for name, run in runs.items():
        if "refused" in run:
            lines.append((name, run["refused"], "-", "-", "-"))
            continue
        last = max(run["losses"], key=int)
        off = difference(run, good[reference]) if reference in good else None
        lines.append((name, f"{run['losses'][last]:.6f} after {last}", f"{run['val_loss']:.6f}",
                      number(off, "{:.2e}"), run["data"]))
    return [f"## {title}", ""] + rows(
        ("run", "loss", "val_loss", f"largest difference of the losses from {reference}", "data"),
        lines)


def first_updates(runs, reference):
    """Losses and gradient norms of the first updates beside those of the reference."""
    lines = []
    for name, run in runs.items():
        for model, found in run["first"].items():
            expected = runs.get(reference, {}).get("first", {}).get(model, {"refused": "no run"})
            if name == reference or "refused" in expected:
                continue
            if "refused" in found:
                lines.append((name, model, found["refused"], "-", "-", "-"))
                continue
            off = {key: max(abs(a - b) / abs(b) for a, b in zip(found[key], expected[key]))
                   for key in ("loss", "grad_norm")}
            wanted = FIRST_UPDATES[name.split()[1]]
            good = "reached" if max(off.values()) <= wanted else "missed"
            lines.append((name, model, number(off["loss"], "{:.1e}"),
                          number(off["grad_norm"], "{:.1e}"), f"{wanted:.0e}", good))
    return rows((f"three updates beside {reference}", "model", "loss", "gradient norm", "wanted",
                 ""), lines)


def nccl(n):
    out = curves(f"{n['ranks']} ranks on one GPU", {k: n[k] for k in ("nccl", "mpi")}, "mpi")
    lines = []
    for transport in ("nccl", "mpi"):
        bench = n[f"{transport}_bench"]
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
    """Dense and masked steps; shares are of the dense model, in percent."""
    dense = [row for row in found["dense"] if "refused" not in row]
    lines, worst_step, worst_memory = [], None, None
    if not dense:
        return lines, None, None
    dense_ms = median(dense, "step_ms.median")
    dense_memory, dense_plan = measured_memory(dense[0]), planned_memory(dense[0])
    any_order = [row for row in found["any_order"] if "refused" not in row][:1]
    for row in [dense[0], *any_order, *found["variants"]]:
        if "refused" in row:
            lines.append((row["refused"], *["-"] * 13))
            continue
        masked = row["regime"] != "none"
        ms, title = row["step_ms"]["median"], f"{row['regime']}, {row['level']}"
        if row is dense[0]:
            ms, title = dense_ms, "dense"
        elif row in any_order:
            ms, title = median(found["any_order"], "step_ms.median"), "dense, sums in any order"
        step, memory = 100 * ms / dense_ms, 100 * measured_memory(row) / dense_memory
        phi, planned = 100 * row["flop_share"], 100 * planned_memory(row) / dense_plan
        planned_step = 100 * computing(row) / computing(dense[0])
        if masked and row["regime"] == "forward":
            worst_step = max(worst_step or 0.0, abs(step - planned_step))
            worst_memory = max(worst_memory or 0.0, abs(memory - planned))
        lines.append((title, f"{row['coverage']:.4g}", f"{100 * row['true_fraction']:.1f}",
                      number(ms, "{:.2f}"), number(1e3 * tokens(row) / ms, "{:.0f}"),
                      number(1e-9 * row["model_flops_per_step"] / ms, "{:.2f}"),
                      number(100 * mfu(row, ms), "{:.1f}"), f"{phi:.1f}", f"{planned_step:.1f}",
                      f"{step:.1f}",
                      gib(measured_memory(row)), f"{planned:.1f}", f"{memory:.1f}",
                      gib(row["device_bytes"] or None)))
    return lines, worst_step, worst_memory


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


def model(name, by_recompute, peak):
    out, bars = [], []
    for recompute, found in by_recompute.items():
        out += [f"## LLaMA {name}, recompute \"{recompute}\", micro-batch {found['micro_batch']}, "
                f"{found['precision']}", ""]
        lines, step, memory = variant_lines(found)
        out += rows(("", "C", "c %", "step ms", "tokens/s", "TFLOP/s", "MFU %", "phi %",
                     "planned step %", "step %", "memory GiB", "planned memory %", "memory %",
                     "device GiB"), lines)
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
        bars.append((f"{what}: forward masking, step share from the plan, points",
                     number(step, "{:.1f}"), f"<= {POINTS:.0f}",
                     "not measured" if step is None else reached(POINTS, step)))
        bars.append((f"{what}: forward masking, memory share from the plan, points",
                     number(memory, "{:.1f}"), f"<= {POINTS:.0f}",
                     "not measured" if memory is None else reached(POINTS, memory)))
    return out, bars


def table(results):
    out = environment(results["environment"])
    bars = []
    if "steps" in results:
        for name, by_recompute in results["steps"].items():
            peak = 1e12 * results["environment"]["peak_tflops"]
            lines, wanted = model(name, by_recompute, peak)
            out += lines
            bars += wanted
        out += ["Shares (%) are of the dense model, phi that of the FLOPs. memory: weights, gradients,",
                "optimizer state and activations by the ledger; device: all that is in use on it. A",
                "step is that of one worker of 8, without the exchange; medians.", "", "## Bars", ""]
        if results["environment"]["dry_run"]:
            bars = [(*bar[:3], "dry run") for bar in bars]
        out += rows(("", "measured", "wanted", ""), bars)
    if "losses" in results:
        out += curves("Losses of the quick start model", results["losses"], "cpu fp32")
        out += first_updates(results["losses"], "cpu fp32")
    if "nccl" in results:
        out += nccl(results["nccl"])
    if "kernels" in results:
        out += kernels(results["kernels"])
    return "\n".join(out).rstrip() + "\n"
