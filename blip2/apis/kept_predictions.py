"""Predictions of a test, kept as they are made: the same test after an interruption goes on where it stopped."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from blip2.datasets import set_skip_bad_images
from blip2.engine.loops import TestLoop
from blip2.engine.predictions import PredictionLog, fingerprint

# Fields of a config that decide on predictions; the number of workers and the like do not.
_DECISIVE = ("model", "data_preprocessor", "test_cfg", "randomness")
_INDECISIVE = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "timeout")


def keep_predictions(runner: Any, *, resume: bool, keep_finished: bool = False) -> None:
    """Has a runner's test loop write its predictions into the work folder; a loop of another kind has its own ways.

    Args:
        runner: as `build_runner` makes it, with ``load_from``.
        resume: take up what an interrupted test with the same weights, data and settings has left.
        keep_finished: take up what a finished one has left as well, so that only the scores are made anew.
    """
    loop = runner.test_loop
    if not isinstance(loop, TestLoop):
        return
    dataset = loop.dataloader.dataset
    with suppress(TypeError):  # a data set of another kind, which raises at the first one
        # Bad pictures are named all together at the end, not one a run.
        set_skip_bad_images(dataset)
    cfg = runner.cfg
    settings = {field: cfg.get(field) for field in _DECISIVE}
    settings["precision"] = loop.precision
    settings["loader"] = {key: value for key, value in cfg.test_dataloader.items() if key not in _INDECISIVE}
    about = {"config": cfg.filename, "checkpoint": cfg.load_from, "precision": loop.precision}
    print_of_run = fingerprint(_without_skipping(settings), Path(cfg.load_from), dataset)
    folder = Path(runner.work_dir) / "predictions"
    loop.log = PredictionLog(folder, print_of_run, about, resume=resume, keep_finished=keep_finished)


def _without_skipping(settings: Any) -> Any:
    """`settings` without ``skip_bad_images``: it decides what becomes of predictions, not on them."""
    if isinstance(settings, dict):
        return {key: _without_skipping(value) for key, value in sorted(settings.items()) if key != "skip_bad_images"}
    if isinstance(settings, list | tuple):
        return [_without_skipping(value) for value in settings]
    return settings
