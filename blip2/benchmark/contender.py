"""What is timed: a library's way from picture files to answers, whole and in steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .answers import Answers
from .meter import read

OURS = "blip2"

# Step → does it once and gives the seconds of the stage, or stages, that it was.
Steps = Mapping[str, Callable[[], Mapping[str, float]]]


class Contender(Protocol):
    """One way of doing a task's work."""

    name: str
    device: torch.device

    def answer(self, files: Sequence[Path]) -> Answers:
        """The whole work, through the front door."""

    def steps(self, files: Sequence[Path]) -> Steps:
        """The work in steps, each with its inputs ready. All contenders of a task have the same steps."""

    def states(self, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
        """What comes out of each stage before the last, with the stage's name; all contenders' have the same shapes."""

    def cast(self, dtype: torch.dtype) -> None:
        """Give all weights this dtype."""

    def set_precision(self, precision: str) -> None:
        """Compute in 'fp32', 'bf16' or 'fp16' from now on, the library's way."""


def seconds(action: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What `action` returns, and how long it took until the device had done it (while counting: a `Usage`)."""
    start = reading(device)
    result = action()
    return result, reading(device) - start


def reading(device: torch.device) -> float:
    """The meter, once the device has done all that it was given."""
    synchronize(device)
    return read()


def timed(stage: str, action: Callable[[], Any], device: torch.device) -> Callable[[], dict[str, float]]:
    """A step that is one stage."""
    return lambda: {stage: seconds(action, device)[1]}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
