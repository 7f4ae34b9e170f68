#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what PyTorch computes in float64 for one residual block of a ResNet.

    python3 make_residual_block_references.py [--out FOLDER]

Writes FOLDER/<name>.safetensors and <name>.json (FOLDER defaults to data/ beside this script), one
forward pass in training, its backward pass with `d_out` as the gradient of the output, and one
forward pass in evaluation after it. Images are (N,C,H,W) and weights (O,I,K,K), as in PyTorch:

`x`, `d_out`, `weight.<name>`, `before.<buffer>` (F32), `out`, `d_x`, `grad.<name>`,
`after.<buffer>`, `evaluated` (F64)

Needs torch and safetensors. The same versions write the same bytes.
"""

import argparse
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

# images, input channels, output channels, height, width, stride
SHAPES = {"residual_block_identity": (3, 19, 19, 9, 7, 1),
          "residual_block_projection": (5, 10, 17, 9, 6, 2)}


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


def float_tensors(state):
    return {key: value for key, value in state.items() if value.is_floating_point()}


def draw(block, generator):
    """Weights and running statistics that no term is trivial for."""
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise if parameter.ndim == 4 else
                            1.0 + 0.3 * noise if name.endswith("weight") else 0.3 * noise)
        for name, buffer in float_tensors(dict(block.named_buffers())).items():
            noise = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(0.5 + noise if name.endswith("var") else noise - 0.5)


def record(folder, name, seed):
    images, inputs, outputs, height, width, stride = SHAPES[name]
    generator = torch.Generator().manual_seed(seed)
    block = BasicBlock(inputs, outputs, stride)
    draw(block, generator)
    x = torch.randn(images, inputs, height, width, generator=generator)
    d_out = torch.randn(images, outputs, -(-height // stride), -(-width // stride),
                        generator=generator)
    tensors = {"x": x, "d_out": d_out}
    tensors |= {f"weight.{key}": p.detach().clone() for key, p in block.named_parameters()}
    tensors |= {f"before.{key}": b.clone()
                for key, b in float_tensors(dict(block.named_buffers())).items()}
    block.double().train()
    x = x.double().requires_grad_(True)
    out = block(x)
    out.backward(d_out.double())
    tensors |= {"out": out.detach(), "d_x": x.grad}
    tensors |= {f"grad.{key}": p.grad for key, p in block.named_parameters()}
    tensors |= {f"after.{key}": b for key, b in float_tensors(dict(block.named_buffers())).items()}
    with torch.no_grad():
        tensors["evaluated"] = block.eval()(x)
    about = {"name": name, "images": images, "inputs": inputs, "outputs": outputs,
             "height": height, "width": width, "stride": stride, "seed": seed,
             "torch": torch.__version__.split("+")[0]}
    (folder / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path,
              {"reference": json.dumps(about)})
    path.chmod(0o644)


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=here / "data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(SHAPES):
        record(arguments.out, name, 4000 + i)


if __name__ == "__main__":
    main()
