"""How the time of each stage grows with one number of the work, or with the picture's size."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmengine.config import Config

from blip2.utils.suggest import did_you_mean

from . import machine
from .contender import OURS
from .run import SCHEMA, Report, benchmark

PIXELS = "pixels"


@dataclass
class Growth:
    """A report for each value of what was changed; the rest is the same in all of them."""

    name: str
    values: list[int]
    reports: list[Report]

    def milliseconds(self, stage: str) -> list[float]:
        """Medians, value by value."""
        return [1000 * report.times[stage][OURS].median for report in self.reports]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        reports = [report.as_dict() for report in self.reports]
        return {"schema": SCHEMA, "growth": self.name, "values": self.values, "reports": reports}


def growth(
    config: Config,
    work: Any,
    name: str,
    values: Sequence[int],
    *,
    name_of_run: str,
    say: Callable[[str], None] = lambda text: None,
    **how: Any,
) -> Growth:
    """Times `work` with the field `name` at each of `values`, without a peer.

    Args:
        name: a number of the work (`num_beams`, `texts` …), or 'pixels': the picture's side, for a model of that size.
        name_of_run, how: what the reports are called, and more arguments of `benchmark`.

    Raises:
        ValueError: the work has no such number, or what `benchmark` raises.
    """
    known = [field for field, value in vars(work).items() if isinstance(value, int)] + [PIXELS]
    if name not in known:
        raise ValueError(f"the work has no {name!r}.{did_you_mean(name, known)} It has: {', '.join(known)}.")
    reports = []
    for value in values:
        say(f"{name} = {value}")
        own_config = _of_size(config, value) if name == PIXELS else config
        own_work = work if name == PIXELS else replace(work, **{name: value})
        reports.append(benchmark(own_config, own_work, name=name_of_run, with_peer=False, say=say, **how))
    return Growth(name, list(values), reports)


def _of_size(config: Config, side: int) -> Config:
    changed = copy.deepcopy(config)
    changed.model.vision_backbone.img_size = side
    for step in changed.test_dataloader.dataset.pipeline:
        if "scale" in step:
            step.scale = (side, side)
    return changed


def render(found: Growth) -> str:
    """A line a stage: milliseconds at each value, and how many times those of the first value."""
    first = found.reports[0]
    head = f"{found.name:<18}" + "".join(f"{value:>20,}" for value in found.values)
    lines = [
        f"{first.name}, one round at the first value: {first.work.in_words()}; {first.work.precision} on "
        f"{first.work.device}",
        f"machine: {machine.in_words(first.machine)}",
        "",
        head,
    ]
    for stage, label in first.task.stages.items():
        times = found.milliseconds(stage)
        cells = [f"{time:,.1f} ({time / times[0]:.2f} ×)" if times[0] else f"{time:,.1f}" for time in times]
        lines.append(f"{label:<18}" + "".join(f"{cell:>20}" for cell in cells))
    rounds = len(first.times["pipeline"][OURS].values)
    lines.append(f"(milliseconds, medians of {rounds} rounds, each value in a run of its own)")
    noisy = [value for value, report in zip(found.values, found.reports, strict=True) if report.noise()]
    if noisy:
        lines.append(f"too noisy to conclude from: {found.name} = {', '.join(map(str, noisy))}")
    return "\n".join(lines)
