"""``blip2 convert``: a checkpoint from one publisher's format to another's."""

import argparse
import sys

EXIT_FINE, EXIT_USAGE = 0, 2

_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_EXAMPLES = """\
examples:
  blip2 convert blip2_pretrained_opt2.7b.pth opt2.7b.safetensors --to blip2
  blip2 convert blip2_pretrained.pth stage1.pth --to openmmlab --vision-tower eva_vit_g.pth
  blip2 convert mine.safetensors mine-hf --to hf --config my_config.py
  blip2 convert blip2-opt-2.7b blip2-opt-2.7b.pth --to lavis --dtype fp16
  blip2 convert caption.pth caption_364.safetensors --to blip2 --img-size 364

SRC is recognised by its content. What the other format has no place for is named, a line each. DST is written whole or
not at all.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blip2 convert",
        description="Write a checkpoint of OpenMMLab, LAVIS, Hugging Face or this package in another one's format.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SRC", help="a file, a Hugging Face folder, or an address")
    parser.add_argument("target", metavar="DST", help="the file to write; with --to hf the folder")
    parser.add_argument("--to", required=True, choices=("blip2", "openmmlab", "lavis", "hf"), help="the format of DST")
    parser.add_argument("--config", help="for hf: the model's config (default: that of the published model)")
    parser.add_argument("--dtype", choices=_TYPES, help="type of the weights (default: as in SRC)")
    parser.add_argument("--img-size", type=int, metavar="N", help="resize the position embeddings to pictures of N px")
    parser.add_argument("--vision-tower", metavar="FILE", help="LAVIS's image encoder where SRC was saved without")
    parser.add_argument(
        "--language-model", metavar="NAME", help="for hf: folder or published name, where SRC holds none"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 after a message about what to change."""
    args = build_parser().parse_args(argv)

    import torch

    from blip2.apis.config import ConfigError
    from blip2.apis.convert import convert_checkpoint
    from blip2.checkpoints import CheckpointError

    try:
        done = convert_checkpoint(
            args.source,
            args.target,
            args.to,
            config=args.config,
            dtype=getattr(torch, _TYPES[args.dtype]) if args.dtype else None,
            img_size=args.img_size,
            vision_tower=args.vision_tower,
            language_model=args.language_model,
        )
    except (CheckpointError, ConfigError, OSError) as error:
        print(f"blip2 convert: {error}", file=sys.stderr)
        return EXIT_USAGE
    for loss in done.lost:
        print(f"lost: {loss}")
    print(f"{args.source} ({done.source_format}) -> {done.path} ({done.target_format})")
    return EXIT_FINE
