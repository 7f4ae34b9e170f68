#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loads an exported Hugging Face folder with transformers and compares logits.

    python3 check_export.py --folder EXPORTED --logits FILE.safetensors [--tolerance 1e-5]

FILE holds `tokens` (B, T) and `logits` (B, T, V), of any numeric type. The figure compared is
||a - b|| / ||b|| over all logits, b being those of transformers in float32. Exit status 0 when it
is at most the tolerance and every tensor of the folder was used, else 1.
"""

import argparse

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    arguments = parser.parse_args()

    model, report = AutoModelForCausalLM.from_pretrained(
        arguments.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True,
        attn_implementation="eager")
    problems = {kind: list(names) for kind, names in report.items() if names}
    recorded = load_file(arguments.logits)
    with torch.no_grad():
        theirs = model.eval()(recorded["tokens"].long()).logits.double()
    ours = recorded["logits"].double()
    if ours.shape != theirs.shape:
        raise SystemExit(f"logits are {tuple(ours.shape)} in {arguments.logits} and "
                         f"{tuple(theirs.shape)} in transformers")
    error = float((ours - theirs).norm() / theirs.norm())
    print(f"{arguments.folder}: {sum(p.numel() for p in model.parameters()):,} parameters, "
          f"relative error of the logits {error:.2e} (at most {arguments.tolerance:.0e})")
    for kind, names in problems.items():
        print(f"  {kind}: {', '.join(map(str, names))}")
    raise SystemExit(0 if error <= arguments.tolerance and not problems else 1)


if __name__ == "__main__":
    main()
