"""A report as text for people."""

from . import machine
from .contender import OURS
from .run import Report
from .spread import Spread
from .timing import NOISY, verdict


def render(report: Report) -> str:
    """What was done, on what, whether the answers agree, the table, and what may be concluded."""
    return "\n".join([*_heading(report), *_answers(report), *_table(report), *_conclusion(report)])


def _heading(report: Report) -> list[str]:
    work, sizes = report.work, report.sizes
    height, width = sizes["picture"]
    kind = next(key for key in ("prompt_tokens", "text_tokens") if key in sizes)
    return [
        f"{report.name}: {sizes['parameters'] / 1e6:,.1f} M parameters, random weights; pictures of {width}×{height}, "
        f"queries {sizes['queries']}, {kind.replace('_', ' ')} {sizes[kind]}, vocabulary {sizes['vocabulary']:,}",
        f"one round: {work.in_words()}; {work.precision} on {work.device}",
        f"machine: {machine.in_words(report.machine)}",
    ]


def _answers(report: Report) -> list[str]:
    lines = [f"{name} skipped: {reason}" for name, reason in report.skipped.items()]
    found = report.agreement
    if found is None:
        return lines
    counts = ", ".join(
        f"{number} of {found.compared} at {precision}{_gap(found.gaps.get(precision))}"
        for precision, number in found.identical.items()
    )
    lines.append(f"same {found.what} as {report.peer}: {counts} (different {report.task.noun}: {found.distinct})")
    if found.void:
        lines.append(
            f"VOID: the two don't compute the same, so no ratio of their times means anything. First difference: "
            f"{found.first_difference}"
        )
    elif found.settled_in == "fp64":
        lines.append("all agree at fp64, so what differs at fp32 is the rounding of near ties")
    return lines


def _gap(gap: float | None) -> str:
    return "" if gap is None else f", up to {gap:.1g} apart"


def _table(report: Report) -> list[str]:
    if not report.times:
        return []
    names = [OURS, *([report.peer] if report.peer else [])]
    head = f"{'milliseconds':<18}" + "".join(f"{name:>26}" for name in names)
    lines = ["", head + (f"{'times as fast':>24}" if report.peer else "")]
    for stage, label in report.task.stages.items():
        line = f"{label:<18}" + "".join(f"{_milliseconds(report.times[stage][name]):>26}" for name in names)
        if (ratios := report.ratio(stage)) is not None:
            line += f"{f'{ratios.median:.2f} ({ratios.min:.2f}–{ratios.max:.2f})':>24}"
        lines.append(line)
    rounds = len(report.times["pipeline"][names[0]].values)
    return [*lines, f"(medians of {rounds} rounds, smallest–largest)"]


def _milliseconds(spread: Spread) -> str:
    median, low, high = (1000 * value for value in (spread.median, spread.min, spread.max))
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def _conclusion(report: Report) -> list[str]:
    ratios = report.ratio("pipeline")
    if ratios is None:
        return []
    rounds = f"{ratios.min:.2f} to {ratios.max:.2f} in {len(ratios.values)} rounds"
    decided = verdict(ratios)
    if decided == "undecided":
        return [
            "",
            f"whole pipeline: cannot tell which is faster (ratios from {rounds}). Close what else runs here, or raise "
            "--repeats",
        ]
    lines = ["", f"whole pipeline: {decided} than {report.peer}, {ratios.median:.2f} times as fast ({rounds})"]
    if ratios.width > NOISY:
        lines.append("the rounds differ much: this machine is too busy for more than a rough figure")
    return lines
