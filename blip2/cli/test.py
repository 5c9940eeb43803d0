"""``blip2 test``: scores a checkpoint on a config's test set."""

import argparse
import json
import pickle
import sys
from pathlib import Path
from typing import Any

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
  blip2 test blip2-tiny_shapes-caption                     # a model name brings config and weights
  blip2 test my_config.py work_dirs/mine/epoch_3.pth
  blip2 test my_config.py work_dirs/mine                   # its best checkpoint, or the latest
  blip2 test my_config.py weights.pth --out scores.json
  blip2 test my_config.py weights.pth --out captions.json --out-item pred
  blip2 test my_config.py weights.pth --show-dir drawn --interval 10
  torchrun --nproc_per_node 2 -m blip2.cli.test my_config.py weights.pth --device cpu

CONFIG is a path, a bundled config or a model name (see `blip2 list`). Predictions are kept in the work folder as they
are made; the same command after an interruption goes on from there (with retrieval it begins anew, because a rank
depends on all pictures).
"""


def build_parser(prog: str = "blip2 test") -> argparse.ArgumentParser:
    """The options, those of mmpretrain's ``tools/test.py`` among them."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Score a checkpoint.", epilog=EXAMPLES, formatter_class=HelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="path, bundled config or model name")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="file or Hugging Face folder in any publisher's format, address, or work folder (default: the weights of "
        "the model name)",
    )
    parser.add_argument("--out", metavar="FILE", help="write scores or predictions to a .json, .pkl or .pickle")
    parser.add_argument(
        "--out-item", choices=("metrics", "pred"), default="metrics", help="what goes there (default: metrics)"
    )
    parser.add_argument("--show-dir", metavar="DIR", help="draw predictions into this folder")
    parser.add_argument("--show", action="store_true", help="draw predictions in a window")
    parser.add_argument("--interval", type=int, default=1, metavar="N", help="draw every N-th sample (default: 1)")
    parser.add_argument("--wait-time", type=float, default=2, metavar="SECONDS", help="how long a window stays")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="make kernels for the image encoder and the Q-Former with torch.compile (a minute or more at the start)",
    )
    parser.add_argument("--tta", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--no-resume", action="store_true", help="predict everything anew, whatever an interrupted run has left"
    )
    add_common_options(parser)
    return parser


def main(argv: list[str] | None = None, prog: str = "blip2 test") -> int:
    """Runs the command; returns 0, 1 when pictures could not be read, 2 after a message about what to change."""
    args = build_parser(prog).parse_args(argv)
    return guarded(prog, lambda: test(args))


def test(args: argparse.Namespace) -> int:
    """Scores as `args` say."""
    from mmengine.dist import is_main_process

    from blip2.apis.kept_predictions import keep_predictions
    from blip2.engine.errors import OptionError
    from blip2.models.compiled import compile_encoders

    runner = _runner(args)
    if args.compile:
        try:
            compile_encoders(runner.bare_model)
        except TypeError as error:
            raise OptionError(f"--compile: {error}; leave the option out") from error
    with leaving_processes():
        keep_predictions(runner, resume=not (args.no_resume or args.show or args.show_dir))
        metrics = runner.test()
        if args.out and is_main_process():
            loop = runner.test_loop
            predictions = [loop.samples[index] for index in sorted(loop.samples)]
            _write(Path(args.out), metrics if args.out_item == "metrics" else predictions)
            runner.logger.info(f"{args.out_item} written to {args.out}")
    return EXIT_FINE


test.__test__ = False  # type: ignore[attr-defined]  # no test, whatever pytest thinks of the name


def _runner(args: argparse.Namespace) -> Any:
    from blip2.apis.config import load_config
    from blip2.apis.runner import build_runner
    from blip2.engine.errors import OptionError

    if args.tta:
        raise OptionError("--tta: test-time augmentation is not implemented here; leave the option out")
    if args.out and Path(args.out).suffix not in (".json", ".pkl", ".pickle"):
        raise OptionError(f"--out {args.out}: the name must end in .json, .pkl or .pickle")
    cfg = load_config(args.config, args.cfg_options)
    for field in ("test_dataloader", "test_cfg", "test_evaluator"):
        if cfg.get(field) is None:
            raise OptionError(f"{cfg.filename} has no {field}: it cannot be tested")
    if args.no_pin_memory:
        cfg.test_dataloader.pin_memory = False
    if args.show or args.show_dir:
        _draw(cfg, args)
    if (cfg.get("randomness") or {}).get("seed") is None:
        cfg.randomness = {"seed": 0}  # a score is to be the same again, sampled captions included
    return build_runner(
        cfg,
        work_dir=args.work_dir,
        device=args.device,
        precision=chosen_precision(args),
        launcher=args.launcher,
        checkpoint=_checkpoint(args),
        test_only=True,
        skip_bad_images=args.skip_bad_images,
    )


def _checkpoint(args: argparse.Namespace) -> str:
    if args.checkpoint:
        return args.checkpoint
    from blip2.apis.metafile import model_entries
    from blip2.engine.errors import OptionError

    entry = model_entries().get(args.config)
    if entry is None or entry.weights is None:
        raise OptionError(
            f"which weights? CHECKPOINT may be left out only with a model name that has some, not with {args.config!r}"
        )
    return entry.weights


def _draw(cfg: Any, args: argparse.Namespace) -> None:
    cfg.setdefault("default_hooks", {})["visualization"] = {
        "type": "VisualizationHook",
        "enable": True,
        "show": args.show,
        "interval": args.interval,
        "wait_time": args.wait_time,
        **({"out_dir": args.show_dir} if args.show_dir else {}),
    }
    if cfg.get("visualizer") is None:
        cfg.visualizer = {"type": "UniversalVisualizer"}


def _write(path: Path, content: Any) -> None:
    from blip2.engine.predictions import plain

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        path.write_bytes(pickle.dumps(content))


if __name__ == "__main__":
    sys.exit(main())
