"""mmengine's ``CheckpointHook`` with the old file removed last, and the scores of these tasks known."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from mmengine.hooks import CheckpointHook as MMCheckpointHook

from blip2.registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(MMCheckpointHook):
    """Same arguments as mmengine's.

    A checkpoint that has to make room is removed after the new one is written, so that a crash in between leaves at
    least one. ``save_best`` knows that more is better of the scores of captioning, question answering and retrieval,
    and less of losses, without a `rule`.
    """

    _default_greater_keys: ClassVar = [
        *MMCheckpointHook._default_greater_keys,
        *("cider", "bleu", "meteor", "rouge", "spice", "recall", "exact", "objects"),
    ]
    _default_less_keys: ClassVar = [*MMCheckpointHook._default_less_keys, "perplexity"]

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        backend: Any = self.file_backend  # type: ignore[has-type]
        if isinstance(backend, _Deferred):  # the best checkpoint's block saves the last one again
            yield
            return
        deferred = self.file_backend = _Deferred(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        kept = {self.last_ckpt, *self._best_paths()}
        for path in deferred.removed:
            if path not in kept and backend.isfile(path):
                backend.remove(path)

    def _best_paths(self) -> list[str]:
        paths = [getattr(self, "best_ckpt_path", None), *getattr(self, "best_ckpt_path_dict", {}).values()]
        return [str(path) for path in paths if path]


class _Deferred:
    """A file backend that only notes what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def remove(self, path: str) -> None:
        self.removed.append(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)
