"""mmengine's Runner with this package's loops, checkpoints and devices."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner as MMRunner
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from blip2.checkpoints import CheckpointError, fetch, is_complete_with_weights, load_checkpoint, read_state_dict
from blip2.engine import random_state
from blip2.engine.data import stop_workers
from blip2.engine.hooks import ProgressHook
from blip2.engine.loops import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop
from blip2.engine.schedules import check_not_frozen, resume_schedulers
from blip2.registry import METRICS, MODELS, RUNNERS
from blip2.utils.files import written_whole

# Longer messages (environment, config, order of hooks) go to the log file alone.
CONSOLE_LINES = 12


@RUNNERS.register_module()
class Blip2Runner(MMRunner):
    """Builds this package's loops where a config names none, resumes exactly, and runs on CPU processes as well.

    Its arguments are mmengine's; `blip2.apis.runner.build_runner` makes them from a config.
    """

    _started: ClassVar[set[str]] = set()
    _timestamp: str
    optim_wrapper: Any
    param_schedulers: Any

    # ----- building -----

    def setup_env(self, env_cfg: dict) -> None:
        super().setup_env(env_cfg)
        # mmengine keeps loggers and message hubs by this stamp; two runners of one second must not share them.
        stamp, number = self._timestamp, 2
        while self._timestamp in self._started:
            self._timestamp = f"{stamp}_{number}"
            number += 1
        self._started.add(self._timestamp)

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> Any:
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_for_console)
        return logger

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        if isinstance(model, nn.Module):
            return model
        ready_weights = self._train_loop is None and self._load_from and not self._own_start
        if get_device() == "meta" or ready_weights:
            with torch.device("meta"):
                built = MODELS.build(copy.deepcopy(model))
            if get_device() == "meta":
                return built
            if is_complete_with_weights(built):
                # Random weights need not be drawn first, nor two copies held.
                load_checkpoint(built, self._load_from)
                self._has_loaded = True
                return built
        return super().build_model(model)

    @property
    def _own_start(self) -> bool:
        """Whether a hook of the config has a say in what the model starts from."""
        kinds = {hook.get("type") for hook in self.cfg.get("custom_hooks") or [] if isinstance(hook, dict)}
        return bool(kinds - {"PlainCheckpoint", "ProgressHook"})

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        needs_sync = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
        alone = not self.distributed and not needs_sync
        if model_wrapper_cfg is None and (alone or self._train_loop is None):
            return model.to(get_device())  # nobody to exchange gradients with, or none to exchange
        if self.distributed and get_device() == "cpu" and model_wrapper_cfg is None and not is_model_wrapper(model):
            return MMDistributedDataParallel(
                model, broadcast_buffers=False, find_unused_parameters=self.cfg.get("find_unused_parameters", False)
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        if isinstance(loop, dict) and "type" not in loop:
            settings = dict(loop)
            kind = EpochBasedTrainLoop if settings.pop("by_epoch", True) else IterBasedTrainLoop
            return kind(self, self._train_dataloader, **settings)
        return super().build_train_loop(loop)

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        if isinstance(loop, dict) and "type" not in loop:
            return ValLoop(self, self._val_dataloader, self._val_evaluator, **loop)
        return super().build_val_loop(loop)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        if isinstance(loop, dict) and "type" not in loop:
            return TestLoop(self, self._test_dataloader, self._test_evaluator, **loop)
        return super().build_test_loop(loop)

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        # mmengine takes a metric with an argument ``metrics`` for an evaluator.
        if isinstance(evaluator, dict) and {"type", "metrics"} <= evaluator.keys() and METRICS.get(evaluator["type"]):
            return Evaluator([evaluator])
        return super().build_evaluator(evaluator)

    # ----- running -----

    def train(self) -> nn.Module:
        try:
            return super().train()
        finally:
            self.close()

    def val(self) -> dict:
        try:
            return super().val()
        finally:
            self.close()

    def test(self) -> dict:
        try:
            return super().test()
        finally:
            self.close()

    def close(self) -> None:
        """Ends progress bars and the loaders' workers, however a run came to its end."""
        for hook in self._hooks:
            if isinstance(hook, ProgressHook):
                hook.close()
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            if isinstance(loop, BaseLoop) and isinstance(loop.dataloader, DataLoader):
                stop_workers(loop.dataloader)

    # ----- loading -----

    @property
    def bare_model(self) -> nn.Module:
        """The model without its data-parallel wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def load_or_resume(self) -> None:
        """Loads weights where there are any to load; hooks hear of it before as ``before_load_or_resume``."""
        if not self._has_loaded:
            self.call_hook("before_load_or_resume")
            super().load_or_resume()
        if isinstance(self._train_loop, BaseLoop) and isinstance(self.param_schedulers, list):
            check_not_frozen(
                self.param_schedulers,
                max_epochs=self.max_epochs,
                max_iters=self.max_iters,
                resumed=self.iter > 0,
                logger=self.logger,
            )

    def load_checkpoint(
        self,
        filename: str | Path,
        map_location: str | Callable = "cpu",
        strict: bool = True,
        revise_keys: list | None = None,
    ) -> Any:
        """Loads weights, every key accounted for (see `blip2.checkpoints.load_checkpoint`)."""
        if revise_keys:
            raise ValueError("revise_keys: rename the keys in the file instead; this package loads them as they are")
        result = load_checkpoint(self.bare_model, filename, map_location="cpu", strict=strict)
        if not self._resume:
            self.call_hook("after_load_checkpoint", checkpoint={"state_dict": self.bare_model.state_dict()})
        self._has_loaded = True
        self.logger.info(f"weights from {filename}")
        return result

    def resume(
        self,
        filename: str | Path,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str | Callable = "cpu",
    ) -> None:
        """Goes on from a checkpoint of this package's training as if it had not been interrupted.

        Raises `CheckpointError` for a file without a training state.
        """
        path = fetch(filename)
        checkpoint = read_training_state(path)
        self.load_checkpoint(path)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if "ema_state_dict" in checkpoint:  # mmengine's EMAHook saves averages as the weights, and has put them back
            self.bare_model.load_state_dict(checkpoint["state_dict"], strict=False)
        meta, loop = checkpoint["meta"], self.train_loop
        self.message_hub.load_state_dict(checkpoint["message_hub"])
        if isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop):
            loop.load_state_dict(checkpoint["loop"], meta["epoch"], meta["iter"])
            loop._random_states = checkpoint["random_states"]
        else:
            loop._epoch, loop._iter = meta["epoch"], meta["iter"]
        if resume_optimizer:
            self._resume_optimizer(checkpoint)
        if resume_param_scheduler and self.param_schedulers is not None:
            self._resume_schedulers(checkpoint)
        self._has_loaded = True
        self.logger.info(f"resumed from {path}: {meta['epoch']} epochs and {meta['iter']} iterations are done")

    def _resume_optimizer(self, checkpoint: dict) -> None:
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        self.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        if "gradients" in checkpoint:
            for group_index, group in enumerate(self.optim_wrapper.optimizer.param_groups):
                for index, parameter in enumerate(group["params"]):
                    gradient = checkpoint["gradients"].get(f"{group_index}.{index}")
                    parameter.grad = None if gradient is None else gradient.to(parameter)

    def _resume_schedulers(self, checkpoint: dict) -> None:
        meta, states = checkpoint["meta"], checkpoint["param_schedulers"]
        self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        if isinstance(self.param_schedulers, dict):
            groups = [
                (schedulers, states[name], self.optim_wrapper[name])
                for name, schedulers in self.param_schedulers.items()
            ]
        else:
            groups = [(self.param_schedulers, states, self.optim_wrapper)]
        for schedulers, saved, wrapper in groups:
            resume_schedulers(
                schedulers, saved, wrapper, epochs=meta["epoch"], iterations=meta["iter"], logger=self.logger
            )

    # ----- saving -----

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's, whole or not at all; every process calls it, since each has random generators of its own."""
        self._random_states = random_state.gather()
        if not is_main_process():
            return
        if "://" in str(out_dir):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        with written_whole(Path(out_dir) / filename) as partial:
            super().save_checkpoint(out_dir, partial.name, *args, **kwargs)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        if fn_name == "before_save_checkpoint":
            self._add_place(kwargs["checkpoint"])
        for hook in self._hooks:
            # Not mmengine's own, which turns a TypeError inside a hook into one without a traceback.
            method = getattr(hook, fn_name, None)
            if method is not None:
                method(self, **kwargs)

    def _add_place(self, checkpoint: dict) -> None:
        loop = self.train_loop
        if isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop):
            checkpoint["loop"] = loop.state_dict()
            checkpoint["random_states"] = self._random_states


def read_training_state(path: Path) -> dict[str, Any]:
    """A checkpoint that training wrote; large tensors stay on the disk until they are used.

    Raises `CheckpointError` when it is damaged, holds weights alone, or was not written by this package.
    """
    read_state_dict(path)  # says what is wrong with a damaged or unsafe file
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path} holds weights, but no training state that this package reads: it cannot be resumed. "
            "To start a new run from its weights: --cfg-options load_from=…"
        ) from error
    if "optimizer" not in checkpoint:
        raise CheckpointError(
            f"checkpoint {path} holds weights without the optimizer's state (best_*.pth do): it cannot be resumed. "
            "Resume from epoch_*.pth or iter_*.pth, or start a new run from its weights: --cfg-options load_from=…"
        )
    lacking = [key for key in ("meta", "message_hub", "loop", "random_states") if key not in checkpoint]
    if lacking:
        raise CheckpointError(
            f"checkpoint {path} lacks {', '.join(lacking)}: it was not written by this package's training"
        )
    return checkpoint


def _is_for_console(record: logging.LogRecord) -> bool:
    """A filter for what a person at the terminal has no use for; the log file has it."""
    text = record.getMessage()
    if text.startswith(('"FileClient" will be', '"HardDiskBackend" is')):  # mmengine about its own use of them
        return False
    return record.levelno > logging.INFO or text.count("\n") < CONSOLE_LINES
