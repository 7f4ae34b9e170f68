#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the CIFAR ResNet-18 on random images with PyTorch on CPUs and prints one JSON object.

    python3 pytorch_resnet.py [--threads 1] [--steps 8] [--batch 64] [--width 64] [--channels-last]
    python3 pytorch_resnet.py --layers [--repeats 15]
    torchrun --standalone --nproc-per-node 2 pytorch_resnet.py --ddp [options]

The peer that ResNet training stands beside: float32, oneDNN convolutions, SGD with momentum and
weight decay, gradients set to None; with --ddp, DistributedDataParallel over gloo with --threads
threads per process. A step is forward, backward, (all-reduce,) and update; its time is measured on
the slowest process.

Printed: step_ms (median), images_per_s (all processes), loss of the first and last step, parameters,
rss_increase_bytes (peak resident memory minus resident memory before the model is built). With
--layers: for every convolution of the model the best time in ms of forward, backward with respect to
the input, and with respect to the weight, as benchmark_convolution prints for sdp.
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


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="images per process and step")
    parser.add_argument("--steps", type=int, default=8, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true", help="memory format of PyTorch")
    parser.add_argument("--ddp", action="store_true", help="started by torchrun")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--layers", action="store_true", help="time single convolutions instead")
    parser.add_argument("--repeats", type=int, default=15, help="of a single convolution")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                                          nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.conv1 = nn.Conv2d(a.channels, a.width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(a.width)
        blocks, inputs = [], a.width
        for stage in range(4):
            outputs = a.width << stage
            blocks += [BasicBlock(inputs, outputs, 1 if stage == 0 else 2),
                       BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, a.classes)

    def forward(self, images, labels):
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.blocks(x).mean(dim=(2, 3))
        return F.cross_entropy(self.linear(x), labels)


def convolutions(width, channels):
    """(name, inputs, outputs, size, kernel, stride) of every different convolution."""
    rows, inputs, size = [("stem", channels, width, 32, 3, 1)], width, 32
    for stage in range(4):
        outputs = width << stage
        if stage:
            rows.append((f"layer{stage + 1}.0 conv1", inputs, outputs, size, 3, 2))
            rows.append((f"layer{stage + 1} shortcut", inputs, outputs, size, 1, 2))
            size //= 2
        rows.append((f"layer{stage + 1}", outputs, outputs, size, 3, 1))
        inputs = outputs
    return rows


def best_ms(repeats, f):
    f()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def time_layers(a):
    print(f"{'layer':16} {'forward':>9} {'d_input':>9} {'d_weight':>9}")
    for name, inputs, outputs, size, kernel, stride in convolutions(a.width, a.channels):
        x = torch.randn(a.batch, inputs, size, size)
        w = torch.randn(outputs, inputs, kernel, kernel)
        if a.channels_last:
            x = x.to(memory_format=torch.channels_last)
        padding = kernel // 2
        d_out = torch.randn_like(F.conv2d(x, w, None, stride, padding))

        def backward(with_input, with_weight):
            torch.ops.aten.convolution_backward(
                d_out, x, w, None, (stride, stride), (padding, padding), (1, 1), False, (0, 0), 1,
                (with_input, with_weight, False))

        times = [best_ms(a.repeats, lambda: F.conv2d(x, w, None, stride, padding)),
                 best_ms(a.repeats, lambda: backward(True, False)),
                 best_ms(a.repeats, lambda: backward(False, True))]
        print(f"{name:16} {times[0]:9.2f} {times[1]:9.2f} {times[2]:9.2f}", flush=True)


def resident_bytes(field):
    """VmRSS or VmHWM (its peak) of this process."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_peak_resident():
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as f:
        f.write("5")


def main():
    a = parse_arguments()
    torch.set_num_threads(a.threads)
    torch.set_num_interop_threads(1)
    if a.layers:
        time_layers(a)
        return
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
    model = ResNet18(a)
    memory_format = torch.channels_last if a.channels_last else torch.contiguous_format
    model = model.to(memory_format=memory_format)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    step_model = torch.compile(model) if a.compile else model
    if a.ddp:
        step_model = nn.parallel.DistributedDataParallel(step_model)

    batches = torch.Generator().manual_seed(a.seed + rank)
    times, losses = [], []
    for step in range(a.warmup + a.steps):
        images = torch.randn(a.batch, a.channels, 32, 32, generator=batches)
        images = images.to(memory_format=memory_format)
        labels = torch.randint(a.classes, (a.batch,), generator=batches)
        if a.ddp:
            dist.barrier()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = step_model(images, labels)
        loss.backward()
        optimizer.step()
        elapsed = torch.tensor(time.perf_counter() - start)
        if a.ddp:
            dist.all_reduce(elapsed, op=dist.ReduceOp.MAX)
        losses.append(loss.item())
        if step >= a.warmup:
            times.append(elapsed.item())
    increase = resident_bytes("VmHWM") - before
    if rank == 0:
        median = statistics.median(times)
        images = ranks * a.batch
        print(json.dumps({
            "peer": "pytorch", "version": torch.__version__, "ranks": ranks, "threads": a.threads,
            "channels_last": a.channels_last, "compiled": a.compile, "parameters": parameters,
            "images_per_step": images, "step_ms": 1e3 * median, "images_per_s": images / median,
            "step_ms_min": 1e3 * min(times), "step_ms_max": 1e3 * max(times),
            "first_loss": losses[0], "last_loss": losses[-1], "rss_increase_bytes": increase}))
    if a.ddp:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
