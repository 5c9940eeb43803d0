"""What can be timed: each task with its model, its stages, and whom it is compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from blip2.utils.suggest import did_you_mean

from .answerer import Answerer, RepeatedAnswerer
from .captioner import OwnCaptioner
from .contender import Contender
from .ranker import PaddedRanker, Ranker, RepeatedRanker
from .timing import RANKING_STAGES, STAGES
from .transformers_peer import TransformersAnswerer, TransformersCaptioner
from .worker import WORKERS

# Model, config, work, height and width of the pictures that the model is given → contender.
MakePeer = Callable[[Any, Config, Any, tuple[int, int]], Contender]


@dataclass(frozen=True)
class Task:
    """One thing to time.

    Attributes:
        work: its name.
        model: type of the model in the config.
        noun: what the answers are called.
        stages: stage → what the table calls it, in the order of the data's way; 'pipeline' is a run of its own.
        ours: model, config, work → contender; it has ``sizes()`` besides.
        peers: whom ours may be timed beside, the usual one first.
    """

    work: str
    model: str
    noun: str
    stages: Mapping[str, str]
    ours: Callable[[Any, Config, Any], Any]
    peers: Mapping[str, MakePeer]

    def check_peer(self, name: str | None, python: str | None = None) -> str:
        """The name of a peer, by default the usual one's, or with `python` of one in another interpreter.

        Raises ValueError if there is none of that name for this task.
        """
        chosen = next(iter(self.peers)) if name is None else name
        known = self.peers if python is None else [peer for peer, tasks in WORKERS.items() if self.work in tasks]
        if chosen in known:
            return chosen
        if python is None and chosen in WORKERS:
            raise ValueError(
                f"{chosen} runs in an interpreter of its own: give --peer {chosen}=PYTHON, the path of one that has it"
            )
        what = "that runs in an interpreter of its own " if python else ""
        raise ValueError(
            f"no peer {chosen!r} {what}for this task.{did_you_mean(chosen, known)} Peers: {', '.join(known) or 'none'}"
        )


TASKS = {
    "caption": Task(
        work="caption",
        model="Blip2Caption",
        noun="captions",
        stages=STAGES,
        ours=OwnCaptioner,
        peers={"transformers": lambda model, _, work, size: TransformersCaptioner(model, size, work)},
    ),
    "vqa": Task(
        work="vqa",
        model="Blip2VQA",
        noun="answers",
        stages=STAGES,
        ours=Answerer,
        peers={
            "repeated": lambda model, config, work, _: RepeatedAnswerer(model, config, work),
            "transformers": lambda model, _, work, size: TransformersAnswerer(model, size, work),
        },
    ),
    "retrieval": Task(
        work="retrieval",
        model="Blip2Retrieval",
        noun="rankings",
        stages=RANKING_STAGES,
        ours=Ranker,
        peers={
            "repeated": lambda model, config, work, _: RepeatedRanker(model, config, work),
            "padded": lambda model, config, work, _: PaddedRanker(model, config, work),
        },
    ),
}
