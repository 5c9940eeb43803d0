"""Whether two contenders answer the same: a ratio of their times means something only then."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .contender import Contender

# Double precision settles near ties, at twice the memory: not for the largest models.
MAX_DOUBLE_PARAMETERS = 1_000_000_000
# Stages are compared for the message only, and generously.
_TOLERANCE = 1e-3


@dataclass
class Agreement:
    """Outcome of the comparison of answers.

    Attributes:
        what: was compared: token ids, or candidates and scores.
        compared: how many answers were compared.
        distinct: how many different ones there were among ours.
        identical: how many were the same in both, by the precision that they were made in.
        gaps: the largest difference of two scores, by precision; empty where answers have none.
        settled_in: the precision in which all were the same; None if there is none, and then ratios are void.
        first_difference: the first stage whose results differ, if nothing was settled.
    """

    what: str
    compared: int
    distinct: int
    identical: dict[str, int]
    gaps: dict[str, float] = field(default_factory=dict)
    settled_in: str | None = None
    first_difference: str | None = None

    @property
    def void(self) -> bool:
        return self.settled_in is None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "void": self.void}


def compare(
    ours: Contender,
    theirs: Contender,
    files: Sequence[Path],
    *,
    parameters: int,
    say: Callable[[str], None] = lambda text: None,
) -> Agreement:
    """Compare the answers that two contenders with fp32 weights give for `files`.

    Beams or candidates that are nearly equal can change places by the rounding of one kernel or another. So when fp32
    disagrees, fp64 decides, which leaves no such ties; weights return to fp32 unchanged.
    """
    say("comparing answers in fp32")
    agreement = compare_at("fp32", ours, theirs, files)
    if agreement.identical["fp32"] == agreement.compared:
        agreement.settled_in = "fp32"
        return agreement
    if parameters <= MAX_DOUBLE_PARAMETERS:
        say("comparing answers in fp64")
        ours.cast(torch.float64)
        theirs.cast(torch.float64)
        compare_at("fp64", ours, theirs, files, agreement)
        if agreement.identical["fp64"] == agreement.compared:
            agreement.settled_in = "fp64"
        ours.cast(torch.float32)
        theirs.cast(torch.float32)
    if agreement.void:
        agreement.first_difference = _first_difference(ours, theirs, files)
    return agreement


def compare_at(
    precision: str, ours: Contender, theirs: Contender, files: Sequence[Path], agreement: Agreement | None = None
) -> Agreement:
    """Compare the answers at the precision that is set, and write the outcome into `agreement`, or into a new one."""
    mine, other = ours.answer(files), theirs.answer(files)
    if agreement is None:
        agreement = Agreement(mine.what, len(mine), mine.distinct(), {})
    agreement.identical[precision] = mine.same(other, precision)
    if (gap := mine.gap(other)) is not None:
        agreement.gaps[precision] = gap
    return agreement


def _first_difference(ours: Contender, theirs: Contender, files: Sequence[Path]) -> str:
    for (name, mine), (_, other) in zip(ours.states(files), theirs.states(files), strict=True):
        if mine.shape != other.shape:
            return f"{name} ({tuple(mine.shape)} against {tuple(other.shape)})"
        gap = float((mine - other).abs().max())
        if not gap <= _TOLERANCE:
            return f"{name} (values up to {gap:.2g} apart)"
    return ours.answer(files).made_by
