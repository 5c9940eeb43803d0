"""What can be timed: each task with its model, its stages, and whom it is compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from blip2.utils.suggest import did_you_mean

from .answerer import Answerer, RepeatedAnswerer
from .captioner import OwnCaptioner
from .contender import Contender
from .ranker import Ranker, RepeatedRanker
from .timing import RANKING_STAGES, STAGES
from .transformers_peer import TransformersAnswerer, TransformersCaptioner

# Model, config, work, height and width of the pictures that the model is given → contender.
MakePeer = Callable[[Any, Config, Any, tuple[int, int]], Contender]


@dataclass(frozen=True)
class Task:
    """One thing to time.

    Attributes:
        model: type of the model in the config.
        noun: what the answers are called.
        stages: stage → what the table calls it, in the order of the data's way; 'pipeline' is a run of its own.
        ours: model, config, work → contender; it has ``sizes()`` besides.
        peers: whom ours may be timed beside, the usual one first.
    """

    model: str
    noun: str
    stages: Mapping[str, str]
    ours: Callable[[Any, Config, Any], Any]
    peers: Mapping[str, MakePeer]

    def peer(self, name: str | None) -> tuple[str, MakePeer]:
        """A peer by name, by default the usual one, with its name; raises ValueError if there is none of that name."""
        chosen = next(iter(self.peers)) if name is None else name
        if chosen not in self.peers:
            raise ValueError(
                f"no peer {chosen!r} for this task.{did_you_mean(chosen, self.peers)} Peers: {', '.join(self.peers)}"
            )
        return chosen, self.peers[chosen]


TASKS = {
    "caption": Task(
        model="Blip2Caption",
        noun="captions",
        stages=STAGES,
        ours=OwnCaptioner,
        peers={"transformers": lambda model, _, work, size: TransformersCaptioner(model, size, work)},
    ),
    "vqa": Task(
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
        model="Blip2Retrieval",
        noun="rankings",
        stages=RANKING_STAGES,
        ours=Ranker,
        peers={"repeated": lambda model, config, work, _: RepeatedRanker(model, config, work)},
    ),
}
