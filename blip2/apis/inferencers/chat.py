"""A conversation about one picture: earlier questions and answers go into the prompt of the next."""

from dataclasses import dataclass
from typing import Any

from blip2.structures import DataSample

from .inputs import ImageInput, inputs_to_list
from .visual_question_answering import VisualQuestionAnsweringInferencer, whole_prompt


@dataclass(frozen=True)
class Reply:
    """An answer in a conversation.

    Attributes:
        question, answer: the texts.
        score: length-normalised log-probability of the answer.
        context: the earlier turns as the language model read them.
        forgotten: how many earlier turns were left out because they do not fit into the model's positions.
    """

    question: str
    answer: str
    score: float | None
    context: str
    forgotten: int


class Chat:
    """Asks about one picture again and again; the model is told what was said before.

    This is the instructed generation of the paper (arXiv 2301.12597, section 4.1 and figure 4): the dialogue so far
    stands before the question as text, 'Question: … Answer: …. Question: … Answer:'. The model was not trained on
    dialogues. Turns that no longer fit into the language model's positions are left out, the oldest first.

    Args:
        inferencer: an inferencer, or what its constructor takes: a model name, a config, a model.
        picture: any one picture that inferencers take.
        max_turns: earlier turns to be told at most; 0 asks each question on its own, None tells all that fit.
        **options: of the model's `predict`, for all questions (``num_beams``, ``prompt`` …).

    Raises:
        ValueError, OSError: the picture cannot be read.
        TypeError: an unknown option.
    """

    def __init__(
        self,
        inferencer: VisualQuestionAnsweringInferencer | Any,
        picture: ImageInput,
        *,
        max_turns: int | None = None,
        **options: Any,
    ) -> None:
        if max_turns is not None and max_turns < 0:
            raise ValueError(f"max_turns={max_turns}: wanted a number of turns, 0 or more")
        if not isinstance(inferencer, VisualQuestionAnsweringInferencer):
            inferencer = VisualQuestionAnsweringInferencer(inferencer)
        _, self.options, drawing = inferencer.dispatch(options)
        if drawing:
            raise TypeError(f"Chat draws nothing: leave out {', '.join(drawing)}")
        self.template = str(self.options.get("prompt", inferencer.prompt))
        if "{}" not in self.template:
            raise ValueError(f"the prompt {self.template!r} has no {{}} to put a question in")
        self.inferencer = inferencer
        self.max_turns = max_turns
        self.turns: list[str] = []
        self.show(picture)

    def show(self, picture: ImageInput) -> None:
        """Goes over to another picture and begins anew; if it cannot be read, the conversation stays as it is."""
        items = inputs_to_list(picture)
        if isinstance(picture, list | tuple) or len(items) != 1:
            raise ValueError("a conversation is about one picture; give its path, not a folder or a list")
        self._pixels = self.inferencer.pipeline.load(items[0])
        self.reset()

    def reset(self) -> None:
        """Forgets what was said."""
        self.turns.clear()

    def ask(self, question: str) -> Reply:
        """The answer to a question, in the light of what was said before.

        Raises:
            ValueError: an empty question, or one that alone is beyond the model's positions.
        """
        sample, data = self._prepare(question)
        earlier = self._within_limit()
        wanted = len(earlier)
        prompt = whole_prompt(self.template, sample.question, " ".join(earlier))
        while earlier and not self._fits(str(prompt)):
            earlier = earlier[1:]
            prompt = whole_prompt(self.template, sample.question, " ".join(earlier))
        sample.prompt = prompt
        (answered,) = self.inferencer.forward([data], **self.options)
        answer = answered.pred_answer
        if not isinstance(answer, str):
            raise ValueError("a conversation goes on from one answer: leave num_captions at 1")
        self.turns.append(_turn(str(whole_prompt(self.template, sample.question)), answer))
        score = answered.get("pred_score")
        return Reply(question, answer, score, " ".join(earlier), wanted - len(earlier))

    def _prepare(self, question: str) -> tuple[DataSample, dict[str, Any]]:
        """The picture and the question through the pipeline, which cleans the question as it does in training."""
        (fields,), _ = self.inferencer.fields(self._pixels, 1, {"questions": question})
        data = self.inferencer.pipeline(self._pixels, None, fields)
        self.inferencer.annotate(data["data_samples"], fields)
        return data["data_samples"], data

    def _within_limit(self) -> list[str]:
        if self.max_turns is None:
            return list(self.turns)
        return self.turns[len(self.turns) - min(self.max_turns, len(self.turns)) :]

    def _fits(self, prompt: str) -> bool:
        """Whether the language model has positions for the queries, this prompt and the longest answer."""
        model: Any = self.inferencer.model
        (ids,) = model.tokenizer.encode([prompt.rstrip()])
        longest = self.options.get("max_txt_len", model.options.max_txt_len)
        try:
            model.text_backbone.check_length(model.query_tokens.shape[1] + len(ids) + longest - 1)
        except ValueError:
            return False
        return True


def _turn(prompt: str, answer: str) -> str:
    """One turn as the next prompt repeats it: 'Question: … Answer: ….'"""
    text = f"{prompt.rstrip()} {answer}".rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
