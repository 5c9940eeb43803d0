"""One piece of work at a time on the models, and a way to stop it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Cancelled(Exception):
    """Somebody does not want the result any more."""


class Jobs:
    """Lets one job at a time use the models; those of a visitor can be cancelled, waiting or running.

    A running job ends before the next layer of a model that is `watch`\\ ed, so a large model stops within a fraction
    of a second too.
    """

    def __init__(self) -> None:
        self._models = threading.Lock()
        self._events: dict[str, set[threading.Event]] = {}
        self._events_lock = threading.Lock()
        self._running: threading.Event | None = None

    @contextmanager
    def job(self, visitor: str) -> Iterator[None]:
        """What is inside has the models to itself.

        Raises:
            Cancelled: `cancel` was called for this visitor, before the models were free or inside.
        """
        event = threading.Event()
        with self._events_lock:
            self._events.setdefault(visitor, set()).add(event)
        try:
            while not self._models.acquire(timeout=0.05):
                if event.is_set():
                    raise Cancelled
            try:
                self._running = event
                self.check()
                yield
            finally:
                self._running = None
                self._models.release()
        finally:
            with self._events_lock:
                self._events[visitor].discard(event)
                if not self._events[visitor]:
                    del self._events[visitor]

    def cancel(self, visitor: str) -> int:
        """Cancels all jobs of a visitor; returns how many there were."""
        with self._events_lock:
            events = list(self._events.get(visitor, ()))
        for event in events:
            event.set()
        return len(events)

    def check(self) -> None:
        """Raises `Cancelled` if the job that is running has been."""
        running = self._running
        if running is not None and running.is_set():
            raise Cancelled

    def watch(self, model: nn.Module) -> None:
        """Looks before each layer of `model` (the items of its module lists) whether the job has been cancelled."""
        for module in model.modules():
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    layer.register_forward_pre_hook(lambda *_: self.check())
