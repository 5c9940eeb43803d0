"""What a training wrote down: losses, learning rates and scores by step, read and drawn."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from blip2.utils.suggest import did_you_mean

# mmengine's names for what is no curve of its own.
_PLACES = ("iter", "epoch", "step")
_TIMES = ("time", "data_time")


class TrainingLogError(ValueError):
    """A file or folder that holds no scalars, or not those that are asked for."""


@dataclass
class TrainingLog:
    """The scalars of one training, of all its runs: where a resumed one repeats a step, the later run counts.

    Attributes:
        name: of the work folder or file.
        training: name → {step: value}, written while training.
        validation: the same, written by validations.
        cut_off: files whose last line is not whole; what is before it was read.
    """

    name: str
    training: dict[str, dict[int, float]] = field(default_factory=dict)
    validation: dict[str, dict[int, float]] = field(default_factory=dict)
    cut_off: list[Path] = field(default_factory=list)

    def names(self) -> list[str]:
        """Of all curves, those of training first; times are none."""
        return [name for name in (*self.training, *self.validation) if name not in _TIMES]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps, rising, and values.

        Raises:
            TrainingLogError: there is no such curve; names the nearest.
        """
        values = self.training.get(name) or self.validation.get(name)
        if not values or name in _TIMES:
            known = self.names()
            raise TrainingLogError(
                f"{self.name} has no scalar {name!r}.{did_you_mean(name, known)} It has: {', '.join(known)}."
            )
        steps = sorted(values)
        return steps, [values[step] for step in steps]

    def seconds(self) -> list[float]:
        """An iteration's seconds, as logged, step by step."""
        times = self.training.get("time", {})
        return [times[step] for step in sorted(times)]


def read_training_log(path: str | Path) -> TrainingLog:
    """The scalars of a work folder, or of one ``scalars.json``.

    Raises:
        TrainingLogError: there are none.
    """
    path = Path(path)
    files = sorted(path.glob("*/vis_data/scalars.json")) if path.is_dir() else [path]
    if path.is_dir() and not files:
        files = sorted(path.rglob("scalars.json"))
    if not files or not all(file.is_file() for file in files):
        raise TrainingLogError(
            f"{path} holds no scalars: give a work folder of `blip2 train` (its runs have vis_data/scalars.json), or "
            "such a file"
        )
    log = TrainingLog(path.name if path.is_dir() else str(path))
    for file in files:  # their folders are named after the time
        for record in _records(file, log):
            _add(record, log)
    if not log.names():
        raise TrainingLogError(f"{path} holds no scalars yet")
    return log


def _records(file: Path, log: TrainingLog) -> Iterable[Mapping[str, float]]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # a run that was killed while it wrote
                log.cut_off.append(file)
                return
            raise TrainingLogError(f"{file}, line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise TrainingLogError(f"{file}, line {number} is no record of scalars")
        yield record


def _add(record: Mapping[str, float], log: TrainingLog) -> None:
    step = record.get("step", record.get("iter"))
    if step is None:
        return
    # Only a training step has a learning rate or a loss beside its time.
    curves = log.training if "lr" in record or any("loss" in name for name in record) else log.validation
    for name, value in record.items():
        if name not in _PLACES and isinstance(value, int | float) and not isinstance(value, bool):
            curves.setdefault(name, {})[int(step)] = float(value)


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """The median of each value and those around it, `width` of them where there are as many."""
    before, after = (width - 1) // 2, width // 2
    return [median(values[max(0, place - before) : place + after + 1]) for place in range(len(values))]


def draw_curves(
    logs: Sequence[TrainingLog],
    names: Sequence[str],
    path: str | Path,
    *,
    legend: Sequence[str] | None = None,
    smooth: int = 1,
) -> None:
    """A picture with axes for each of `names` and a line for each log that has it, against steps.

    Args:
        legend: what the logs are called; by default as their folders are.
        smooth: training curves as medians of that many logged values; the values themselves stand behind, paler.

    Raises:
        TrainingLogError: no log has one of the names.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 3.4 * rows), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, number + 1)
        labels = legend or [log.name for log in logs]
        shown = [pair for pair in zip(logs, labels, strict=True) if name in pair[0].names()]
        if not shown:
            logs[0].curve(name)  # says what there is
        for log, label in shown:
            _draw_curve(axes, log, name, label, smooth)
        axes.set_title(name)
        axes.set_xlabel("iteration" if any(name in log.training for log in logs) else "step of validation")
        axes.grid(alpha=0.3)
        if len(logs) > 1:
            axes.legend()
    figure.savefig(path, dpi=120)


def _draw_curve(axes: Any, log: TrainingLog, name: str, label: str, smooth: int) -> None:
    steps, values = log.curve(name)
    if name in log.validation:
        axes.plot(steps, values, marker="o", markersize=3, label=label)
        return
    (line,) = axes.plot(steps, smoothed(values, smooth), label=label)
    if smooth > 1:
        axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8)
