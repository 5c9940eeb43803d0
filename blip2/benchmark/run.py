"""One benchmark: build both captioners, see that they answer alike, time them, report."""

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
from blip2.models.blip2_caption import Blip2Caption

from . import agreement as answers
from . import machine
from .captioner import Captioner, OwnCaptioner
from .timing import STAGES, Spread, Times, measure, ratio, verdict
from .transformers_peer import PeerUnavailableError, TransformersCaptioner
from .work import Work, build_model, write_pictures

SCHEMA = 1


@dataclass
class Report:
    """What one benchmark found. `times` is empty if the answers differ, for then nothing was timed."""

    name: str
    work: Work
    sizes: dict[str, Any]
    machine: dict[str, Any]
    agreement: answers.Agreement | None
    times: Times
    skipped: dict[str, str]
    peer: str | None = None

    @property
    def void(self) -> bool:
        return self.agreement is not None and self.agreement.void

    def ratio(self, stage: str) -> Spread | None:
        """How many times as fast as the peer's our stage is, round by round; None without a peer."""
        if self.peer is None or not self.times:
            return None
        return ratio(self.times[stage][OwnCaptioner.name], self.times[stage][self.peer])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; seconds throughout."""
        stages: dict[str, Any] = {}
        for stage, times in self.times.items():
            stages[stage] = {"seconds": {name: spread.as_dict() for name, spread in times.items()}}
            if (ratios := self.ratio(stage)) is not None:
                stages[stage] |= {"ratio": ratios.as_dict(), "verdict": verdict(ratios)}
        return {
            "schema": SCHEMA,
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
    work: Work,
    *,
    name: str,
    repeats: int = 5,
    warmup: int = 1,
    threads: int | None = None,
    with_peer: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Time captioning with the model of `config` (random weights, generated pictures) beside ``transformers``.

    Args:
        config: a config of a `Blip2Caption` with a test pipeline.
        work: what one round is.
        name: what the report calls it.
        repeats: measured rounds.
        warmup: rounds before them.
        threads: of torch, for both; None leaves the number as it is.
        with_peer: False times ours alone.
        say: is told what happens.

    Raises:
        ValueError: no such device or precision, a model of another task, more tokens than it has positions.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    device, precision = pick_device(work.device), precision_name(work.precision)
    with _threads(threads), TemporaryDirectory(prefix="blip2-benchmark-") as folder:
        say("building the model")
        model = build_model(config, device)
        files = write_pictures(Path(folder), work.batch_size)
        ours = OwnCaptioner(model, config, work)
        sizes = _sizes(model, tuple(ours.decode(files[:1]).shape[-2:]))
        report = Report(name, work, sizes, machine.describe(device), None, {}, {})
        peer = _peer(model, sizes, work, report, say) if with_peer else None
        captioners: list[Captioner] = [ours] if peer is None else [ours, peer]
        if peer is not None:
            report.agreement = answers.compare(ours, peer, files, parameters=sizes["parameters"], say=say)
            if report.void:
                return report
        for captioner in captioners:
            captioner.set_precision(precision)
        if peer is not None and report.agreement is not None and precision != "fp32":
            report.agreement.identical[precision] = answers.same_ids(ours, peer, files)
        gc.collect()
        report.times = measure(captioners, files, repeats=repeats, warmup=warmup, say=say)
    return report


def _peer(
    model: Blip2Caption, sizes: dict[str, Any], work: Work, report: Report, say: Callable[[str], None]
) -> TransformersCaptioner | None:
    say("copying its weights into transformers' model")
    try:
        peer = TransformersCaptioner(model, tuple(sizes["picture"]), work)
    except PeerUnavailableError as error:
        report.skipped[TransformersCaptioner.name] = str(error)
        say(f"{TransformersCaptioner.name} is skipped: {error}")
        return None
    report.peer = peer.name
    return peer


def _sizes(model: Blip2Caption, picture: tuple[int, ...]) -> dict[str, Any]:
    parameters = {id(value): value.numel() for value in model.parameters()}
    (prompt,) = model.tokenizer.encode([model.options.prompt])
    return {
        "parameters": sum(parameters.values()),
        "picture": list(picture),
        "queries": model.multimodal_backbone.num_query_token,
        "prompt_tokens": len(prompt),
        "vocabulary": model.text_backbone.vocab_size,
    }


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["SCHEMA", "STAGES", "Report", "benchmark"]
