# SPDX-License-Identifier: Apache-2.0
"""What the comparisons with PyTorch have in common: shapes, random shards, subprocesses."""

import array
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
LLAMA_PEER = ROOT / "benchmarks/peers/pytorch_llama.py"
TIMED_OUT = 124        # return code of what was ended for its time, as that of timeout(1)
SECONDS_TO_LEAVE = 5   # from asking a command to end until it is ended


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


def members(session):
    """Processes of a session, in whatever process groups they are."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def kill_session(leader):
    for pid in members(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end(process):
    """Ends a command and all that it started; what they said until then. A launcher is asked first,
    so that it can end what it started elsewhere."""
    process.terminate()
    for _ in range(2):
        try:
            return process.communicate(timeout=SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            kill_session(process.pid)
    return "", ""


def attempt(command, seconds=None, **options):
    """Runs a command from the root of the checkout, output captured, in a session of its own. One
    that takes longer than `seconds` is ended with all of its processes, and the result is then
    TIMED_OUT with the reason as its only output."""
    command = [str(part) for part in command]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, errors="replace", cwd=ROOT,
                          start_new_session=True, **options) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            out, err = end(process)
            last = ([line for line in (out + err).splitlines() if line.strip()] or [""])[-1]
            reason = f"no answer within {seconds:g} s" + (f", after: {last}" if last else "")
            return subprocess.CompletedProcess(command, TIMED_OUT, "", reason)
        except BaseException:
            end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def first_error(result):
    """What a command that failed said, in one line."""
    lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    for line in lines:
        if "error" in line.lower() or "not available" in line:
            return shortened(line)
    return shortened(lines[-1] if lines else f"exit code {result.returncode}")


def no_memory(result):
    """Whether a command failed for want of memory, on the device or, ended by the kernel, here."""
    said = result.stderr + result.stdout
    return result.returncode == -signal.SIGKILL or re.search(
        "out.of.memory|bad_alloc|alloc_failed|memoryallocation|failed to allocate", said,
        re.IGNORECASE) is not None


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
