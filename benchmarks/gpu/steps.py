# SPDX-License-Identifier: Apache-2.0
"""Steps of LLaMAs, dense and as subnetworks, beside PyTorch."""

import shutil
import sys

from gaps import launch_gaps
from support import (LLAMA_PEER, ROOT, TIMED_OUT, Shape, attempt, first_error, last_json, no_memory,
                     say)

DECK = ROOT / "benchmarks/gpu/llama.toml"
N = 8
SHAPES = {
    "134M": {"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048, "num_layers": 12,
             "num_heads": 12},
    "1B": {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5472, "num_layers": 24,
           "num_heads": 32},
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "num_layers": 4,
             "num_heads": 4},
}
# Where the default, the largest divisor of F up to 64, is no multiple of 8: rows of bf16 that do
# not begin on 16 bytes keep matrix products off the tensor cores.
NEURON_GROUPS = {"1B": 48}
VARIANTS = [("none", "block", 1.0)] + [(regime, level, coverage)
                                       for regime in ("forward", "backward")
                                       for level in ("block", "neuron")
                                       for coverage in (0.5, 0.25)]


def gib(count):
    return f"{count / 2 ** 30:.1f} GiB"


class Steps:
    """Dense, subnetworks and PyTorch for one model."""

    def __init__(self, a, model):
        self.a, self.model = a, model
        self.precision = a.precision or "bf16"
        self.settings = {"sdp": a.version, "seq_len": a.seq_len, "precision": a.precision,
                         "micro_batch": a.micro_batch, "most": a.most}

    def deck(self, recompute, variant, micro_batch, **more):
        """The deck and what it is overridden with."""
        regime, level, coverage = variant
        keys = {f"model.{k}": v for k, v in SHAPES[self.model].items()}
        keys |= {"train.seq_len": self.a.seq_len, "train.micro_batch": micro_batch,
                 "train.global_batch": N * micro_batch, "model.recompute": recompute,
                 "run.precision": self.precision, "sdp.regime": regime, "sdp.level": level,
                 "sdp.coverage": coverage, "sdp.subnetworks": N}
        if level == "neuron" and self.model in NEURON_GROUPS:
            keys["sdp.neuron_group"] = NEURON_GROUPS[self.model]
        return [DECK, "--ranks", N, *(f"{k}={v}" for k, v in (keys | more).items())]

    def run(self, recompute, variant, micro_batch, steps, warmup, **more):
        result = attempt([self.a.sdp, "bench", "step",
                          *self.deck(recompute, variant, micro_batch, **more), "--json", "--steps",
                          steps, "--warmup", warmup, "--peak-tflops", self.a.peak_tflops],
                         self.a.limits["step"])
        if "not available in this version" in result.stderr and self.precision == "bf16":
            say(f"{self.model}: bf16 is refused, fp32 instead")
            self.precision = "fp32"
            return self.run(recompute, variant, micro_batch, steps, warmup, **more)
        return result

    def sdp(self, recompute, micro_batch, variant=VARIANTS[0], **more):
        result = self.run(recompute, variant, micro_batch, self.a.steps, self.a.warmup, **more)
        return last_json(result.stdout) if result.returncode == 0 else {
            "refused": first_error(result)}

    def planned(self, micro_batch):
        """Bytes that the dense model is planned to take, or None where there is no plan."""
        result = attempt([self.a.sdp, "plan", *self.deck("none", VARIANTS[0], micro_batch),
                          "--json"], self.a.limits["tool"])
        if result.returncode != 0:
            return None
        return last_json(result.stdout)["memory_per_rank"]["total"]["max"]

    def find_micro_batch(self):
        """The largest power of two with which the dense model fits, and how it was found. What is
        planned to take more than the device has is not started; below that a batch is halved while
        there is too little memory, and for no other reason."""
        if self.a.micro_batch:
            return {"size": self.a.micro_batch, "how": "as asked for"}
        size, tried = 1 << (self.a.most.bit_length() - 1), []
        limit = f"the most to try is {self.a.most}"
        while True:
            planned = self.planned(size)
            if size > 1 and planned and planned > (self.a.device_memory or planned):
                limit = (f"{size} is planned to take {gib(planned)} of the device's "
                         f"{gib(self.a.device_memory)}")
            else:
                say(f"{self.model}: does a micro-batch of {size} fit?")
                result = self.run("none", VARIANTS[0], size, steps=1, warmup=1)
                if result.returncode == 0:
                    return {"size": size, "how": "; ".join([limit, *tried, f"{size} fits"]),
                            "precision": self.precision}
                if size == 1 or result.returncode == TIMED_OUT or not no_memory(result):
                    return {"refused": f"micro-batch {size}: {first_error(result)}"}
                tried.append(f"{size} ran out of memory")
            size //= 2

    def torch(self, recompute, found, how):
        """One round. It begins with the batch that earlier rounds came down to."""
        batches = found.setdefault("torch_batch", {})
        shape = Shape(SHAPES[self.model], {"seq_len": self.a.seq_len, "micro_batch":
                                           batches.get(how, found["micro_batch"])})
        while True:
            result = attempt([sys.executable, LLAMA_PEER, "--device", self.a.device, "--threads",
                              self.a.threads, "--steps", self.a.steps, "--warmup", self.a.warmup,
                              *(["--autocast"] if self.precision == "bf16" else []),
                              *(["--compile"] if how == "compile" else []),
                              *(["--recompute"] if recompute == "block" else []),
                              *shape.options()], self.a.limits["torch"])
            if result.returncode == 0:
                row = last_json(result.stdout)
                if row["parameters"] != shape.parameters:
                    return {"refused": f"{row['parameters']} parameters, not {shape.parameters}"}
                row["model_flops_per_s"] = shape.flops_per_token() * row["tokens_per_s"]
                return row
            if result.returncode == TIMED_OUT or not no_memory(result) or shape.batch == 1:
                return {"refused": first_error(result)}
            shape.batch //= 2
            batches[how] = shape.batch
            self.a.store.save()

    def measure(self, recompute, micro_batch):
        """Fills the part of the results that belongs to this model and `recompute`."""
        a = self.a
        found = a.store.part("steps", self.model, recompute, **self.settings, steps=a.steps,
                             warmup=a.warmup)
        size = micro_batch["size"]
        found |= {"micro_batch": size, "how": micro_batch["how"]}
        found.setdefault("precision", self.precision)
        rounds = {"dense": lambda: self.sdp(recompute, size),
                  "any_order": lambda: self.sdp(recompute, size, **{"run.deterministic": "false"})}
        if not a.no_torch:
            rounds |= {how: lambda how=how: self.torch(recompute, found, how)
                       for how in ("eager", "compile")}
        for who in ("dense", "any_order", "eager", "compile"):
            found.setdefault(who, [])
        variants = found.setdefault("variants", {})
        for number in range(a.rounds):
            say(f"{self.model}, recompute {recompute}: round {number + 1} of {a.rounds}")
            for who, run in rounds.items():
                rows = found[who]
                if len(rows) == number and not any("refused" in row for row in rows):
                    rows.append(run())
                    found["precision"] = self.precision
                    a.store.save()
        for variant in VARIANTS[1:]:
            title = ", ".join(map(str, variant))
            say(f"{self.model}, recompute {recompute}: {title}")
            a.store.once(variants, title, lambda v=variant: self.sdp(recompute, size, v))
        nsys = shutil.which("nsys")
        if nsys:
            bench = [a.sdp, "bench", "step", *self.deck(recompute, VARIANTS[0], size)]
            a.store.once(found, "gaps", lambda: launch_gaps(bench, a.out / "trace",
                                                            a.limits["trace"], nsys))


def steps(a):
    """Adds to what earlier calls have measured."""
    for model in a.models:
        bench = Steps(a, model)
        batches = a.store.part("micro_batch", model, **bench.settings)
        micro_batch = a.store.once(batches, "found", bench.find_micro_batch)
        bench.precision = micro_batch.get("precision", bench.precision)
        for recompute in a.recompute.split(","):
            if "refused" not in micro_batch:
                bench.measure(recompute, micro_batch)
