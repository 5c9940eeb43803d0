"""Whether two captioners write the same: a ratio of their times means something only then."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .captioner import Captioner

# Double precision settles near ties, at twice the memory: not for the largest models.
MAX_DOUBLE_PARAMETERS = 1_000_000_000
# Stages are compared for the message only, and generously.
_TOLERANCE = 1e-3


@dataclass
class Agreement:
    """Outcome of the comparison of token ids.

    Attributes:
        captions: how many were compared.
        distinct: how many different ones there were among ours.
        identical: how many were the same in both, by the precision that they were written in.
        settled_in: the precision in which all were the same; None if there is none, and then ratios are void.
        first_difference: the first stage whose results differ, if nothing was settled.
    """

    captions: int
    distinct: int
    identical: dict[str, int]
    settled_in: str | None
    first_difference: str | None = None

    @property
    def void(self) -> bool:
        return self.settled_in is None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "void": self.void}


def compare(
    ours: Captioner,
    theirs: Captioner,
    files: Sequence[Path],
    *,
    parameters: int,
    say: Callable[[str], None] = lambda text: None,
) -> Agreement:
    """Compare the token ids that two captioners with fp32 weights write for `files`.

    Beams that are nearly equal can change places by the rounding of one kernel or another. So when fp32 disagrees, fp64
    decides, which leaves no such ties; weights return to fp32 unchanged.
    """
    say("comparing answers in fp32")
    mine, other = ours.caption(files), theirs.caption(files)
    agreement = Agreement(
        captions=len(files),
        distinct=len({tuple(row) for row in mine.tolist()}),
        identical={"fp32": _same(mine, other)},
        settled_in="fp32",
    )
    if agreement.identical["fp32"] == len(files):
        return agreement
    agreement.settled_in = None
    if parameters <= MAX_DOUBLE_PARAMETERS:
        say("comparing answers in fp64")
        ours.cast(torch.float64)
        theirs.cast(torch.float64)
        agreement.identical["fp64"] = _same(ours.caption(files), theirs.caption(files))
        if agreement.identical["fp64"] == len(files):
            agreement.settled_in = "fp64"
        ours.cast(torch.float32)
        theirs.cast(torch.float32)
    if agreement.void:
        agreement.first_difference = _first_difference(ours, theirs, files)
    return agreement


def same_ids(ours: Captioner, theirs: Captioner, files: Sequence[Path]) -> int:
    """How many captions have the same ids at the precision that is set."""
    return _same(ours.caption(files), theirs.caption(files))


def _same(mine: Tensor, other: Tensor) -> int:
    if mine.shape != other.shape:
        return 0
    return int((mine == other).all(1).sum())


def _first_difference(ours: Captioner, theirs: Captioner, files: Sequence[Path]) -> str:
    mine, other = ours.decode(files), theirs.decode(files)
    for after, name in (("vision", "picture decoding"), ("qformer", "vision"), (None, "Q-Former")):
        if mine.shape != other.shape:
            return f"{name} ({tuple(mine.shape)} against {tuple(other.shape)})"
        gap = float((mine - other).abs().max())
        if not gap <= _TOLERANCE:
            return f"{name} (values up to {gap:.2g} apart)"
        if after is not None:
            mine, other = getattr(ours, after)(mine), getattr(theirs, after)(other)
    return "language model"
