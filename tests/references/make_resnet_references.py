#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what PyTorch computes in float64 for the CIFAR ResNet-18, for the tests to compare with.

    python3 make_resnet_references.py [--out FOLDER] [--only NAME...]

Writes FOLDER/<name>.safetensors and <name>.json (FOLDER defaults to data/ beside this script): three
training steps of torch.optim.SGD. Start weights and images follow from a formula, `draw` below, and
are not stored. Of each step: `logits.<step>`, `loss` and, for every gradient and every batch-norm
buffer after the step, `grad.<step>.<name>` and `buffer.<step>.<name>`. For narrow models these are
the tensors themselves; for the full width they are their norm and three sums with signs from the
same formula, which bound a relative error as well.
`eval_logits` are those of the last batch in inference after the last step.

Needs torch and safetensors. The same versions write the same bytes.
"""

import argparse
import json
import pathlib
import sys

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

# name: width, classes, input channels, batch, label smoothing, whole tensors or sums, shift, stream
# of the first step's images.
# A value within rounding of zero has one gradient or another after ReLU, so single precision can
# agree with double only where there is none. Images are such that over all steps no value before a
# ReLU is nearer to zero than the margin, and no gradient so small a difference of large numbers that
# PyTorch's own single precision misses it by more than 2e-5. With a shift, even channels of a batch
# norm are mostly on and odd ones mostly off; there are no such images for the full width without.
CASES = {
    "resnet_narrow": (3, 7, 3, 3, 0.0, True, 0.0, 1249),
    "resnet_gray": (2, 5, 1, 1, 0.1, True, 0.0, 1081),
    "resnet_full": (64, 10, 3, 5, 0.0, False, 3.0, 1177),
}
MARGIN = 2.5e-5
STEPS = 3
SGD = {"lr": 0.005, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
SUMS = 3


def draw(count, stream):
    """`count` numbers of [-1/2, 1/2) with 20 bits, exact in float32: a 32-bit hash of the index."""
    x = numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(stream) * numpy.uint64(1000003)
    x = x & numpy.uint64(0xFFFFFFFF)
    for multiplier in (0x85EBCA6B, 0xC2B2AE35):
        x ^= x >> numpy.uint64(15)
        x = (x * numpy.uint64(multiplier)) & numpy.uint64(0xFFFFFFFF)
    x ^= x >> numpy.uint64(16)
    return (x >> numpy.uint64(12)).astype(numpy.float64) / 2.0**20 - 0.5


def drawn(shape, stream):
    return torch.from_numpy(draw(int(numpy.prod(shape)), stream)).reshape(shape)


nearest_to_zero = float("inf")


def relu(x):
    global nearest_to_zero
    nearest_to_zero = min(nearest_to_zero, x.detach().abs().min().item())
    return F.relu(x)


class Block(nn.Module):
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
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Resnet18(nn.Module):
    """The CIFAR variant: 3x3 stem, no max-pool."""

    def __init__(self, width, classes, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage in range(4):
            outputs = width << stage
            blocks = [Block(inputs, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = relu(self.bn1(self.conv1(x)))
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.linear(x.mean(dim=(2, 3)))


def start(model, shift):
    """Weights by the formula; stream n for the n-th tensor in order of names."""
    names = sorted(name for name, _ in model.named_parameters())
    parameters = dict(model.named_parameters())
    for stream, name in enumerate(names):
        p = parameters[name]
        values = drawn(tuple(p.shape), stream)
        if p.dim() == 4:
            values = values * (4.0 / (p.shape[1] * p.shape[2] * p.shape[3]) ** 0.5)
        elif p.dim() == 2:
            values = values * (4.0 / p.shape[1] ** 0.5)
        elif name.endswith("weight"):
            values = values + 1.0
        elif name != "linear.bias":
            values = values + shift * (1.0 - 2.0 * (torch.arange(len(p)) % 2))
        p.data = values.float().double()


def record(folder, name):
    global nearest_to_zero
    width, classes, channels, batch, smoothing, whole, shift, stream = CASES[name]
    nearest_to_zero = float("inf")
    model = Resnet18(width, classes, channels).double()
    start(model, shift)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    tensors, losses = {}, []

    def keep(key, value):
        if whole:
            tensors[key] = value.detach().clone()
            return
        flat = value.detach().flatten()
        signs = [torch.where(drawn(flat.shape, 5000 + i) < 0, -1.0, 1.0) for i in range(SUMS)]
        tensors[key] = torch.stack([flat.norm()] + [(sign * flat).sum() for sign in signs])

    for step in range(STEPS):
        images = 4.0 * drawn((batch, channels, 32, 32), stream + step)
        labels = ((drawn((batch,), 2000 + step) + 0.5) * classes).long()
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        loss.backward()
        tensors[f"logits.{step}"] = logits.detach()
        losses.append(loss.item())
        for key, p in model.named_parameters():
            keep(f"grad.{step}.{key}", p.grad)
        for key, buffer in model.named_buffers():
            if not key.endswith("num_batches_tracked"):
                keep(f"buffer.{step}.{key}", buffer)
        optimizer.step()
    if nearest_to_zero < MARGIN:
        sys.exit(f"{name}: a value before a ReLU is {nearest_to_zero:.1e} from zero")
    model.eval()
    tensors["eval_logits"] = model(images).detach()
    tensors["loss"] = torch.tensor(losses, dtype=torch.float64)
    for key, p in model.named_parameters():
        keep(f"final.{key}", p)

    about = {"name": name, "width": width, "classes": classes, "channels": channels,
             "batch": batch, "label_smoothing": smoothing, "whole": whole, "shift": shift,
             "images": stream, "margin": MARGIN, "sums": SUMS,
             "steps": STEPS, "sgd": SGD, "torch": torch.__version__.split("+")[0]}
    (folder / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path,
              {"reference": json.dumps(about)})
    path.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent / "data")
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=sorted(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in arguments.only:
        record(arguments.out, name)


if __name__ == "__main__":
    main()
