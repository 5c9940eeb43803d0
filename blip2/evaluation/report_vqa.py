"""The file of answers that an evaluation server scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmengine.logging import print_log

from blip2.evaluation.gathered import GatheredMetric
from blip2.evaluation.vqa_answers import questions_of
from blip2.registry import METRICS
from blip2.utils.files import written_whole
from blip2.utils.question_annotations import read_vqa

_ID_KEYS = ("question_id", "image")


@METRICS.register_module()
class ReportVQA(GatheredMetric):
    """Writes the answers as EvalAI's VQA challenge takes them, ``[{"question_id": 1, "answer": "yes"}, …]``.

    The file appears whole or not at all, when all questions are answered. There are no scores.

    VizWiz's server knows a question by its picture and takes ``[{"image": "VizWiz_test_00000000.jpg", "answer": …}]``:
    that is `id_key` ``'image'``, the name of the file in ``img_path``.

    Args:
        file_path: the file to write, ``….json``; its folder is made.
        collect_device, prefix: as in mmengine's ``BaseMetric``.
        question_file: a VQA question file whose questions must all be answered, and no others; the server refuses a
            file with gaps.
        id_key: 'question_id' or 'image', see above.

    Raises:
        ValueError: another ending; `file_path` is a folder; another `id_key`, or 'image' with a `question_file`.
        AnnotationError: the question file cannot be used (see `read_vqa`).
    """

    default_prefix = "VQA"

    def __init__(
        self,
        file_path: str,
        collect_device: str = "cpu",
        prefix: str | None = None,
        question_file: str | None = None,
        id_key: str = "question_id",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.file_path = Path(file_path).expanduser()
        if self.file_path.suffix != ".json" or self.file_path.is_dir():
            raise ValueError(f"file_path={file_path!r} must name a file that ends in .json")
        if id_key not in _ID_KEYS:
            raise ValueError(f"id_key={id_key!r} is unknown; choose one of {list(_ID_KEYS)}")
        if id_key == "image" and question_file is not None:
            raise ValueError("question_file holds question_ids; it goes with id_key='question_id' alone")
        self.id_key = id_key
        self.expected: set[int | str] | None = None
        if question_file is not None:
            self.expected = {entry.question_id for entry in read_vqa(question_file)}
        self.question_file = question_file

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the id and the answer of each question.

        Raises:
            KeyError: a data sample has no id, picture or answer.
            ValueError: an id that is no number.
        """
        for sample in data_samples:
            for question in questions_of(sample, ("question_id",)):
                known_by = self._image(sample) if self.id_key == "image" else _number(question, sample)
                self.results.append({self.id_key: known_by, "answer": question["pred_answer"]})

    def _image(self, sample: Mapping[str, Any]) -> str:
        if sample.get("img_path") is None:
            raise KeyError("a data sample has no 'img_path', which the report needs: add it to meta_keys of PackInputs")
        return PurePosixPath(str(sample["img_path"]).replace("\\", "/")).name

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        seen: dict[int | str, str] = {}
        for result in results:
            number, answer = result[self.id_key], result["answer"]
            if number in seen:
                raise ValueError(
                    f"{self.id_key} {number} comes twice, with the answers {seen[number]!r} and {answer!r}: the "
                    "annotations name it twice, or a sampler repeats samples; nothing was written"
                )
            seen[number] = answer
        if self.expected is not None:
            _refuse(
                [number for number in self.expected if number not in seen], f"of {self.question_file} have no answer"
            )
            _refuse(
                [number for number in seen if number not in self.expected],
                f"are answered that {self.question_file} does not ask",
            )
        self.file_path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self.file_path) as partial:
            partial.write_text(json.dumps(results, ensure_ascii=False), encoding="utf-8")
        print_log(f"{len(results)} answers written to {self.file_path}", "current")
        return {}


def _number(question: Mapping[str, Any], sample: Mapping[str, Any]) -> int:
    number = question["question_id"]
    if number is None:
        raise KeyError(
            f"the answer {question['pred_answer']!r} (picture {sample.get('image_id', sample.get('img_path', '?'))}) "
            "has no 'question_id', which the report needs: add it to meta_keys of PackInputs"
        )
    try:
        return int(number)
    except (TypeError, ValueError) as error:
        raise ValueError(f"question_id {number!r} is no whole number, as the server wants it") from error


def _refuse(numbers: Sequence[Any], what: str) -> None:
    if numbers:
        shown = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
        raise ValueError(f"{len(numbers)} question(s) {what} (question_id {shown}): nothing was written")
