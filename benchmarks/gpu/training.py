# SPDX-License-Identifier: Apache-2.0
"""Losses of training runs: CPU beside GPU, NCCL beside MPI."""

import json
import math
import os
import random
import shutil

from support import ROOT, attempt, first_error, last_json, say, write_shard

QUICK_START = ROOT / "inputs/llama-quickstart.toml"
RESNET = ROOT / "inputs/resnet18-cifar10.toml"
# Several ranks on one GPU: other host names pass the check for duplicates, and the socket
# transport carries their messages.
NCCL_ON_ONE_GPU = {"NCCL_NET": "Socket", "NCCL_SOCKET_IFNAME": "lo", "NCCL_P2P_DISABLE": "1",
                   "NCCL_SHM_DISABLE": "1", "NCCL_NVLS_ENABLE": "0"}


def shards(a):
    """Tokens to train on: those of the quick start where they are prepared, else made-up ones."""
    ready = ROOT / "data/quickstart"
    if (ready / "tokens.done").exists() and not a.dry_run:
        return ready / "text_train_*.bin", ready / "text_val_*.bin", "the text of the quick start"
    folder = a.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", 400_000, 1), ("val", 20_000, 2)):
        if not (folder / f"{name}.bin").exists():
            write_shard(folder / f"{name}.bin", count, 1024, seed, learnable=True)
    return folder / "train.bin", folder / "val.bin", "made-up tokens that can be learnt"


def metrics(a, binary, deck, name, overrides, kind="train", launch=(), env=None):
    """metrics.jsonl of a run, and nothing; or nothing, and why there was no run."""
    out = a.out / "runs" / name
    shutil.rmtree(out, ignore_errors=True)
    result = attempt([*launch, binary, "train", deck, f"run.out_dir={out}", "train.match=steps",
                      "train.eval_every=0", "checkpoint.at_end=false", *overrides],
                     a.limits[kind], env={**os.environ, **(env or {})})
    if result.returncode != 0:
        return None, first_error(result)
    with open(out / "metrics.jsonl", encoding="utf-8") as f:
        return [json.loads(line) for line in f], None


def number(value):
    """What is not finite has no value in metrics.jsonl."""
    return math.nan if value is None else value


def train(a, binary, name, overrides, **how):
    """Losses of the quick start deck by step, or {"refused": why}."""
    training, validation, source = shards(a)
    events, refused = metrics(
        a, binary, QUICK_START, name,
        [f'data.train=["{training}"]', f'data.val=["{validation}"]', "data.tokenizer=",
         f"train.steps={a.curve_steps}", "train.log_every=1",
         f"schedule.warmup_steps={a.curve_steps // 20}", *overrides], **how)
    if refused:
        return {"refused": refused}
    return {"data": source,
            "losses": {str(e["step"]): number(e["loss"]) for e in events if e["event"] == "train"},
            "val_loss": [number(e["val_loss"]) for e in events if e["event"] == "eval"][-1]}


def first_updates(a, binary, model, name, precision):
    """Losses and gradient norms of three updates of a LLaMA or of a ResNet."""
    training, validation, _ = shards(a)
    images = a.out / "data/images.bin"
    if not images.exists():
        source = random.Random(1)
        images.write_bytes(b"".join(bytes([i % 10]) + source.randbytes(3072) for i in range(64)))
    always = ["sdp.regime=none", "data.val=[]", "train.steps=3", "train.log_every=1",
              "schedule.warmup_steps=0", f"run.precision={precision}"]
    decks = {"llama": (QUICK_START, [f'data.train=["{training}"]', "data.tokenizer=",
                                     "train.micro_batch=4"]),
             "resnet18": (RESNET, [f'data.train=["{images}"]', "model.width=16",
                                   "train.global_batch=16", "train.micro_batch=16"])}
    deck, overrides = decks[model]
    events, refused = metrics(a, binary, deck, f"first-{model}-{name}", [*overrides, *always])
    if refused:
        return {"refused": refused}
    return {key: [number(e[key]) for e in events if e["event"] == "train"]
            for key in ("loss", "grad_norm")}


def bench_comm(a, launch, overrides, env):
    result = attempt([*launch, a.sdp, "bench", "comm", QUICK_START, *overrides, "--json"],
                     a.limits["nccl"], env={**os.environ, **env})
    return last_json(result.stdout) if result.returncode == 0 else {"refused": first_error(result)}


def nccl(a):
    """The same run with NCCL and with MPI on four ranks that share the GPU."""
    wrapper = ["bash", "-c", 'NCCL_HOSTID="rank-$OMPI_COMM_WORLD_RANK" exec "$0" "$@"']
    launch = [os.environ.get("SDP_MPIRUN", "mpirun"), "-n", 4, *wrapper]
    found = a.store.part("nccl", sdp=a.version, steps=a.curve_steps)
    found["ranks"] = 4
    for transport in ("nccl", "mpi"):
        say(f"nccl: four ranks, system.comm = {transport} ...")
        overrides = [f"system.comm={transport}", "run.precision=fp32", "system.watchdog_seconds=60"]
        a.store.once(found, transport, lambda t=transport, o=overrides: train(
            a, a.sdp, f"four-{t}", o, kind="nccl", launch=launch, env=NCCL_ON_ONE_GPU))
        a.store.once(found, f"{transport}_bench",
                     lambda o=overrides: bench_comm(a, launch, o, NCCL_ON_ONE_GPU))


def losses(a):
    """The quick start model, dense on one rank."""
    runs = [("cpu fp32", a.cpu_sdp, "fp32"), ("gpu fp32", a.sdp, "fp32"),
            ("gpu bf16", a.sdp, "bf16")]
    for name, binary, precision in runs:
        if not binary:
            continue
        say(f"losses: {name} ...")
        folder = name.replace(" ", "-")
        found = a.store.part("losses", name, sdp=a.version if binary == a.sdp else a.cpu_version,
                             steps=a.curve_steps)
        overrides = ["sdp.regime=none", "train.micro_batch=4", f"run.precision={precision}"]
        a.store.once(found, "curve", lambda b=binary, f=folder, o=overrides: train(a, b, f, o))
        first = found.setdefault("first", {})
        for model in ("llama", "resnet18"):
            a.store.once(first, model, lambda b=binary, m=model, f=folder, p=precision:
                         first_updates(a, b, m, f, p))
