"""One benchmark: build both contenders, see that they answer alike, time them, report."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config

from blip2.apis.inferencers.placement import pick_device, precision_name
from blip2.models.compiled import compile_encoders
from blip2.models.vision import BEiTViT

from . import agreement as answers
from . import machine
from .contender import OURS, Contender
from .limits import Limits
from .memory import check_memory
from .meter import Usage
from .spread import Spread
from .tasks import TASKS, Task
from .timing import Times, count, measure, ratio, verdict
from .transformers_peer import PeerUnavailableError
from .work import RetrievalWork, Work, build_model, write_pictures
from .worker import Worker

SCHEMA = 3
# What ends at the memory's rate when little is computed at a time: each step reads all weights of the language model.
MEMORY_BOUND = ("decode_steps",)


@dataclass
class Report:
    """What one benchmark found. `times` is empty if the answers differ, for then nothing was timed.

    Attributes:
        peer_precision: the peer's, where it is not the work's.
        compiled: whether our encoders went through `torch.compile`.
        limits: what the machine could do at most meanwhile, at the work's precision.
        usage: contender → stage → what is computed there; nothing of a peer in another process.
    """

    name: str
    work: Work | RetrievalWork
    sizes: dict[str, Any]
    machine: dict[str, Any]
    agreement: answers.Agreement | None
    times: Times
    skipped: dict[str, str]
    peer: str | None = None
    peer_precision: str | None = None
    compiled: bool = False
    limits: Limits | None = None
    usage: dict[str, dict[str, Usage]] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return TASKS[self.work.task]

    @property
    def void(self) -> bool:
        return self.agreement is not None and self.agreement.void

    def ratio(self, stage: str) -> Spread | None:
        """How many times as fast as the peer's our stage is, round by round; None without a peer."""
        times = self.times.get(stage, {})
        return ratio(times[OURS], times[self.peer]) if self.peer in times else None

    def flops_per_second(self, stage: str, name: str = OURS) -> float | None:
        """What a contender reached in a stage, by its median; None where nothing was counted."""
        if name not in self.usage or stage not in self.usage[name] or name not in self.times.get(stage, {}):
            return None
        return self.usage[name][stage].flops / self.times[stage][name].median

    def bytes_per_second(self, stage: str, name: str = OURS) -> float | None:
        """Weights read a second in a stage that is bound by memory; None elsewhere."""
        if stage not in MEMORY_BOUND or self.flops_per_second(stage, name) is None:
            return None
        return self.usage[name][stage].weight_bytes / self.times[stage][name].median

    def share(self, stage: str, name: str = OURS) -> float | None:
        """Operations a second over those of the machine's matrix product, measured in the same run."""
        rate = self.flops_per_second(stage, name)
        return None if rate is None or self.limits is None else rate / self.limits.matmul.median

    def noise(self) -> list[str]:
        """Why nothing should be concluded from this run, if so."""
        return self.limits.noise() if self.limits is not None else []

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; seconds throughout."""
        stages: dict[str, Any] = {}
        for stage, times in self.times.items():
            stages[stage] = {"seconds": {name: spread.as_dict() for name, spread in times.items()}}
            if (ratios := self.ratio(stage)) is not None:
                stages[stage] |= {"ratio": ratios.as_dict(), "verdict": verdict(ratios)}
            stages[stage]["achieved"] = {name: self._achieved(stage, name) for name in self.usage if name in times}
        return {
            "schema": SCHEMA,
            "task": self.work.task,
            "name": self.name,
            "work": asdict(self.work),
            "sizes": self.sizes,
            "machine": self.machine,
            "peer": self.peer,
            "peer_precision": self.peer_precision,
            "compiled": self.compiled,
            "skipped": self.skipped,
            "agreement": self.agreement.as_dict() if self.agreement else None,
            "limits": self.limits.as_dict() if self.limits else None,
            "noise": self.noise(),
            "stages": stages,
        }

    def _achieved(self, stage: str, name: str) -> dict[str, Any]:
        usage, bytes_per_second = self.usage[name][stage], self.bytes_per_second(stage, name)
        copy = self.limits.copy.median if self.limits else None
        return {
            "flops": usage.flops,
            "flops_per_second": self.flops_per_second(stage, name),
            "share_of_matmul": self.share(stage, name),
            "weight_bytes": usage.weight_bytes,
            "bytes_per_second": bytes_per_second,
            "share_of_copy": bytes_per_second / copy if bytes_per_second and copy else None,
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
    python: str | None = None,
    peer_precision: str | None = None,
    compiled: bool = False,
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
        peer: one of the task's peers, by default the usual one; with `python` one of `WORKERS`.
        python: an interpreter that has the peer.
        peer_precision: of the peer, if it is not the work's.
        compiled: our image encoder and Q-Former go through `torch.compile`.
        say: is told what happens.

    Raises:
        ValueError: no such device, precision or peer, a model of another task, more tokens than it has positions, too
            little memory.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    device, precision, task = pick_device(work.device), precision_name(work.precision), TASKS[work.task]
    theirs_precision = precision_name(peer_precision or precision)
    peer = task.check_peer(peer, python) if with_peer else None
    check_memory(config, task.model, device, peer=peer)
    with _threads(threads), ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="blip2-benchmark-"))
        say("building the model")
        model = build_model(config, device, task.model)
        files = write_pictures(Path(folder), work.batch_size)
        ours = task.ours(model, config, work)
        sizes = {**_sizes(model, tuple(ours.decode(files[:1]).shape[-2:])), **ours.sizes()}
        report = Report(name, work, sizes, machine.describe(device), None, {}, {}, compiled=compiled)

        def make() -> Contender:
            if python is None:
                return task.peers[str(peer)](model, config, work, tuple(sizes["picture"]))
            worker = Worker(str(peer), python, ours)
            stack.callback(worker.close)
            report.machine[f"torch of {peer}"] = worker.torch
            return worker

        def finish(theirs: Contender | None) -> None:
            contenders: list[Contender] = [ours] if theirs is None else [ours, theirs]
            if theirs is not None:
                report.peer, report.peer_precision = peer, theirs_precision
                report.agreement = answers.compare(ours, theirs, files, parameters=sizes["parameters"], say=say)
                if report.void:
                    return
            for contender in contenders:
                contender.set_precision(precision if contender is ours else theirs_precision)
            if theirs is not None and (precision, theirs_precision) != ("fp32", "fp32"):
                answers.compare_at(precision, ours, theirs, files, report.agreement)
            say("counting what is computed")
            for contender in contenders:
                if (counted := getattr(contender, "model", None)) is not None:
                    report.usage[contender.name] = count(contender, counted, files)
            if compiled:  # not before: what is compiled can't be counted
                compile_encoders(model)
            gc.collect()
            report.limits = _limits(model, sizes, work, precision, device)
            report.times = measure(
                contenders, files, task.stages, repeats=repeats, warmup=warmup, limits=report.limits, say=say
            )

        if peer is not None:
            say(f"building {peer}")
            try:
                finish(make())
                return report
            except PeerUnavailableError as error:
                report.skipped[peer] = str(error)
                report.peer = report.peer_precision = report.agreement = None
                report.usage.clear()
                say(f"{peer} is skipped: {error}")
        finish(None)
    return report


def _limits(model: Any, sizes: dict[str, Any], work: Any, precision: str, device: torch.device) -> Limits:
    """Of products as large as those of the vision tower's feed-forward layers with all the round's pictures."""
    vision, narrow, wide, patch = model.vision_backbone, 768, 3072, 14  # where the tower is built otherwise
    if isinstance(vision, BEiTViT):
        block: Any = vision.layers[0]
        narrow, wide = vision.embed_dims, block.ffn.layers[1].in_features
        patch = vision.patch_embed.patch_size[0]
    patches = (sizes["picture"][0] // patch) * (sizes["picture"][1] // patch) + 1
    return Limits(work.batch_size * patches, narrow, wide, precision, device)


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
