"""Times of two contenders taken in turn, and what may be concluded from them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .contender import Contender

# Stage → what the table calls it, in the order of the data's way. 'pipeline' is a run of its own, not their sum.
STAGES = {
    "decode": "picture decoding",
    "vision": "vision",
    "qformer": "Q-Former",
    "prefill": "prefill",
    "decode_steps": "decode steps",
    "pipeline": "whole pipeline",
}
RANKING_STAGES = {
    "decode": "picture decoding",
    "vision": "vision",
    "qformer": "Q-Former",
    "texts": "texts",
    "ranking": "ranking both ways",
    "pipeline": "whole pipeline",
}

# A ratio whose rounds differ by more than this, relative to their median, has no second digit.
NOISY = 0.25


@dataclass
class Spread:
    """Some measurements of one thing."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def min(self) -> float:
        return min(self.values)

    @property
    def max(self) -> float:
        return max(self.values)

    @property
    def width(self) -> float:
        """Largest less smallest, relative to the median."""
        return (self.max - self.min) / self.median if self.median else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {"median": self.median, "min": self.min, "max": self.max, "values": self.values}


Times = dict[str, dict[str, Spread]]  # stage → contender's name → seconds


def ratio(ours: Spread, theirs: Spread) -> Spread:
    """How many times as fast ours is, round by round: the two times of a round were taken next to each other."""
    return Spread([their / our for our, their in zip(ours.values, theirs.values, strict=True)])


def verdict(ratios: Spread) -> str:
    """'faster' or 'slower' if all rounds agree on it, else 'undecided'."""
    if len(ratios.values) < 3:
        return "undecided"
    if ratios.min > 1:
        return "faster"
    return "slower" if ratios.max < 1 else "undecided"


def measure(
    contenders: Sequence[Contender],
    files: Sequence[Path],
    stages: Iterable[str],
    *,
    repeats: int,
    warmup: int,
    say: Callable[[str], None] = lambda text: None,
) -> Times:
    """Seconds that each stage and the whole pipeline take, `repeats` of each after `warmup` unmeasured rounds.

    Within a round the contenders take turns step by step, and the one that begins changes with the round, so that what
    else the machine does meets them alike.
    """
    times: Times = {stage: {contender.name: Spread() for contender in contenders} for stage in stages}
    steps = {contender.name: contender.steps(files) for contender in contenders}
    for index in range(-warmup, repeats):
        say(f"round {index + 1} of {repeats}" if index >= 0 else "warming up")
        order = contenders if index % 2 == 0 else contenders[::-1]
        for step in steps[contenders[0].name]:
            for contender in order:
                for stage, value in steps[contender.name][step]().items():
                    if index >= 0:
                        times[stage][contender.name].values.append(value)
    return times
