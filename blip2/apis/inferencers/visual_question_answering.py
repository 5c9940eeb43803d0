"""Answers to questions about pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from blip2.registry import INFERENCERS
from blip2.structures import DataSample

from .base import BaseInferencer, OnError, Prediction, one_each, plain
from .inputs import ImageInput

Questions = str | Sequence[str | Sequence[str] | None] | None

# Fields of a data sample that hold a list where several questions were asked, one item a question.
_BY_QUESTION = ("question", "prompt", "pred_answer", "pred_score", "pred_answer_scores", "answer_scores")


@INFERENCERS.register_module()
class VisualQuestionAnsweringInferencer(BaseInferencer):
    """Answers questions about pictures; see `BaseInferencer` for the arguments, and for what counts as a picture.

    Examples:
        >>> from blip2 import VisualQuestionAnsweringInferencer
        >>> inferencer = VisualQuestionAnsweringInferencer("blip2-tiny_shapes-vqa")  # doctest: +SKIP
        >>> inferencer("demo/scene_1.png", "what colour is the circle?")[0]["pred_answer"]  # doctest: +SKIP
        'red'
        >>> inferencer("demo/scene_1.png", ["is there a circle?", "how many squares are there?"])  # doctest: +SKIP
        >>> inferencer(["a.png", "b.png"], ["is it red?", "is it blue?"], answers=["yes", "no"])  # doctest: +SKIP

    A result is ``{'question': text, 'pred_answer': text, 'pred_score': score}``, where the score is the answer's
    length-normalised log-probability; with ``num_captions`` above 1 the last two are lists, best first. With `answers`
    (candidates) scores are log-probabilities as they are, and there is also ``answer_scores``, from each candidate to
    its score, best first.
    """

    task = "Visual Question Answering"
    field_kwargs = frozenset({"questions", "prompt", "context"})

    def __call__(  # type: ignore[override]  # mmpretrain's signature
        self,
        images: ImageInput | Sequence[ImageInput],
        questions: Questions,
        return_datasamples: bool = False,
        batch_size: int = 1,
        objects: Any = None,
        *,
        on_error: OnError = "raise",
        **kwargs: Any,
    ) -> list[Any]:
        """Answers one question about one picture, or many about many.

        Args:
            images: as for `BaseInferencer`.
            questions: a text, which is asked about every picture; a list for one picture (or a folder), all of which
                are asked; for a list of pictures a list with the question (or the list of questions) of each. A picture
                is encoded once for all its questions. None only where a `prompt` says everything.
            return_datasamples: gives `DataSample` objects instead of dictionaries.
            batch_size: pictures that go through the model together.
            objects: mmpretrain's, for models that are told what is in a picture; those here are not.
            on_error: see `BaseInferencer`.
            **kwargs: as for `BaseInferencer`, and: ``answers``, candidates of which the likeliest is the answer;
                ``prompt``, what the language model reads, with ``{}`` for the question (a list has one a picture;
                without ``{}`` it is read as it is); ``context``, text before that prompt, such as the conversation so
                far (a list has one a picture).

        Returns:
            One result a question: those of the first picture, those of the second …

        Raises:
            ValueError: an empty question; not one question (or list) for each picture; no candidate.
        """
        if objects is not None:
            raise TypeError(
                f"objects is for models that read descriptions of objects, such as mmpretrain's OFA; "
                f"{type(self.model).__name__} looks at the picture alone: leave objects out"
            )
        kwargs["questions"] = questions
        return super().__call__(images, return_datasamples, batch_size, on_error=on_error, **kwargs)

    def fields(
        self, images: ImageInput | Sequence[ImageInput], count: int, kwargs: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The question or questions of each picture, and its prompt and context where the call gives them."""
        said, kwargs = super().fields(images, count, kwargs)
        kwargs = dict(kwargs)
        questions = kwargs.pop("questions", None)
        context = kwargs.pop("context", None)
        template = kwargs.get("prompt", self.prompt)
        if isinstance(template, str) and "{}" not in template and kwargs.pop("prompt", None) is not None:
            said = [{"prompt": template} for _ in said]  # read as it is
        own_prompts = "prompt" in said[0]
        if context is not None:
            contexts = [context] * count if isinstance(context, str) else one_each("context", context, count)
            said = [{"prompt": template, **row, "context": text} for row, text in zip(said, contexts, strict=True)]
        paired = isinstance(images, list | tuple)
        rows = _questions_of_each(questions, count, paired, needed=not own_prompts and "{}" in template)
        return [{**row, "question": question} for row, question in zip(said, rows, strict=True)], kwargs

    def annotate(self, data_sample: DataSample, fields: Mapping[str, Any]) -> None:
        """``question`` as the pipeline left it, and ``prompt``, the whole text, where it is this picture's own."""
        if "question" not in data_sample:
            data_sample.question = fields["question"]
        if "prompt" in fields:
            data_sample.prompt = whole_prompt(fields["prompt"], data_sample.question, fields.get("context", ""))
        if not fields["question"]:
            del data_sample.question

    def finish(self, data_sample: DataSample, fields: Mapping[str, Any]) -> None:
        """Puts the question back as it was asked: the model may have read it without capitals and punctuation."""
        data_sample.question = fields["question"] or None

    def forward(self, batch: list[dict[str, Any]], **kwargs: Any) -> list[DataSample]:
        """As for every task; the scores of candidates get their candidates' names."""
        samples = super().forward(batch, **kwargs)
        answers = kwargs.get("answers", getattr(getattr(self.model, "options", None), "answers", None))
        for sample in samples:
            scores = sample.get("pred_answer_scores")
            if scores is not None and answers is not None:
                rows = [_named(answers, row) for row in (scores if isinstance(scores[0], list) else [scores])]
                sample.answer_scores = rows if isinstance(scores[0], list) else rows[0]
        return samples

    @property
    def prompt(self) -> str:
        """The text into which the model puts a question, in place of ``{}``."""
        options = getattr(self.model, "options", None)
        return str(getattr(options, "prompt", "{}"))

    def results(self, prediction: Prediction, return_datasamples: bool = False) -> list[Any]:
        """One result a question; of a picture that failed each question gets the text ``error``."""
        if prediction.data_sample is not None:
            samples = each_question(prediction.data_sample)
            return samples if return_datasamples else [self.pack(sample) for sample in samples]
        asked, reason = prediction.fields["question"], str(prediction.error)
        failed: list[dict[str, Any]] = [
            {"question": question or None, "error": reason}
            for question in (asked if isinstance(asked, list) else [asked])
        ]
        return [DataSample(**fields) for fields in failed] if return_datasamples else failed

    def pack(self, data_sample: DataSample) -> dict[str, Any]:
        """``question``, ``pred_answer``, ``pred_score``, and ``answer_scores`` of candidates; plain Python values."""
        result = {
            "question": data_sample.get("question"),
            "pred_answer": data_sample.pred_answer,
            "pred_score": plain(data_sample.get("pred_score")),
        }
        if "answer_scores" in data_sample:
            result["answer_scores"] = data_sample.answer_scores
        return result

    @classmethod
    def is_single(cls, images: Any, questions: Any = None, *args: Any, **kwargs: Any) -> bool:
        """One picture and one question."""
        return super().is_single(images) and not isinstance(questions, list | tuple)


def whole_prompt(template: str, questions: str | Sequence[str], context: str = "") -> str | list[str]:
    """`context`, a space, and `template` with the question in place of ``{}``; a list for a list of questions.

    Raises:
        ValueError: several questions, and no ``{}`` to put them in.
    """
    opening = f"{context.rstrip()} " if context.strip() else ""
    if isinstance(questions, str):
        return opening + template.replace("{}", questions)
    if "{}" not in template and len(questions) > 1:
        raise ValueError(f"the prompt {template!r} has no {{}} to put {len(questions)} questions in")
    return [opening + template.replace("{}", question) for question in questions]


def each_question(data_sample: DataSample) -> list[DataSample]:
    """A data sample for each question that was asked about one picture."""
    questions = data_sample.get("question")
    if not isinstance(questions, list):
        return [data_sample]
    shared = {key: value for key, value in data_sample.items() if key not in _BY_QUESTION}
    own = {key: data_sample.get(key) for key in _BY_QUESTION if key in data_sample}
    return [
        DataSample(
            metainfo=dict(data_sample.metainfo_items()), **shared, **{key: values[row] for key, values in own.items()}
        )
        for row in range(len(questions))
    ]


def _named(answers: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    ranked = sorted(zip(answers, scores, strict=True), key=lambda pair: -pair[1])
    return dict(ranked)


def _questions_of_each(questions: Questions, count: int, paired: bool, needed: bool) -> list[str | list[str]]:
    """The question or the list of questions of each of `count` pictures, '' for none.

    Args:
        paired: a list holds one item a picture; else it is for each picture.
        needed: None is refused.
    """
    if questions is None or isinstance(questions, str) or not paired:
        rows: list[Any] = [questions] * count
    elif not isinstance(questions, list | tuple):
        raise TypeError(f"questions is a {type(questions).__name__}; wanted a text or a list of texts")
    elif len(questions) != count:
        raise ValueError(
            f"{len(questions)} questions for {count} pictures: give each picture its own, or its own list of "
            "questions ([['…', '…'], …]), or one text for all"
        )
    else:
        rows = list(questions)
    return [_checked(row, f"questions[{index}]" if paired else "questions", needed) for index, row in enumerate(rows)]


def _checked(question: Any, name: str, needed: bool) -> str | list[str]:
    if question is None and not needed:
        return ""
    if isinstance(question, list | tuple):
        if not question:
            raise ValueError(f"{name} is an empty list: there is nothing to answer")
        return [_text(item, f"{name}[{index}]") for index, item in enumerate(question)]
    return _text(question, name)


def _text(question: Any, name: str) -> str:
    if not isinstance(question, str):
        raise TypeError(f"{name} is {question!r}; wanted a text")
    if not question.strip():
        raise ValueError(f"{name} is empty ({question!r}): there is nothing to answer")
    return question
