"""From a config to a runner that trains or tests, on the device, precision and processes that the user chose."""

from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict

from blip2.apis.config import load_config
from blip2.apis.weights import follow_source
from blip2.checkpoints import CheckpointError, fetch, open_checkpoint
from blip2.checkpoints.folder import is_weight_folder
from blip2.datasets import set_skip_bad_images
from blip2.engine import Blip2Runner
from blip2.engine.checkpoint_files import find_checkpoint, latest_checkpoint
from blip2.engine.compat import patch_mmengine, use_device
from blip2.engine.distributed import LAUNCHERS, detect_launcher, init_on_cpu
from blip2.engine.errors import OptionError
from blip2.engine.precision import precision_name
from blip2.utils.suggest import did_you_mean

# Optimizer wrappers whose precision a config field ``dtype`` sets.
_AUTOCAST = ("AmpOptimWrapper", "AutocastOptimWrapper")
# Loops that have an argument ``precision``; None stands for a config without a type.
_EVALUATION_LOOPS = (None, "ValLoop", "TestLoop", "RetrievalValLoop", "RetrievalTestLoop")
_OWN_HOOKS = ("PlainCheckpoint", "ProgressHook")


def build_runner(
    config: str | Path | Config,
    *,
    work_dir: str | Path | None = None,
    device: str = "auto",
    precision: str | None = None,
    launcher: str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool | str | Path = False,
    test_only: bool = False,
    skip_bad_images: bool = False,
) -> Blip2Runner:
    """A runner for `config`; ``.train()``, ``.val()`` or ``.test()`` sets it going.

    Args:
        config: what `load_config` takes. A `Config` is copied.
        work_dir: where logs and checkpoints go; default: the config's ``work_dir``, else ``work_dirs/<name of the
            config>``.
        device: see `blip2.engine.compat.use_device`.
        precision: ``'fp32'``, ``'bf16'``, ``'fp16'``; None leaves the config's word.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'``, ``'mpi'``; None finds out whether ``torchrun`` started this
            process.
        checkpoint: weights to start from: a file of any publisher's format, a Hugging Face folder, an address or a work
            folder; wins over the config's ``load_from``,
            which may be the same.
        resume: a checkpoint (or work folder) of this training to go on from; True means the latest in `work_dir`, if
            any.
        test_only: leave out everything that training and validation need.
        skip_bad_images: leave out pictures that cannot be read, and report them.

    Raises `ConfigError`, `CheckpointError`, `FileNotFoundError` or `OptionError` that say what to change.
    """
    patch_mmengine()
    cfg = load_config(config)
    kind = use_device(device)
    cfg.launcher = _joined(launcher, kind)
    cfg.work_dir = str(work_dir or cfg.get("work_dir") or Path("work_dirs") / Path(cfg.filename or "run").stem)
    if test_only:
        _drop_training(cfg)
    start = checkpoint if checkpoint is not None else cfg.get("load_from")
    if checkpoint is not None or (start and Path(start).is_dir()):
        cfg.load_from = str(_weights_file(start))
    if checkpoint is not None:
        follow_source(cfg, open_checkpoint(cfg.load_from))
    if precision is not None:
        _set_precision(cfg, precision_name(precision))
    _set_loops(cfg, skip_bad_images)
    _set_loaders(cfg, pin_memory=kind == "cuda")
    _set_hooks(cfg)
    if resume:
        _set_resume(cfg, resume)
    return Blip2Runner.from_cfg(cfg)


def _joined(launcher: str | None, device_kind: str) -> str:
    """The launcher; on a CPU the processes are joined here, on GPUs by mmengine."""
    launcher = launcher or detect_launcher()
    if launcher not in LAUNCHERS:
        raise OptionError(
            f"launcher {launcher!r} is none of {', '.join(LAUNCHERS)}.{did_you_mean(launcher, LAUNCHERS)}"
        )
    if launcher != "none" and device_kind != "cuda":
        init_on_cpu(launcher)
    return launcher


def _drop_training(cfg: Config) -> None:
    for field in (
        *("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"),
        *("val_dataloader", "val_cfg", "val_evaluator"),
    ):
        if cfg.get(field) is not None:
            cfg[field] = None
    cfg.resume = False


def _weights_file(checkpoint: str | Path) -> Path:
    path = Path(checkpoint).expanduser()
    return find_checkpoint(path) if path.is_dir() and not is_weight_folder(path) else fetch(checkpoint)


# ----- precision -----


def _set_precision(cfg: Config, precision: str) -> None:
    for stage in ("val_cfg", "test_cfg"):
        loop = cfg.get(stage)
        if loop is not None and loop.get("type") in _EVALUATION_LOOPS:
            loop.pop("fp16", None)
            loop.precision = precision
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None:
        return
    kind = wrapper.get("type", "OptimWrapper")
    if precision == "fp32":
        if kind not in ("OptimWrapper", *_AUTOCAST, "MasterWeightsOptimWrapper"):
            raise OptionError(
                f"--precision fp32 does not know what optim_wrapper.type={kind!r} does: change the config instead"
            )
        for field in ("dtype", "loss_scale", "plain_attention"):
            wrapper.pop(field, None)
        wrapper.type = "OptimWrapper"
    elif kind in ("OptimWrapper", *_AUTOCAST):
        wrapper.type, wrapper.dtype = "AutocastOptimWrapper", precision
    elif kind != "MasterWeightsOptimWrapper" or precision != "bf16":
        raise OptionError(
            f"--precision {precision} does not go with optim_wrapper.type={kind!r}: change one of the two"
        )


# ----- loops, loaders, hooks -----


def _set_loops(cfg: Config, skip_bad_images: bool) -> None:
    train = cfg.get("train_cfg")
    if train is not None and (train.get("by_epoch") is False or train.get("type") == "IterBasedTrainLoop"):
        # What belongs together: a config that counts iterations saves and logs by them too.
        if cfg.get("log_processor") is None:
            cfg.log_processor = ConfigDict(by_epoch=False)
        hooks = cfg.setdefault("default_hooks", ConfigDict())
        hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1000)).setdefault("by_epoch", False)
        hooks.setdefault("logger", ConfigDict(type="LoggerHook")).setdefault("log_metric_by_epoch", False)
    if not skip_bad_images:
        return
    for stage in ("train", "val", "test"):
        loader, loop = cfg.get(f"{stage}_dataloader"), cfg.get(f"{stage}_cfg")
        if loader is not None:
            set_skip_bad_images(loader.dataset)
        if stage != "train" and loop is not None:
            loop.skip_bad_images = True


def _set_loaders(cfg: Config, pin_memory: bool) -> None:
    for stage in ("train", "val", "test"):
        loader = cfg.get(f"{stage}_dataloader")
        if isinstance(loader, dict):
            loader.setdefault("pin_memory", pin_memory)
            if loader.get("num_workers"):
                loader.setdefault("persistent_workers", True)


def _set_hooks(cfg: Config) -> None:
    hooks = list(cfg.get("custom_hooks") or [])
    present = {hook.get("type") for hook in hooks if isinstance(hook, dict)}
    cfg.custom_hooks = [*hooks, *(ConfigDict(type=name) for name in _OWN_HOOKS if name not in present)]


def _set_resume(cfg: Config, resume: bool | str | Path) -> None:
    if resume is True or resume == "auto":
        path = latest_checkpoint(cfg.work_dir)
        if path is None:
            return  # nothing yet: a job that always says `--resume` starts from the beginning
    else:
        path = Path(str(resume)).expanduser()
        if path.is_dir():
            found = latest_checkpoint(path)
            if found is None:
                raise CheckpointError(f"--resume: {path} holds no epoch_*.pth or iter_*.pth to go on from")
            path = found
        path = fetch(path)
    cfg.load_from, cfg.resume = str(path), True
    seed = _seed_of(path)
    if seed is not None:
        # The samplers are built before the checkpoint is read.
        cfg.randomness = ConfigDict(cfg.get("randomness") or {}, seed=seed)


def _seed_of(path: Path) -> int | None:
    """The seed of the run that wrote a checkpoint; None when the file does not say (the runner will say what is
    wrong).
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["meta"]["seed"])
    except Exception:
        return None
