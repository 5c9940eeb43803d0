"""Which of a picture's several texts a training step takes."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch

T = TypeVar("T")


def check_count(name: str, count: int | Literal["all"]) -> None:
    """Raises ValueError, naming the argument, unless `count` is 1 or more or 'all'."""
    if count != "all" and count < 1:
        raise ValueError(f"{name}={count} must be at least 1, or 'all'")


def drawn(texts: Sequence[T], count: int | Literal["all"], at_random: bool) -> list[T]:
    """`count` of the `texts`, as many as there are, without repeats; the first ones unless `at_random`."""
    number = len(texts) if count == "all" else min(count, len(texts))
    order = torch.randperm(len(texts))[:number].tolist() if at_random else range(number)
    return [texts[index] for index in order]
