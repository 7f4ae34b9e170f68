#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loads an exported ResNet-18 with PyTorch and compares logits.

    python3 check_resnet_export.py --file MODEL.safetensors --logits FILE.safetensors
                                   [--tolerance 1e-5]

FILE holds `images` (B, C, 32, 32) and `logits` (B, K), of any numeric type. The names must be
exactly those of the state_dict. The figure compared is ||a - b|| / ||b|| over all logits, b being
those of PyTorch in float32. Exit status 0 when it is at most the tolerance, else 1.
"""

import argparse

import torch
from safetensors.torch import load_file

from make_resnet_references import Resnet18


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", required=True)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    arguments = parser.parse_args()

    tensors = load_file(arguments.file)
    width, channels = tensors["conv1.weight"].shape[:2]
    model = Resnet18(width, tensors["linear.weight"].shape[0], channels)
    model.load_state_dict(tensors, strict=True)
    recorded = load_file(arguments.logits)
    with torch.no_grad():
        theirs = model.eval()(recorded["images"].float()).double()
    ours = recorded["logits"].double()
    if ours.shape != theirs.shape:
        raise SystemExit(f"logits are {tuple(ours.shape)} in {arguments.logits} and "
                         f"{tuple(theirs.shape)} in PyTorch")
    error = float((ours - theirs).norm() / theirs.norm())
    print(f"{arguments.file}: {sum(p.numel() for p in model.parameters()):,} parameters, "
          f"{int(model.bn1.num_batches_tracked)} batches tracked, relative error of the logits "
          f"{error:.2e} (at most {arguments.tolerance:.0e})")
    raise SystemExit(0 if error <= arguments.tolerance else 1)


if __name__ == "__main__":
    main()
