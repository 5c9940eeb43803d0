"""A progress bar with rate and time left."""

import logging
import sys
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from blip2.registry import HOOKS


class RateColumn(ProgressColumn):
    """Batches a second, or seconds a batch where that is slow."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("-/s")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows a bar on the terminal while batches go by, on rank 0 only; without a terminal it shows nothing.

    Lines of the log appear above the bar.

    Args:
        enable: False turns it off.
    """

    priority = "LOWEST"

    def __init__(self, enable: bool = True) -> None:
        self.enable = enable
        self.console = Console(file=sys.stdout)
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self._streams: list[tuple[Any, Any]] = []

    # ----- the bars -----

    def before_train(self, runner: Any) -> None:
        self._begin(runner, "train", runner.max_iters, done=runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._advance("train", runner.iter + 1)

    def after_train(self, runner: Any) -> None:
        self._end("train")

    def before_val(self, runner: Any) -> None:
        self._begin(runner, "val", len(runner.val_dataloader))

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._advance("val", batch_idx + 1)

    def after_val(self, runner: Any) -> None:
        self._end("val")

    def before_test_epoch(self, runner: Any) -> None:
        self._begin(runner, "test", len(runner.test_dataloader))

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.progress is not None and "test" in self.tasks:
            # Batches that an earlier run has done are left out once the test begins.
            self.progress.update(self.tasks["test"], total=len(runner.test_dataloader))
        self._advance("test", batch_idx + 1)
        if batch_idx + 1 == len(runner.test_dataloader):
            self._end("test")

    def after_test(self, runner: Any) -> None:
        self._end("test")

    def close(self) -> None:
        """Takes the bars away, also after an error."""
        for stage in list(self.tasks):
            self._end(stage)

    # ----- drawing -----

    def _begin(self, runner: Any, stage: str, total: int, done: int = 0) -> None:
        if not self.enable or not is_main_process() or not self.console.is_terminal:
            return
        if self.progress is None:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                RateColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.progress.start()
            self._redirect(runner.logger)
        self.tasks[stage] = self.progress.add_task(stage, total=total, completed=done)

    def _advance(self, stage: str, done: int) -> None:
        if self.progress is not None and stage in self.tasks:
            self.progress.update(self.tasks[stage], completed=done)

    def _end(self, stage: str) -> None:
        if self.progress is None or stage not in self.tasks:
            return
        self.progress.remove_task(self.tasks.pop(stage))
        if not self.tasks:
            for handler, stream in self._streams:
                handler.setStream(stream)
            self._streams = []
            self.progress.stop()
            self.progress = None

    def _redirect(self, logger: logging.Logger) -> None:
        """The logger's handlers hold the stdout of before; lines written there would break the bar."""
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                self._streams.append((handler, handler.stream))
                handler.setStream(sys.stdout)
