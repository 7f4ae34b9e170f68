# SPDX-License-Identifier: Apache-2.0
"""What the comparisons with PyTorch have in common: shapes, random shards, subprocesses."""

import array
import json
import pathlib
import random
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
LLAMA_PEER = ROOT / "benchmarks/peers/pytorch_llama.py"


def say(text):
    print(text, file=sys.stderr, flush=True)


class Shape:
    """A LLaMA as both sides are given it: keys of [model] and [train] of a deck."""

    def __init__(self, model, train):
        self.v, self.d, self.l = (model[k] for k in ("vocab_size", "hidden_size", "num_layers"))
        self.h, self.f = model["num_heads"], model["intermediate_size"]
        self.t, self.batch = train["seq_len"], train["micro_batch"]
        self.matrices = self.l * (4 * self.d ** 2 + 3 * self.d * self.f)
        self.parameters = self.matrices + (2 * self.l + 1) * self.d + 2 * self.v * self.d

    @classmethod
    def of_deck(cls, deck):
        with open(deck, "rb") as f:
            values = tomllib.load(f)
        return cls(values["model"], values["train"])

    def flops_per_token(self):
        """6 * (parameters without the embedding table) + causal attention 6 * L * D * T."""
        return 6 * (self.matrices + self.v * self.d) + 6 * self.l * self.d * self.t

    def options(self):
        """Of the PyTorch peer."""
        return ["--vocab-size", self.v, "--hidden-size", self.d, "--layers", self.l, "--heads",
                self.h, "--intermediate-size", self.f, "--seq-len", self.t, "--micro-batch",
                self.batch]

    def __str__(self):
        return (f"{self.parameters / 1e6:.1f}M LLaMA (V {self.v}, D {self.d}, L {self.l}, "
                f"H {self.h}, F {self.f}, T {self.t}, micro-batch {self.batch})")


def write_shard(path, count, vocabulary, seed, learnable=False):
    """llm.c GPT-2 shard: uniform tokens, or such as follow each other three times out of four."""
    header = array.array("i", [20240520, 1, count] + [0] * 253)
    source = random.Random(seed)
    tokens = array.array("H", [0] * count)
    for i in range(count):
        if learnable and i > 0 and source.random() < 0.75:
            tokens[i] = (tokens[i - 1] * 5 + 3) % vocabulary
        else:
            tokens[i] = source.randrange(vocabulary)
    with open(path, "wb") as f:
        header.tofile(f)
        tokens.tofile(f)


def attempt(command, **options):
    """Runs a command from the root of the checkout, output captured."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT,
                          check=False, **options)


def first_error(result):
    """What a command that failed said, in one line."""
    lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    for line in lines:
        if "error" in line.lower() or "not available" in line:
            return shortened(line)
    return shortened(lines[-1] if lines else f"exit code {result.returncode}")


def shortened(line):
    return line.replace(f"{ROOT}/", "").removeprefix("sdp: error: ").strip()[:300]


def run(command):
    result = attempt(command)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {result.returncode}:\n"
                 f"{result.stdout[-2000:]}{result.stderr[-4000:]}")
    return result.stdout


def last_json(text):
    """The object on the last line of an output."""
    return json.loads(text.strip().splitlines()[-1])


def find_python(asked):
    candidates = [asked] if asked else [sys.executable]
    for python in candidates:
        probe = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
        if probe.returncode == 0:
            return python
    sys.exit(f"no torch in {' or '.join(map(str, candidates))}: pip install torch numpy, or name a "
             "Python that has it with --python")
