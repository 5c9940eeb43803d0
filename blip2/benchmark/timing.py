"""Times of two contenders taken in turn, and what may be concluded from them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import cast

from torch import nn

from .contender import Contender
from .limits import Limits
from .meter import Usage, counting
from .spread import Spread

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
    limits: Limits | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Times:
    """Seconds that each stage and the whole pipeline take, `repeats` of each after `warmup` unmeasured rounds.

    Within a round the contenders take turns step by step, and the one that begins changes with the round, so that what
    else the machine does meets them alike. A step that a contender does not have is passed over: in another process,
    one run of the whole pipeline gives the times of the stages too. `limits` are measured before each round.
    """
    times: Times = {stage: {contender.name: Spread() for contender in contenders} for stage in stages}
    steps = {contender.name: contender.steps(files) for contender in contenders}
    for index in range(-warmup, repeats):
        say(f"round {index + 1} of {repeats}" if index >= 0 else "warming up")
        if limits is not None and index >= 0:
            limits.measure()
        order = contenders if index % 2 == 0 else contenders[::-1]
        for step in steps[contenders[0].name]:
            for contender in order:
                if step not in steps[contender.name]:
                    continue
                for stage, value in steps[contender.name][step]().items():
                    if index >= 0:
                        times[stage][contender.name].values.append(value)
    return {stage: {name: spread for name, spread in of.items() if spread.values} for stage, of in times.items()}


def count(contender: Contender, model: nn.Module, files: Sequence[Path]) -> dict[str, Usage]:
    """What each stage computes; the whole pipeline is their sum and not run.

    Args:
        model: whose weights count.
    """
    found: dict[str, Usage] = {}
    with counting(model):
        for step, action in contender.steps(files).items():
            if step != "pipeline":
                found |= {stage: cast(Usage, value) for stage, value in action().items()}
    used = found.values()
    found["pipeline"] = Usage(sum(one.flops for one in used), sum(one.weight_bytes for one in used))
    return found
