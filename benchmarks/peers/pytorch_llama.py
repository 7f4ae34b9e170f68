#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains a LLaMA on random tokens with PyTorch and prints one JSON object.

    python3 pytorch_llama.py [--threads 1] [--steps 12] [shape options]
    python3 pytorch_llama.py --device cuda --autocast [--compile] [--recompute] [shape options]
    torchrun --standalone --nproc-per-node 2 pytorch_llama.py --ddp [options]

The peer that the step benchmarks stand beside: float32 parameters, with --autocast bf16 products,
scaled_dot_product_attention, fused AdamW, gradients set to None, clipping at 1.0; with --ddp,
DistributedDataParallel over gloo with --threads threads per process; with --recompute, every block
is computed again in backward (torch.utils.checkpoint). The default shape is the 30M LLaMA of the CPU
benchmark. A step is forward, backward, (all-reduce,) clipping and update, until the device is done;
its time is measured on the slowest process.

Printed: step_ms (median), tokens_per_s (all processes), loss of the first and last step,
parameters, rss_increase_bytes (peak resident memory minus resident memory before the model is
built), and on a GPU device_peak_bytes (of tensors) and device_bytes (in use on the device after the
last step). Where the device's memory does not suffice it prints {"out_of_memory": true} and ends
with 1.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--intermediate-size", type=int, default=1376)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=0, help="0: as many as heads")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, default=8, help="sequences per process and step")
    parser.add_argument("--steps", type=int, default=12, help="measured steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before those")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ddp", action="store_true", help="started by torchrun")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--autocast", action="store_true", help="bf16 where torch.autocast says so")
    parser.add_argument("--recompute", action="store_true", help="blocks once more in backward")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


class Block(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads, self.kv_heads = a.heads, a.kv_heads
        self.head_dim = a.hidden_size // a.heads
        self.sizes = [a.heads * self.head_dim, *[a.kv_heads * self.head_dim] * 2]
        self.attention_norm = nn.Parameter(torch.ones(a.hidden_size))
        self.qkv = nn.Linear(a.hidden_size, sum(self.sizes), bias=False)
        self.out = nn.Linear(a.heads * self.head_dim, a.hidden_size, bias=False)
        self.mlp_norm = nn.Parameter(torch.ones(a.hidden_size))
        self.gate_up = nn.Linear(a.hidden_size, 2 * a.intermediate_size, bias=False)
        self.down = nn.Linear(a.intermediate_size, a.hidden_size, bias=False)

    def split_heads(self, x):
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x, cos, sin):
        def rotate(y):
            first, second = y.chunk(2, dim=-1)
            return y * cos + torch.cat((-second, first), dim=-1) * sin

        y = F.rms_norm(x, x.shape[-1:], self.attention_norm, 1e-5)
        q, k, v = (self.split_heads(z) for z in self.qkv(y).split(self.sizes, dim=-1))
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True,
                                           enable_gqa=self.heads != self.kv_heads)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = F.rms_norm(x, x.shape[-1:], self.mlp_norm, 1e-5)
        gate, up = self.gate_up(y).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.recompute = a.recompute
        self.embedding = nn.Embedding(a.vocab_size, a.hidden_size)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.layers))
        self.norm = nn.Parameter(torch.ones(a.hidden_size))
        self.head = nn.Linear(a.hidden_size, a.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        h = a.hidden_size // a.heads
        angle = torch.arange(a.seq_len)[:, None] * 10000.0 ** (-torch.arange(0, h, 2) / h)
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(block, x, self.cos, self.sin, use_reentrant=False)
            else:
                x = block(x, self.cos, self.sin)
        x = F.rms_norm(x, x.shape[-1:], self.norm, 1e-5)
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


def resident_bytes(field):
    """VmRSS or VmHWM (its peak) of this process."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_peak_resident():
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as f:
        f.write("5")


def make_optimizer(model):
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                              {"params": vectors, "weight_decay": 0.0}],
                             lr=6e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


def synchronize(a):
    if a.device != "cpu":
        torch.cuda.synchronize()


def device_memory(a):
    if a.device == "cpu":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"device_peak_bytes": torch.cuda.max_memory_allocated(), "device_bytes": total - free,
            "device": torch.cuda.get_device_name()}


def main():
    a = parse_arguments()
    a.kv_heads = a.kv_heads or a.heads
    try:
        run(a)
    except torch.OutOfMemoryError:
        print(json.dumps({"out_of_memory": True}))
        sys.exit(1)


def run(a):
    torch.set_num_threads(a.threads)
    torch.set_num_interop_threads(1)
    rank, ranks = 0, 1
    if a.ddp:
        if "RANK" not in os.environ:
            sys.exit("--ddp needs torchrun")
        import torch.distributed as dist
        dist.init_process_group("gloo")
        rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(a.seed)

    reset_peak_resident()
    before = resident_bytes("VmRSS")
    model = Llama(a).to(a.device)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = make_optimizer(model)
    step_model = torch.compile(model) if a.compile else model
    if a.ddp:
        step_model = nn.parallel.DistributedDataParallel(step_model)

    batches = torch.Generator().manual_seed(a.seed + rank)
    times, losses = [], []
    for step in range(a.warmup + a.steps):
        window = torch.randint(a.vocab_size, (a.micro_batch, a.seq_len + 1), generator=batches)
        window = window.to(a.device)
        if a.ddp:
            dist.barrier()
        synchronize(a)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(a.device, torch.bfloat16, enabled=a.autocast):
            loss = step_model(window[:, :-1].contiguous(), window[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        synchronize(a)
        elapsed = torch.tensor(time.perf_counter() - start)
        if a.ddp:
            dist.all_reduce(elapsed, op=dist.ReduceOp.MAX)
        losses.append(loss.item())
        if step >= a.warmup:
            times.append(elapsed.item())
    increase = resident_bytes("VmHWM") - before
    if rank == 0:
        median = statistics.median(times)
        tokens = ranks * a.micro_batch * a.seq_len
        print(json.dumps({
            "peer": "pytorch", "version": torch.__version__, "ranks": ranks, "threads": a.threads,
            "compiled": a.compile, "parameters": parameters, "tokens_per_step": tokens,
            "step_ms": 1e3 * median, "tokens_per_s": tokens / median,
            "step_ms_min": 1e3 * min(times), "step_ms_max": 1e3 * max(times),
            "first_loss": losses[0], "last_loss": losses[-1], "rss_increase_bytes": increase,
            "micro_batch": a.micro_batch, "autocast": a.autocast, "recompute": a.recompute,
            **device_memory(a)}))
    if a.ddp:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
