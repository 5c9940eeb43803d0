"""Reports as a picture: stages as bars, ours and the peer's."""

from collections.abc import Sequence
from pathlib import Path

from .contender import OURS
from .run import Report

_COLOURS = ("#1f77b4", "#b0b0b0")


def plot(reports: Sequence[Report], file: Path) -> None:
    """One row of bars a stage for each report that was timed, medians with smallest and largest values, into `file`.

    Raises:
        ValueError: nothing was timed, or the file's name ends in no kind of picture that can be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second: only where it is wanted
    from matplotlib.figure import Figure

    timed = [report for report in reports if report.times]
    if not timed:
        raise ValueError(f"cannot draw {file}: nothing was timed")
    figure = Figure(figsize=(8, 0.6 + 2.9 * len(timed)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, report in zip(figure.subplots(len(timed), squeeze=False)[:, 0], timed, strict=True):
        stages = report.task.stages
        names = [OURS, *([report.peer] if report.peer else [])]
        for index, name in enumerate(names):
            rows = [row for row, stage in enumerate(stages) if name in report.times[stage]]
            found = [report.times[list(stages)[row]][name] for row in rows]
            places = [row + (index - (len(names) - 1) / 2) * 0.8 / len(names) for row in rows]
            spreads = ([one.median - one.min for one in found], [one.max - one.median for one in found])
            axes.barh(
                places,
                [one.median for one in found],
                height=0.8 / len(names),
                xerr=spreads,
                color=_COLOURS[index],
                label=name,
            )
        axes.set_yticks(range(len(stages)), list(stages.values()))
        axes.invert_yaxis()
        axes.set_xlabel(f"seconds ({report.work.precision})")
        axes.set_title(f"{report.name}: {report.work.task}, {report.work.in_words()}", fontsize=9)
        axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)
