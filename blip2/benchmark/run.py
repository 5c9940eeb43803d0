"""One benchmark: build both contenders, see that they answer alike, time them, report."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config

from blip2.apis.inferencers.placement import pick_device, precision_name

from . import agreement as answers
from . import machine
from .contender import OURS, Contender
from .tasks import TASKS, MakePeer, Task
from .timing import Spread, Times, measure, ratio, verdict
from .transformers_peer import PeerUnavailableError
from .work import RetrievalWork, Work, build_model, write_pictures

SCHEMA = 2


@dataclass
class Report:
    """What one benchmark found. `times` is empty if the answers differ, for then nothing was timed."""

    name: str
    work: Work | RetrievalWork
    sizes: dict[str, Any]
    machine: dict[str, Any]
    agreement: answers.Agreement | None
    times: Times
    skipped: dict[str, str]
    peer: str | None = None

    @property
    def task(self) -> Task:
        return TASKS[self.work.task]

    @property
    def void(self) -> bool:
        return self.agreement is not None and self.agreement.void

    def ratio(self, stage: str) -> Spread | None:
        """How many times as fast as the peer's our stage is, round by round; None without a peer."""
        if self.peer is None or not self.times:
            return None
        return ratio(self.times[stage][OURS], self.times[stage][self.peer])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; seconds throughout."""
        stages: dict[str, Any] = {}
        for stage, times in self.times.items():
            stages[stage] = {"seconds": {name: spread.as_dict() for name, spread in times.items()}}
            if (ratios := self.ratio(stage)) is not None:
                stages[stage] |= {"ratio": ratios.as_dict(), "verdict": verdict(ratios)}
        return {
            "schema": SCHEMA,
            "task": self.work.task,
            "name": self.name,
            "work": asdict(self.work),
            "sizes": self.sizes,
            "machine": self.machine,
            "peer": self.peer,
            "skipped": self.skipped,
            "agreement": self.agreement.as_dict() if self.agreement else None,
            "stages": stages,
        }


def benchmark(
    config: Config,
    work: Work | RetrievalWork,
    *,
    name: str,
    repeats: int = 5,
    warmup: int = 1,
    threads: int | None = None,
    with_peer: bool = True,
    peer: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Time a task with the model of `config` (random weights, generated pictures and texts) beside a peer.

    Args:
        config: a config of the task's model (see `TASKS`) with a test pipeline.
        work: what one round is; its kind is the task.
        name: what the report calls it.
        repeats: measured rounds.
        warmup: rounds before them.
        threads: of torch, for both; None leaves the number as it is.
        with_peer: False times ours alone.
        peer: one of the task's peers, by default the usual one.
        say: is told what happens.

    Raises:
        ValueError: no such device, precision or peer, a model of another task, more tokens than it has positions.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    device, precision, task = pick_device(work.device), precision_name(work.precision), TASKS[work.task]
    peer, make_peer = task.peer(peer)
    with _threads(threads), TemporaryDirectory(prefix="blip2-benchmark-") as folder:
        say("building the model")
        model = build_model(config, device, task.model)
        files = write_pictures(Path(folder), work.batch_size)
        ours = task.ours(model, config, work)
        sizes = {**_sizes(model, tuple(ours.decode(files[:1]).shape[-2:])), **ours.sizes()}
        report = Report(name, work, sizes, machine.describe(device), None, {}, {})
        theirs = None
        if with_peer:
            say(f"building {peer}")
            theirs = _available(peer, make_peer, model, config, report, say)
        contenders: list[Contender] = [ours] if theirs is None else [ours, theirs]
        if theirs is not None:
            report.agreement = answers.compare(ours, theirs, files, parameters=sizes["parameters"], say=say)
            if report.void:
                return report
        for contender in contenders:
            contender.set_precision(precision)
        if theirs is not None and precision != "fp32":
            answers.compare_at(precision, ours, theirs, files, report.agreement)
        gc.collect()
        report.times = measure(contenders, files, task.stages, repeats=repeats, warmup=warmup, say=say)
    return report


def _available(
    name: str, make: MakePeer, model: Any, config: Config, report: Report, say: Callable[[str], None]
) -> Contender | None:
    """The peer, or none: then `report` says why."""
    try:
        peer = make(model, config, report.work, tuple(report.sizes["picture"]))
    except PeerUnavailableError as error:
        report.skipped[name] = str(error)
        say(f"{name} is skipped: {error}")
        return None
    report.peer = peer.name
    return peer


def _sizes(model: Any, picture: tuple[int, ...]) -> dict[str, Any]:
    parameters = {id(value): value.numel() for value in model.parameters()}
    return {
        "parameters": sum(parameters.values()),
        "picture": list(picture),
        "queries": model.multimodal_backbone.num_query_token,
    }


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["SCHEMA", "Report", "benchmark"]
