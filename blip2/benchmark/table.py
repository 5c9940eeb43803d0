"""A report as text for people."""

from . import machine
from .contender import OURS
from .run import MEMORY_BOUND, Report
from .spread import Spread
from .timing import NOISY, verdict


def render(report: Report) -> str:
    """What was done, on what, whether the answers agree, the table, and what may be concluded."""
    return "\n".join([*_heading(report), *_answers(report), *_table(report), *_achieved(report), *_conclusion(report)])


def _heading(report: Report) -> list[str]:
    work, sizes = report.work, report.sizes
    height, width = sizes["picture"]
    kind = next(key for key in ("prompt_tokens", "text_tokens") if key in sizes)
    return [
        f"{report.name}: {sizes['parameters'] / 1e6:,.1f} M parameters, random weights; pictures of {width}×{height}, "
        f"queries {sizes['queries']}, {kind.replace('_', ' ')} {sizes[kind]}, vocabulary {sizes['vocabulary']:,}",
        f"one round: {work.in_words()}; {work.precision} on {work.device}{_theirs(report)}",
        f"machine: {machine.in_words(report.machine)}",
    ]


def _theirs(report: Report) -> str:
    differs = report.peer_precision not in (None, report.work.precision)
    return f" ({report.peer}: {report.peer_precision})" if differs else ""


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
        times = report.times[stage]
        line = f"{label:<18}" + "".join(f"{_milliseconds(times[name]) if name in times else '–':>26}" for name in names)
        if (ratios := report.ratio(stage)) is not None:
            line += f"{f'{ratios.median:.2f} ({ratios.min:.2f}–{ratios.max:.2f})':>24}"
        lines.append(line)
    rounds = len(report.times["pipeline"][names[0]].values)
    return [*lines, f"(medians of {rounds} rounds, smallest–largest)"]


def _achieved(report: Report) -> list[str]:
    """Operations and bytes a second, and their shares of what the machine can do."""
    limits = report.limits
    if limits is None or not report.usage:
        return []
    lines = ["", f"{'GFLOP/s':<18}" + "".join(f"{f'{name} (of matmul)':>26}" for name in report.usage)]
    for stage, label in report.task.stages.items():
        cells = [_rate(report, stage, name) for name in report.usage]
        if any(cells):
            lines.append(f"{label:<18}" + "".join(f"{cell or '–':>26}" for cell in cells))
    for stage in MEMORY_BOUND:
        for name in report.usage:
            if (rate := report.bytes_per_second(stage, name)) is not None:
                share = rate / limits.copy.median
                lines.append(
                    f"{report.task.stages[stage]} of {name} read {rate / 1e9:.1f} GB/s of weights "
                    f"({share:.0%} of the copy's rate)"
                )
    product = f"{limits.rows}×{limits.narrow}×{limits.wide}"
    lines.append(
        f"this machine in the same run: matmul {_giga(limits.matmul)} GFLOP/s at {product} in {limits.precision} "
        f"(torch's default {_giga(limits.torch_matmul)}), copy {_giga(limits.copy)} GB/s read and written"
    )
    return lines


def _rate(report: Report, stage: str, name: str) -> str:
    """Nothing for a stage that multiplies no matrices."""
    rate, share = report.flops_per_second(stage, name), report.share(stage, name)
    return f"{rate / 1e9:,.1f} ({share:.0%})" if rate and share is not None else ""


def _giga(spread: Spread) -> str:
    return f"{spread.median / 1e9:,.1f}"


def _milliseconds(spread: Spread) -> str:
    median, low, high = (1000 * value for value in (spread.median, spread.min, spread.max))
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def _conclusion(report: Report) -> list[str]:
    ratios = report.ratio("pipeline")
    noise = [f"TOO NOISY to conclude: {reason}" for reason in report.noise()]
    if ratios is None:
        return ["", *noise] if noise else []
    rounds = f"{ratios.min:.2f} to {ratios.max:.2f} in {len(ratios.values)} rounds"
    decided = verdict(ratios)
    if decided == "undecided":
        cannot = (
            f"whole pipeline: cannot tell which is faster (ratios from {rounds}). Close what else runs here, or raise "
            "--repeats"
        )
        return ["", cannot, *noise]
    lines = ["", f"whole pipeline: {decided} than {report.peer}, {ratios.median:.2f} times as fast ({rounds})"]
    if ratios.width > NOISY:
        lines.append("the rounds differ much: this machine is too busy for more than a rough figure")
    return [*lines, *noise]
