"""What the page's tabs do, without the page."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from blip2.apis import Chat, ImageCaptionInferencer, query_attention, word_maps
from blip2.apis.hub import task_source
from blip2.apis.inferencers import (
    BaseInferencer,
    ImageToTextRetrievalInferencer,
    TextToImageRetrievalInferencer,
    VisualQuestionAnsweringInferencer,
    inferencer_for,
)
from blip2.apis.inferencers.placement import autocast
from blip2.utils.pictures import find_pictures
from blip2.utils.resources import resources_root
from blip2.visualization import draw_heat_maps

from .jobs import Cancelled, Jobs
from .limits import Limits, RefusedError

Progress = Callable[[int, int], None]

SMALL_MODELS = ("blip2-tiny_shapes-caption", "blip2-tiny_shapes-vqa", "blip2-tiny_shapes-retrieval")
GALLERIES_KEPT = 4
PRELOAD = "preload"  # no visitor is called so

# task → the inferencer of the models that do it
_KINDS: dict[str, type[BaseInferencer]] = {
    "caption": ImageCaptionInferencer,
    "questions": VisualQuestionAnsweringInferencer,
    "retrieval": ImageToTextRetrievalInferencer,
}


def models_by_task(names: Sequence[str]) -> dict[str, str]:
    """Which of the models `names` is for which task of 'caption', 'questions' and 'retrieval'.

    Raises:
        ValueError: an unknown model, or two for one task.
    """
    found: dict[str, str] = {}
    for name in names:
        kind = inferencer_for(task_source(name))
        task = next(task for task, known in _KINDS.items() if kind is known)
        if task in found:
            raise ValueError(f"{found[task]} and {name} are both for {task}: name one of them")
        found[task] = name
    return found


@dataclass(frozen=True)
class Scored:
    """A text and its scores: name of the score → (number, share of a full bar from 0 to 1)."""

    text: str
    scores: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Found:
    """Pictures that were found, best first, as (path, score), and why others could not be searched."""

    pictures: list[tuple[str, float]]
    left_out: list[str]


@dataclass
class Service:
    """The models and what can be done with them; each call is one job of a visitor (see `Jobs`).

    A model is loaded when it is first needed, or by `preload`.

    Attributes:
        models: task → a model's name or its config's path; see `models_by_task`.
        folder: the pictures that can be searched without an upload.
        device, precision: as of `BaseInferencer`.

    All calls raise `RefusedError` for input beyond the `limits`, `Cancelled`, and `ValueError` or `OSError` with a text
    for the visitor.
    """

    models: Mapping[str, str]
    folder: Path = field(default_factory=lambda: resources_root() / "demo")
    device: str | None = None
    precision: str = "auto"
    limits: Limits = field(default_factory=Limits)
    jobs: Jobs = field(default_factory=Jobs)

    def __post_init__(self) -> None:
        self._inferencers: dict[str, BaseInferencer] = {}
        self._galleries: OrderedDict[Any, TextToImageRetrievalInferencer] = OrderedDict()

    def preload(self) -> None:
        """Loads all models, unless `stop_preload` comes first."""
        with suppress(Cancelled), self.jobs.job(PRELOAD):
            for task in self.models:
                self.jobs.check()
                self._inferencer(task)

    def stop_preload(self) -> None:
        """Has `preload` end after the model that it is at."""
        self.jobs.cancel(PRELOAD)

    # ----- the tabs -----

    def caption(self, visitor: str, picture: str | None, prompt: str, **options: Any) -> list[Scored]:
        """Captions of a picture that continue `prompt`, best first, with their mean log-probability a token.

        `options` are those of the model's `predict`: ``num_beams``, ``max_txt_len``, ``num_captions``, ``do_sample`` …
        """
        pixels = self.limits.picture(picture)
        prompt = self.limits.line(prompt, "prompt") if prompt.strip() else ""
        with self.jobs.job(visitor):
            (result,) = self._inferencer("caption")(pixels, prompt=prompt, **options)
        texts, scores = result["pred_caption"], result["pred_score"]
        if isinstance(texts, str):
            texts, scores = [texts], [scores]
        return [Scored(text, {"score": (score, 0.0)}) for text, score in zip(texts, scores, strict=True)]

    def ask(
        self, visitor: str, picture: str | None, question: str, turns: Sequence[str], remember: bool
    ) -> tuple[str, list[str]]:
        """The answer, and `turns` with this one added: what the next call is to be told of the conversation.

        Without `remember` the question is asked on its own.
        """
        pixels = self.limits.picture(picture)
        question = self.limits.line(question, "question")
        with self.jobs.job(visitor):
            chat = Chat(self._inferencer("questions"), pixels, max_turns=None if remember else 0)
            chat.turns[:] = turns
            reply = chat.ask(question)
        return reply.answer, chat.turns

    def match(self, visitor: str, picture: str | None, texts: str) -> list[Scored]:
        """How well each line of `texts` fits the picture: ITC (−1 to 1) and ITM (0 to 1), in the order of the lines."""
        pixels, lines = self.limits.picture(picture), self.limits.lines(texts)
        with self.jobs.job(visitor):
            inferencer = ImageToTextRetrievalInferencer(
                self._inferencer("retrieval").model, lines, prototype_cache=False, precision=self.precision
            )
            (result,) = inferencer.compare(pixels)
        return [
            Scored(text, {"ITC": (itc, (itc + 1) / 2), "ITM": (itm, itm)})
            for text, itc, itm in zip(lines, result["itc"], result["itm"], strict=True)
        ]

    def find_texts(self, visitor: str, picture: str | None, texts: str) -> list[Scored]:
        """`match`, the best first."""
        return sorted(self.match(visitor, picture, texts), key=lambda row: -row.scores["ITM"][0])

    def find_pictures(
        self,
        visitor: str,
        text: str,
        uploads: Sequence[str] | None,
        *,
        topk: int = 6,
        rerank: bool = True,
        progress: Progress | None = None,
    ) -> Found:
        """The `topk` best pictures of the uploaded ones, or of the folder where `uploads` is None.

        Args:
            rerank: the matching head looks again at the most similar ones.
            progress: told how many pictures have been read of how many.
        """
        line = self.limits.line(text, "text")
        paths = self.limits.pictures(uploads) if uploads is not None else list(map(str, find_pictures(self.folder)))
        with self.jobs.job(visitor):
            inferencer = self._gallery(paths, rerank, uploads is None, progress)
            gallery = inferencer.gallery
            (matches,) = inferencer(line, topk=min(topk, len(gallery.ranked)))
        left_out = [
            f"{Path(gallery.names[index]).name}: {getattr(error, 'reason', error)}"
            for index, error in gallery.failures.items()
        ]
        return Found([(match["sample"]["img_path"], match["match_score"]) for match in matches], left_out)

    def explain(self, visitor: str, picture: str | None, text: str) -> Image.Image:
        """Heat maps: where each word of `text` draws the attention of the retrieval model."""
        pixels, line = self.limits.picture(picture), self.limits.line(text, "text")
        with self.jobs.job(visitor):
            inferencer = self._inferencer("retrieval")
            with autocast(inferencer.device, inferencer.precision):
                maps = word_maps(inferencer.model, pixels, line)
            return draw_heat_maps(line, Image.fromarray(pixels[:, :, ::-1]), maps, width=1200)

    def explain_queries(self, visitor: str, picture: str | None, task: str) -> Image.Image:
        """Heat maps: where each query of the model for `task` looks."""
        pixels = self.limits.picture(picture)
        with self.jobs.job(visitor):
            inferencer = self._inferencer(task)
            with autocast(inferencer.device, inferencer.precision):
                found = query_attention(inferencer.model, pixels)
            maps = [(f"query {number}", query) for number, query in enumerate(found)]
            heading = f"queries of {Path(self.models[task]).stem}"
            return draw_heat_maps(heading, Image.fromarray(pixels[:, :, ::-1]), maps, width=1200)

    # ----- models and galleries -----

    def prompt(self) -> str:
        """The prompt that the captioner's config names, without building the model."""
        from blip2.apis import load_config

        return str(load_config(self.models["caption"]).model.get("prompt", ""))

    def _inferencer(self, task: str) -> Any:
        if task not in self.models:
            raise RefusedError(f"This demo runs without a model for {task}.")
        if task not in self._inferencers:
            kind: Any = _KINDS[task]
            # What a retrieval model ranks differs from call to call; here it only brings the model and its pipeline.
            own = {"prototype": ["-"], "prototype_cache": False} if task == "retrieval" else {}
            inferencer = kind(self.models[task], device=self.device, precision=self.precision, **own)
            self.jobs.watch(inferencer.model)
            self._inferencers[task] = inferencer
        return self._inferencers[task]

    def _gallery(
        self, paths: Sequence[str], rerank: bool, keep_on_disk: bool, progress: Progress | None
    ) -> TextToImageRetrievalInferencer:
        """An inferencer over these pictures; the last few are kept."""

        def moved(done: int, total: int) -> None:
            self.jobs.check()
            if progress is not None:
                progress(done, total)

        key = (tuple((path, Path(path).stat().st_mtime_ns) for path in paths), rerank)
        if key not in self._galleries:
            self._galleries[key] = TextToImageRetrievalInferencer(
                self._inferencer("retrieval").model,
                list(paths),
                prototype_cache=None if keep_on_disk else False,
                fast_match=not rerank,
                precision=self.precision,
                on_bad_item="skip",
                progress=moved,
            )
            while len(self._galleries) > GALLERIES_KEPT:
                self._galleries.popitem(last=False)
        self._galleries.move_to_end(key)
        return self._galleries[key]
