#!/usr/bin/env python
"""Write the weights of a training checkpoint as a file to hand on, without optimizer and history.

publish_model.py CONFIG work_dirs/mine mine.safetensors --dtype fp16
publish_model.py CONFIG work_dirs/mine parts.safetensors --dtype int8 --only vision_backbone text_backbone
publish_model.py CONFIG work_dirs/mine mine.safetensors --dtype int8 --shared parts.safetensors
"""

import argparse
from pathlib import Path

import torch

from blip2.apis import init_model
from blip2.checkpoints import save_checkpoint
from blip2.engine.checkpoint_files import find_checkpoint

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="path, bundled config or model name")
    parser.add_argument("checkpoint", help="checkpoint file, or work folder (its best or latest checkpoint)")
    parser.add_argument("out", type=Path, help="the file to write: .safetensors or .pth")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="type of the weights (default: fp16)")
    parser.add_argument("--shared", type=Path, help="leave out the parts that this file holds; it must lie beside OUT")
    parser.add_argument("--only", nargs="+", default=(), metavar="PART", help="write these parts of the model alone")
    args = parser.parse_args()
    source = find_checkpoint(args.checkpoint)
    model = init_model(args.config, str(source), device="cpu")
    path = save_checkpoint(model, args.out, dtype=DTYPES[args.dtype], shared=args.shared, only=args.only)
    print(f"{source} -> {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
