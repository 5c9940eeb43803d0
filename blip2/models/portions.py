"""Batches that are too large for the memory, computed in parts."""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from mmengine.logging import print_log
from torch import Tensor

Result = TypeVar("Result")
# What torch says where it isn't a GPU that is full: these are plain RuntimeErrors.
_FULL = ("can't allocate memory", "not enough memory")


class Portions:
    """Runs the stages of a model on as many rows of a batch at a time as fit into memory: all, until that fails.

    Then half as many are tried, and so on, which is logged once for each size and remembered. Training is left alone:
    there a smaller batch would be another one.
    """

    def __init__(self) -> None:
        self.largest: dict[str, int] = {}  # stage: rows that are known to be the most

    def run(
        self,
        stage: str,
        rows: str,
        work: Callable[..., Result],
        *batches: Tensor | Sequence[Any] | None,
        at_most: int | None = None,
    ) -> list[Result]:
        """What `work` makes of each part of `batches`, which all have the same rows (None stays None), in order.

        Args:
            stage, rows: how messages call what is computed, and what of.
            at_most: rows at a time, also where more would fit.

        Raises torch.OutOfMemoryError that names the stage where a single row is too much.
        """
        size = next(len(batch) for batch in batches if batch is not None)
        if torch.is_grad_enabled():
            return [work(*batches)]
        found: list[Result] = []
        done = 0
        while done < size or not found:
            limit = min(self.largest.get(stage, size), at_most or size)
            count = max(1, min(limit, size - done))
            part = [None if batch is None else batch[done : done + count] for batch in batches]
            try:
                found.append(work(*part))
                done += count
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if count == 1:
                    raise torch.OutOfMemoryError(
                        f"{stage}: the memory does not suffice for one of the {rows} alone. Lower precision (bf16), "
                        f"smaller pictures, fewer beams or a smaller model need less ({error})"
                    ) from error
            # Here, since the error's frames hold on to what was computed until the handler is left.
            self._lower(stage, rows, count)
        return found

    def _lower(self, stage: str, rows: str, failed: int) -> None:
        self.largest[stage] = failed // 2
        print_log(
            f"{stage}: {failed} {rows} at a time are too many for the memory, going on with {failed // 2}",
            "current",
            logging.WARNING,
        )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says, in whichever way, that it got no memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts; one part is handed on without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
