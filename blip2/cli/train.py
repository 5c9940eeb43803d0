"""``blip2 train``: trains a model from a config."""

import argparse
import sys

from blip2.cli.runs import (
    EXIT_FINE,
    HelpFormatter,
    add_common_options,
    chosen_precision,
    guarded,
    leaving_processes,
)

EXAMPLES = """\
examples:
  blip2 train blip2/blip2-opt2.7b_8xb32_caption.py
  blip2 train my_config.py --work-dir work_dirs/mine --precision bf16
  blip2 train my_config.py --resume                        # from the latest checkpoint of the work folder, if any
  blip2 train my_config.py --resume work_dirs/mine/epoch_3.pth
  blip2 train my_config.py --cfg-options train_cfg.max_epochs=20 train_dataloader.batch_size=16
  torchrun --nproc_per_node 2 -m blip2.cli.train my_config.py --device cpu

CONFIG is a path, a bundled config or a model name (see `blip2 list`).
"""


def build_parser(prog: str = "blip2 train") -> argparse.ArgumentParser:
    """The options, those of mmpretrain's ``tools/train.py`` among them."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Train a model from a config.", epilog=EXAMPLES, formatter_class=HelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="path, bundled config or model name")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; without one from the latest in the work folder",
    )
    parser.add_argument("--no-validate", action="store_true", help="no validation during training")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate to the batch size (auto_scale_lr)"
    )
    parser.add_argument(
        "--no-persistent-workers", action="store_true", help="start the data loaders' workers anew each epoch"
    )
    add_common_options(parser)
    return parser


def main(argv: list[str] | None = None, prog: str = "blip2 train") -> int:
    """Runs the command; returns 0, or 2 after a message about what to change."""
    args = build_parser(prog).parse_args(argv)
    return guarded(prog, lambda: train(args))


def train(args: argparse.Namespace) -> int:
    """Trains as `args` say."""
    from blip2.apis.config import load_config
    from blip2.apis.runner import build_runner
    from blip2.engine.errors import OptionError

    cfg = load_config(args.config, args.cfg_options)
    for field in ("train_dataloader", "train_cfg", "optim_wrapper"):
        if cfg.get(field) is None:
            raise OptionError(f"{cfg.filename} has no {field}: it cannot be trained")
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.auto_scale_lr:
        if not (cfg.get("auto_scale_lr") or {}).get("base_batch_size"):
            raise OptionError("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config")
        cfg.auto_scale_lr.enable = True
    for loader in (cfg.train_dataloader, cfg.get("val_dataloader")):
        if loader is not None and args.no_pin_memory:
            loader.pin_memory = False
        if loader is not None and args.no_persistent_workers:
            loader.persistent_workers = False
    runner = build_runner(
        cfg,
        work_dir=args.work_dir,
        device=args.device,
        precision=chosen_precision(args),
        launcher=args.launcher,
        resume=args.resume or False,
        skip_bad_images=args.skip_bad_images,
    )
    with leaving_processes():
        runner.train()
    return EXIT_FINE


if __name__ == "__main__":
    sys.exit(main())
