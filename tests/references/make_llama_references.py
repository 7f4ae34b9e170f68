#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what PyTorch computes in float64, for the tests to compare with.

    python3 make_llama_references.py [--out FOLDER] [--only NAME...]

Writes FOLDER/<name>.safetensors and <name>.json (FOLDER defaults to data/ beside this script):

llama_*     one forward and backward pass: `weight.<name>` (F32), `grad.<name>`, `logits`, `loss`,
            `tokens`, `targets` (F64)
train_*     50 updates: `weight.<name>` before the first (F32), `final.<name>` after the last,
            `tokens` and `targets` (update, batch, time), `loss`, `grad_norm`, `lr` per update (F64)
optimizer   five updates of one vector by every optimizer variant

Needs torch, transformers and safetensors. The same versions write the same bytes.
"""

import argparse
import json
import math
import pathlib

import torch
import transformers
from safetensors.torch import save_file

from llama_float64 import (Shape, compare_with_transformers, draw_weights, forward,
                           loss_and_gradients, mean_loss)

SHAPES = {
    "llama_mha_untied": (Shape(67, 32, 52, 2, 4, 4, 8, 13), 3, 13),
    "llama_gqa_tied": (Shape(61, 48, 44, 2, 6, 2, 8, 32, rope_theta=500000.0, rms_norm_eps=1e-6,
                             tie_word_embeddings=True), 2, 17),
    "llama_head_dim": (Shape(53, 24, 37, 3, 3, 1, 10, 19), 2, 19),
    "llama_tiny": (Shape(11, 6, 5, 1, 1, 1, 4, 1), 1, 1),
}

TRAIN_SHAPE = Shape(59, 24, 40, 2, 4, 2, 6, 11)
TRAIN = {"steps": 50, "global_batch": 8, "seq_len": 11, "lr": 1e-2, "beta1": 0.9, "beta2": 0.95,
         "eps": 1e-8, "weight_decay": 0.1, "decay": "matrices", "grad_clip": 1.0,
         "schedule": "cosine", "warmup_steps": 10, "final_ratio": 0.1}

OPTIMIZER_LR = [0.02, 0.05, 0.04, 0.03, 0.01]
OPTIMIZERS = {
    "adamw": {"kind": "adamw", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
    "adamw_no_decay": {"kind": "adamw", "beta1": 0.8, "beta2": 0.99, "eps": 1e-6,
                       "weight_decay": 0.0},
    "sgd": {"kind": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    "sgd_l2": {"kind": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.05},
    "sgd_momentum": {"kind": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    "sgd_momentum_l2": {"kind": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.05},
    "sgd_nesterov": {"kind": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
    "sgd_nesterov_l2": {"kind": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def write(folder, name, tensors, description):
    """The description goes beside the tensors as JSON, and into their file under one key."""
    about = {"name": name, **description, "torch": torch.__version__.split("+")[0],
             "transformers": transformers.__version__}
    text = json.dumps(about, indent=2)
    (folder / f"{name}.json").write_text(text + "\n")
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, {"reference": json.dumps(about)})
    path.chmod(0o644)


def widen(weights):
    return {name: w.double() for name, w in weights.items()}


def record_pass(folder, name, seed):
    shape, batch, steps = SHAPES[name]
    generator = seeded(seed)
    weights = draw_weights(shape, generator, std=0.2)
    window = torch.randint(shape.vocab_size, (batch, steps + 1), generator=generator)
    tokens, targets = window[:, :-1], window[:, 1:]
    worst = compare_with_transformers(shape, weights, tokens, targets, tolerance=5e-6)
    logits, loss, gradients = loss_and_gradients(shape, widen(weights), tokens, targets)
    tensors = {"logits": logits, "loss": loss.reshape(1), "tokens": tokens.double(),
               "targets": targets.double()}
    tensors |= {f"weight.{key}": w for key, w in weights.items()}
    tensors |= {f"grad.{key}": g for key, g in gradients.items()}
    write(folder, name, tensors, {"config": shape.config(), "batch": batch, "seq_len": steps,
                                  "seed": seed})
    print(f"{name:18} loss {float(loss):.6f}, transformers in float32 differs by {worst:.1e}")


def learning_rate(update):
    """Learning rate of update 1, 2, ...: linear warm-up, then a cosine to final_ratio."""
    peak, warmup, ratio = TRAIN["lr"], TRAIN["warmup_steps"], TRAIN["final_ratio"]
    if update <= warmup:
        return peak * update / warmup
    p = (update - warmup) / (TRAIN["steps"] - warmup)
    return peak * (ratio + (1 - ratio) * (1 + math.cos(math.pi * p)) / 2)


def predictable_windows(generator, count, length, vocab):
    """Sequences that follow x -> 5x + 7 four times out of five, so that there is something to learn."""
    rows = [torch.randint(vocab, (count,), generator=generator)]
    for _ in range(length - 1):
        noise = torch.randint(vocab, (count,), generator=generator)
        follow = torch.rand(count, generator=generator) < 0.8
        rows.append(torch.where(follow, (5 * rows[-1] + 7) % vocab, noise))
    return torch.stack(rows, dim=1)


def record_training(folder, name, seed):
    shape, steps, batch, length = (TRAIN_SHAPE, TRAIN["steps"], TRAIN["global_batch"],
                                   TRAIN["seq_len"])
    generator = seeded(seed)
    weights = draw_weights(shape, generator, std=0.08)
    windows = predictable_windows(generator, steps * batch, length + 1, shape.vocab_size)
    windows = windows.view(steps, batch, length + 1)
    parameters = {key: torch.nn.Parameter(w.double()) for key, w in weights.items()}
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": TRAIN["weight_decay"]},
         {"params": vectors, "weight_decay": 0.0}],
        lr=TRAIN["lr"], betas=(TRAIN["beta1"], TRAIN["beta2"]), eps=TRAIN["eps"], foreach=False)
    losses, norms, rates = [], [], []
    for t in range(steps):
        rates.append(learning_rate(t + 1))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        optimizer.zero_grad()
        loss = mean_loss(forward(shape, parameters, windows[t, :, :-1]), windows[t, :, 1:])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), TRAIN["grad_clip"],
                                              foreach=False)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    clipped = sum(norm > TRAIN["grad_clip"] for norm in norms)
    if not 0 < clipped < steps:
        raise SystemExit(f"{clipped} of {steps} updates clip; the reference must have both kinds")
    tensors = {"tokens": windows[..., :-1].double(), "targets": windows[..., 1:].double()}
    tensors |= {key: torch.tensor(values, dtype=torch.float64)
                for key, values in (("loss", losses), ("grad_norm", norms), ("lr", rates))}
    tensors |= {f"weight.{key}": w for key, w in weights.items()}
    tensors |= {f"final.{key}": p.detach() for key, p in parameters.items()}
    write(folder, name, tensors, {"config": shape.config(), "train": TRAIN, "seed": seed,
                                  "clipped_updates": clipped})
    print(f"{name:18} loss {losses[0]:.4f} -> {losses[-1]:.4f}, {clipped} of {steps} clipped")


def record_optimizers(folder, name, seed):
    """<variant>.param, and the variant's moments, after each of five updates of 37 elements."""
    generator = seeded(seed)
    start = torch.randn(37, generator=generator, dtype=torch.float32)
    grads = torch.randn(5, 37, generator=generator, dtype=torch.float32)
    grads[2, :7] = 0.0
    tensors = {"param": start, "grad": grads,
               "lr": torch.tensor(OPTIMIZER_LR, dtype=torch.float64)}
    for variant, spec in OPTIMIZERS.items():
        p = torch.nn.Parameter(start.double())
        if spec["kind"] == "adamw":
            optimizer = torch.optim.AdamW([p], betas=(spec["beta1"], spec["beta2"]),
                                          eps=spec["eps"], weight_decay=spec["weight_decay"])
            moments = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
        else:
            optimizer = torch.optim.SGD([p], lr=1.0, momentum=spec["momentum"],
                                        nesterov=spec["nesterov"],
                                        weight_decay=spec["weight_decay"])
            moments = {"momentum": "momentum_buffer"} if spec["momentum"] > 0 else {}
        history = {key: [] for key in ("param", *moments)}
        for rate, grad in zip(OPTIMIZER_LR, grads):
            optimizer.param_groups[0]["lr"] = rate
            p.grad = grad.double()
            optimizer.step()
            history["param"].append(p.detach().clone())
            for key, torch_key in moments.items():
                history[key].append(optimizer.state[p][torch_key].clone())
        tensors |= {f"{variant}.{key}": torch.stack(rows) for key, rows in history.items()}
    write(folder, name, tensors, {"variants": OPTIMIZERS, "seed": seed})
    print(f"{name:18} {len(OPTIMIZERS)} variants")


def main():
    here = pathlib.Path(__file__).resolve().parent
    jobs = {shape: (record_pass, 1000 + i) for i, shape in enumerate(SHAPES)}
    jobs |= {"train_adamw": (record_training, 2000), "optimizer": (record_optimizers, 3000)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=here / "data")
    parser.add_argument("--only", nargs="+", choices=jobs, default=list(jobs))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        record, seed = jobs[name]
        record(arguments.out, name, seed)


if __name__ == "__main__":
    main()
