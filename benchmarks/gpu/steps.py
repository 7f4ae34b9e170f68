# SPDX-License-Identifier: Apache-2.0
"""Steps of LLaMAs, dense and as subnetworks, beside PyTorch."""

import sys

from support import LLAMA_PEER, ROOT, Shape, attempt, first_error, last_json, say

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
VARIANTS = [("none", "block", 1.0)] + [(regime, level, coverage)
                                       for regime in ("forward", "backward")
                                       for level in ("block", "neuron")
                                       for coverage in (0.5, 0.25)]


class Steps:
    """Dense, subnetworks and PyTorch for one model."""

    def __init__(self, a, model):
        self.a, self.model = a, model
        self.precision = a.precision or "bf16"
        self.micro_batch = a.micro_batch

    def sdp(self, recompute, variant=VARIANTS[0], deterministic="true", steps=None, warmup=None):
        regime, level, coverage = variant
        keys = {f"model.{k}": v for k, v in SHAPES[self.model].items()}
        keys |= {"train.seq_len": self.a.seq_len, "train.micro_batch": self.micro_batch,
                 "train.global_batch": N * self.micro_batch, "model.recompute": recompute,
                 "run.precision": self.precision, "run.deterministic": deterministic,
                 "sdp.regime": regime, "sdp.level": level,
                 "sdp.coverage": coverage, "sdp.subnetworks": N}
        result = attempt([self.a.sdp, "bench", "step", DECK, "--ranks", N, "--json",
                          "--steps", steps or self.a.steps, "--warmup", warmup or self.a.warmup,
                          "--peak-tflops", self.a.peak_tflops,
                          *(f"{k}={v}" for k, v in keys.items())])
        if result.returncode == 0:
            return last_json(result.stdout)
        if "not available in this version" in result.stderr and self.precision == "bf16":
            say(f"{self.model}: bf16 is refused, fp32 instead")
            self.precision = "fp32"
            return self.sdp(recompute, variant, deterministic, steps, warmup)
        return {"refused": first_error(result)}

    def find_micro_batch(self):
        """The largest power of two with which the dense model fits."""
        if self.micro_batch:
            return
        self.micro_batch = 1 << (self.a.most.bit_length() - 1)
        while True:
            say(f"{self.model}: does a micro-batch of {self.micro_batch} fit?")
            result = self.sdp("none", steps=1, warmup=1)
            if "refused" not in result:
                return
            if self.micro_batch == 1:
                sys.exit(f"{self.model}: {result['refused']}")
            self.micro_batch //= 2

    def torch(self, recompute, compiled):
        shape = Shape(SHAPES[self.model], {"seq_len": self.a.seq_len,
                                           "micro_batch": self.micro_batch})
        while True:
            result = attempt([sys.executable, LLAMA_PEER, "--device", self.a.device, "--threads",
                              self.a.threads, "--steps", self.a.steps, "--warmup", self.a.warmup,
                              *(["--autocast"] if self.precision == "bf16" else []),
                              *(["--compile"] if compiled else []),
                              *(["--recompute"] if recompute == "block" else []),
                              *shape.options()])
            if result.returncode == 0:
                row = last_json(result.stdout)
                if row["parameters"] != shape.parameters:
                    sys.exit(f"PyTorch has {row['parameters']} parameters, not {shape.parameters}")
                row["model_flops_per_s"] = shape.flops_per_token() * row["tokens_per_s"]
                return row
            if "out_of_memory" not in result.stdout or shape.batch == 1:
                return {"refused": first_error(result)}
            shape.batch //= 2

    def measure(self, recompute):
        a = self.a
        self.find_micro_batch()
        found = {"micro_batch": self.micro_batch, "precision": self.precision, "dense": [],
                 "any_order": [], "eager": [], "compile": [], "variants": []}
        for number in range(a.rounds):
            say(f"{self.model}, recompute {recompute}: round {number + 1} of {a.rounds}")
            found["dense"].append(self.sdp(recompute))
            found["any_order"].append(self.sdp(recompute, deterministic="false"))
            if not a.no_torch:
                found["eager"].append(self.torch(recompute, False))
                found["compile"].append(self.torch(recompute, True))
        for variant in VARIANTS[1:]:
            say(f"{self.model}, recompute {recompute}: {', '.join(map(str, variant))}")
            found["variants"].append(self.sdp(recompute, variant))
        found["precision"] = self.precision
        return found


def steps(a, before):
    """Adds to what earlier calls have measured of other models."""
    found = before or {}
    for model in a.models:
        bench = Steps(a, model)
        for recompute in a.recompute.split(","):
            found.setdefault(model, {})[recompute] = bench.measure(recompute)
            a.save("steps", found)
    return found
