"""All comparisons that this package has a target for, in one go."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .contender import OURS
from .run import SCHEMA, Report, benchmark
from .spread import Spread
from .timing import ratio
from .work import preset
from .worker import WORKERS


@dataclass(frozen=True)
class Target:
    """How much faster than a run's peer some stages must be together, or what share of the machine's limit one reaches.

    Attributes:
        what: names it.
        stages: whose times are added up.
        least: the ratio of times, peer's to ours, or with `of_limit` the share of the matrix product's rate.
        of_limit: see `least`.
    """

    what: str
    stages: tuple[str, ...]
    least: float
    of_limit: bool = False


@dataclass(frozen=True)
class Run:
    """One benchmark of the suite.

    Attributes:
        name: of the run.
        task: what is timed.
        peer: beside whom; a peer in another interpreter needs that interpreter.
        targets: what must be reached.
        sizes: a preset that takes the place of mid.
        work: changes to the preset's work, where the preset is mid.
        precision: ours, and the peer's unless `peer_precision` says otherwise.
        peer_precision: the peer's.
    """

    name: str
    task: str
    peer: str
    targets: tuple[Target, ...]
    sizes: str = "mid"
    work: Mapping[str, int] | None = None
    precision: str = "fp32"
    peer_precision: str | None = None


_PIPELINE = ("pipeline",)
_GALLERY = dict(batch_size=32, texts=160, topk=16)

RUNS = (
    Run(
        "caption",
        "caption",
        "transformers",
        (
            Target("caption, whole pipeline", _PIPELINE, 1.5),
            Target("caption, generation alone", ("prefill", "decode_steps"), 2),
            Target("vision tower, share of matmul, fp32", ("vision",), 0.95, of_limit=True),
        ),
    ),
    Run(
        "caption-bf16",
        "caption",
        "transformers",
        (
            Target("caption at bf16", _PIPELINE, 1.5),
            Target("vision tower, share of matmul, bf16", ("vision",), 0.5, of_limit=True),
        ),
        precision="bf16",
    ),
    Run("caption-mmpretrain", "caption", "mmpretrain", (Target("caption beside mmpretrain", _PIPELINE, 1),)),
    Run("caption-lavis", "caption", "lavis", (Target("caption beside LAVIS", _PIPELINE, 1),)),
    Run(
        "vqa",
        "vqa",
        "transformers",
        (Target("VQA, 5 questions a picture", _PIPELINE, 4),),
        work=dict(batch_size=12, questions=5, max_new_tokens=5),
    ),
    Run("retrieval", "retrieval", "mmpretrain", (Target("retrieval both ways, 224 px", _PIPELINE, 2),), work=_GALLERY),
    Run(
        "retrieval-wide",
        "retrieval",
        "padded",
        (Target("ranking with features of 677×1408", ("ranking",), 3.3),),
        sizes="wide",
        work=_GALLERY,
    ),
    Run(
        "caption-as-shipped",
        "caption",
        "transformers",
        (Target("caption as shipped (bf16 beside fp32)", _PIPELINE, 3.5),),
        precision="bf16",
        peer_precision="fp32",
    ),
    Run(
        "retrieval-as-shipped",
        "retrieval",
        "mmpretrain",
        (Target("retrieval as shipped (bf16 beside fp32)", _PIPELINE, 6.5),),
        work=_GALLERY,
        precision="bf16",
        peer_precision="fp32",
    ),
)


@dataclass
class Outcome:
    """What became of a target.

    Attributes:
        found: the ratio or share, by rounds where it is a ratio; None if it was not measured.
        why_not: why not, then.
        noise: why nothing should be concluded, if so.
    """

    run: str
    peer: str
    target: Target
    found: Spread | None
    why_not: str = ""
    noise: tuple[str, ...] = ()

    @property
    def reached(self) -> bool | None:
        return None if self.found is None else self.found.median >= self.target.least

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "run": self.run,
            "peer": self.peer,
            **asdict(self.target),
            "found": self.found.as_dict() if self.found else None,
            "reached": self.reached,
            "why_not": self.why_not or None,
            "noise": list(self.noise),
        }


@dataclass
class SuiteReport:
    """All runs that were made, and all targets."""

    reports: list[Report]
    outcomes: list[Outcome]

    @property
    def void(self) -> bool:
        return any(report.void for report in self.reports)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "schema": SCHEMA,
            "targets": [outcome.as_dict() for outcome in self.outcomes],
            "runs": [report.as_dict() for report in self.reports],
        }


def suite(
    pythons: Mapping[str, str],
    *,
    sizes: str = "mid",
    device: str = "cpu",
    repeats: int = 5,
    warmup: int = 1,
    threads: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    show: Callable[[Report], None] = lambda report: None,
) -> SuiteReport:
    """Make all `RUNS`.

    Args:
        pythons: peer → an interpreter that has it; a run whose peer has none is left out, and said to be.
        sizes: 'tiny' makes them all with the tiny preset and its work, to see that they run; its targets mean nothing.
        show: is given each report at once.
    """
    if sizes not in ("mid", "tiny"):
        raise ValueError(f"the suite's targets are for --preset mid, and --preset tiny tries it; not {sizes!r}")
    found = SuiteReport([], [])
    for number, run in enumerate(RUNS, 1):
        python = pythons.get(run.peer)
        external = run.peer in WORKERS
        if external and python is None:
            why = f"give --peer {run.peer}=PYTHON, an interpreter that has it"
            say(f"{run.name} is skipped: {why}")
            found.outcomes += [Outcome(run.name, run.peer, target, None, why) for target in run.targets]
            continue
        say(f"run {number} of {len(RUNS)}: {run.name}")
        config, work = preset(sizes if sizes != "mid" else run.sizes, run.task)
        work = replace(work, precision=run.precision, device=device, **((run.work or {}) if sizes == "mid" else {}))
        report = benchmark(
            config,
            work,
            name=run.name,
            repeats=repeats,
            warmup=warmup,
            threads=threads,
            peer=run.peer,
            python=python if external else None,
            peer_precision=run.peer_precision,
            say=say,
        )
        found.reports.append(report)
        found.outcomes += _outcomes(run, report)
        show(report)
    return found


def _outcomes(run: Run, report: Report) -> Iterator[Outcome]:
    for target in run.targets:
        value, why = None, ""
        if report.void:
            why = "the answers differ"
        elif target.of_limit:
            shares = [report.share(stage) for stage in target.stages]
            value = Spread([share for share in shares if share is not None])
        elif report.peer is None:
            why = report.skipped.get(run.peer, "no peer")
        else:
            value = ratio(*(_together(report, name, target.stages) for name in (OURS, report.peer)))
        yield Outcome(run.name, run.peer, target, value, why, tuple(report.noise()))


def _together(report: Report, name: str, stages: tuple[str, ...]) -> Spread:
    """Times of several stages added up, round by round."""
    rows = zip(*(report.times[stage][name].values for stage in stages), strict=True)
    return Spread([sum(row) for row in rows])


def render(report: SuiteReport) -> str:
    """The targets and what became of them."""
    lines = [f"{'target':<44}{'beside':<14}{'at least':>9}{'found':>22}  "]
    for one in report.outcomes:
        unit = (lambda value: f"{value:.0%}") if one.target.of_limit else (lambda value: f"{value:.2f}×")
        if one.found is None:
            lines.append(f"{one.target.what:<44}{one.peer:<14}{unit(one.target.least):>9}{'–':>22}  {one.why_not}")
            continue
        found = unit(one.found.median)
        if len(one.found.values) > 1:
            found += f" ({one.found.min:.2f}–{one.found.max:.2f})"
        beside = "the machine" if one.target.of_limit else one.peer
        said = "reached" if one.reached else "MISSED"
        noisy = ", but too noisy to conclude" if one.noise else ""
        lines.append(f"{one.target.what:<44}{beside:<14}{unit(one.target.least):>9}{found:>22}  {said}{noisy}")
    return "\n".join(lines)


__all__ = ["RUNS", "Outcome", "SuiteReport", "Target", "render", "suite"]
