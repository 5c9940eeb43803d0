"""Training loops that go on from any batch as if they had never stopped."""

from collections import Counter
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop as MMEpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as MMIterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from blip2.checkpoints import CheckpointError
from blip2.engine import random_state
from blip2.engine.data import Batch, TrainBatches, train_loader
from blip2.registry import LOOPS


class _Resumable:
    """What both loops share: their place in a checkpoint, unreadable pictures, the validation in between.

    mmengine's counters `_epoch` and `_iter` are kept; hooks read them.
    """

    runner: Any
    dataloader: DataLoader
    _epoch: int
    _iter: int
    val_begin: int
    val_interval: int

    def _start(self) -> None:
        self.bad_images: Counter[str] = Counter()
        self._validated_at = -1  # iteration at which validation began last
        self._random_states: list[dict[str, Any]] | None = None  # to be put back before the first batch

    @property
    def batches(self) -> TrainBatches:
        sampler = self.dataloader.batch_sampler
        assert isinstance(sampler, TrainBatches)
        return sampler

    def _use_random_states(self) -> None:
        """Puts back the generators of a checkpoint, after everything that may draw from them has started."""
        if self._random_states is not None:
            random_state.restore_own(self._random_states)
            self._random_states = None

    def _validate(self, step: int, last: int) -> None:
        """Runs the validation that is due at `step` epochs or iterations, without a trace in the random generators."""
        due = step >= self.val_begin and (step % self.val_interval == 0 or step == last)
        if self.runner.val_loop is None or not due or self._validated_at == self._iter:
            return
        self._validated_at = self._iter
        with random_state.preserved():
            self.runner.val_loop.run()

    def _readable(self, batch: Batch) -> Any | None:
        """The data of `batch`; None when not one of its pictures could be read."""
        for _, record in batch.bad:
            if not self.bad_images[record.img_path]:
                self.runner.logger.warning(f"left out: {record}")
            self.bad_images[record.img_path] += 1
        if batch.data is None and get_world_size() > 1:
            # The other processes wait for this one's gradients.
            raise RuntimeError(f"no picture of a batch could be read, among them {batch.bad[0][1]}")
        return batch.data

    def _report_bad_images(self) -> None:
        if self.bad_images:
            names = ", ".join(self.bad_images)
            self.runner.logger.warning(
                f"{len(self.bad_images)} picture(s) could not be read and were left out: {names}"
            )


@LOOPS.register_module()
class EpochBasedTrainLoop(_Resumable, MMEpochBasedTrainLoop):
    """mmengine's loop over epochs, resumable within an epoch; same arguments."""

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        loader = train_loader(runner, dataloader, endless=False)
        MMEpochBasedTrainLoop.__init__(self, runner, loader, max_epochs, val_begin, val_interval, dynamic_intervals)
        self._start()
        self._done = 0  # batches of the current epoch

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done, "epoch_length": len(self.dataloader), "validated_at": self._validated_at}

    def load_state_dict(self, state: dict[str, Any], epoch: int, iteration: int) -> None:
        """Takes up the place that `state_dict` described when `epoch` epochs and `iteration` batches were done.

        Raises `CheckpointError` in the middle of an epoch that now has another number of batches.
        """
        if state["done"] and state["epoch_length"] != len(self.dataloader):
            raise CheckpointError(
                f"the checkpoint lies in the middle of an epoch of {state['epoch_length']} batches, but an epoch has "
                f"{len(self.dataloader)} now: resume with the same data, batch size and number of processes, or from "
                "a checkpoint at an epoch's end"
            )
        self._epoch, self._iter, self._done = epoch, iteration, state["done"]
        self._validated_at = state["validated_at"]

    def run(self) -> nn.Module:
        """Trains from the current place to the last epoch."""
        self.runner.call_hook("before_train")
        if self._epoch and not self._done:
            # The checkpoint of an epoch's end is written before the validation that follows it.
            self._decide_current_val_interval()
            self._validate(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate(self._epoch, self._max_epochs)
        self._report_bad_images()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Trains on what is left of the current epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.batches.first, self.batches.before = self._done, self._iter - self._done
        iterator = iter(self.dataloader)
        self._use_random_states()
        for index, batch in enumerate(iterator, start=self._done):
            data = self._readable(batch)
            self._done = index + 1
            if data is None:
                self._iter += 1
            else:
                self.run_iter(index, data)
        self._done = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(_Resumable, MMIterBasedTrainLoop):
    """mmengine's loop over iterations, resumable without reading the data gone by; same arguments."""

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        loader = train_loader(runner, dataloader, endless=True)
        MMIterBasedTrainLoop.__init__(
            self, runner, _Idle(loader), max_iters, val_begin, val_interval, dynamic_intervals
        )
        self.dataloader = loader
        self._start()

    def state_dict(self) -> dict[str, Any]:
        return {"validated_at": self._validated_at}

    def load_state_dict(self, state: dict[str, Any], epoch: int, iteration: int) -> None:
        """Takes up the place after `iteration` batches; `epoch` only names it."""
        self._epoch, self._iter = epoch, iteration
        self._validated_at = state["validated_at"]

    def run(self) -> nn.Module:
        """Trains from the current place to the last iteration."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        if self._iter:
            self._decide_current_val_interval()
            self._validate(self._iter, self._max_iters)
        self.batches.first = self._iter
        iterator = iter(self.dataloader)
        self._use_random_states()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            data = self._readable(next(iterator))
            if data is None:
                self._iter += 1
            else:
                self.run_iter(data)
            self._decide_current_val_interval()
            self._validate(self._iter, self._max_iters)
        self._report_bad_images()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model


class _Idle:
    """A loader for mmengine's loop to hold at construction, when the place to start from isn't known yet."""

    def __init__(self, loader: DataLoader) -> None:
        self.dataset = loader.dataset

    def __iter__(self) -> "_Idle":
        return self

    def __next__(self) -> Any:
        raise StopIteration
