"""Question answering, several questions a picture: this package's way, and upstream's with the same model."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from torch import Tensor

from blip2.models.blip2_vqa import Blip2VQA, VQAOptions
from blip2.models.vqa_samples import Asked, asked
from blip2.structures import DataSample

from .answers import TokenIds
from .captioner import OwnWriter
from .work import VQAWork, draw_texts


def drawn_questions(work: VQAWork, template: str) -> list[Asked]:
    """What is asked about each picture of `work`, in the words of the prompt `template`."""
    texts = draw_texts(work.answers)
    starts = range(0, work.answers, work.questions)
    return [asked(DataSample(question=texts[start : start + work.questions]), template) for start in starts]


class Answerer(OwnWriter[VQAOptions]):
    """`Blip2VQA`: each picture is read and encoded once for all its questions."""

    def __init__(self, model: Blip2VQA, config: Config, work: VQAWork) -> None:
        # The pipeline cleans a question with its picture; what is asked here are the drawn ones, which need none.
        super().__init__(model, config, work, fields={"question": "what is it", "gt_answer": "that"})
        self.model = model
        self.asks = drawn_questions(work, self.options.prompt)
        self.sharing = work.questions
        self.sharing_queries = 1 if model.question_in_qformer else work.questions

    def prompts(self, count: int) -> list[str]:
        return [prompt for row in self.asks for prompt in row.prompts][:count]

    def qformer(self, features: Tensor) -> Tensor:
        with self.inference():
            return self.model.read_features(features, self.asks[: len(features)])

    def answer(self, files: Sequence[Path]) -> TokenIds:
        images = self.decode(files)
        with self.inference():
            return TokenIds(self.model.generate(images, self.asks[: len(images)], self.options).sequences)


class RepeatedAnswerer(Answerer):
    """The same model used as mmpretrain and LAVIS do, whose sample is a question: its picture is read and encoded again
    for each.
    """

    name = "repeated"

    def __init__(self, model: Blip2VQA, config: Config, work: VQAWork) -> None:
        super().__init__(model, config, work)
        self.copies, self.sharing, self.sharing_queries = work.questions, 1, 1
        pairs = [pair for row in self.asks for pair in zip(row.prompts, row.questions, strict=True)]
        self.asks = [Asked([prompt], [question], several=False) for prompt, question in pairs]

    def decode(self, files: Sequence[Path]) -> Tensor:
        return super().decode([file for file in files for _ in range(self.copies)])
