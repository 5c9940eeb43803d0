"""What datasets of questions about pictures share."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from mmengine.fileio import join_path, list_dir_or_file

from blip2.datasets.base import BaseImageDataset
from blip2.utils.errors import AnnotationError, ImageError, MissingImageError
from blip2.utils.pictures import PICTURE_SUFFIXES
from blip2.utils.question_annotations import QuestionEntry

_SAMPLE_PER = ("question", "image")


class QuestionDataset(BaseImageDataset):
    """What datasets of questions share: a child reads the entries.

    A sample has ``question``, ``question_id``, ``image_id``, ``img_path`` and what the annotations say: ``gt_answer``,
    ``gt_answer_weight``, ``question_type``, ``answer_type``, ``multiple_choice_answer``.

    Args:
        sample_per: 'question' gives a sample for each question; 'image' one for each picture, in which the fields of
            the questions are lists of equal length (``gt_answer`` and its weights lists of lists), so that a training
            encodes a picture once for all its questions.
        questions_per_sample: with ``sample_per='image'``: at most so many questions a sample, drawn anew, without
            repetition and from numpy's generator, each time the sample is asked for. None takes all.
        Others as in `BaseImageDataset`.
    """

    def __init__(
        self,
        ann_file: str = "",
        *,
        sample_per: str = "question",
        questions_per_sample: int | None = None,
        **base_arguments: Any,
    ) -> None:
        if sample_per not in _SAMPLE_PER:
            raise ValueError(f"sample_per={sample_per!r} is unknown; choose one of {list(_SAMPLE_PER)}")
        if questions_per_sample is not None:
            if questions_per_sample < 1:
                raise ValueError(f"questions_per_sample={questions_per_sample} must be 1 or more, or None for all")
            if sample_per != "image" or base_arguments.get("test_mode"):
                raise ValueError(
                    "questions_per_sample draws questions for training: it goes with sample_per='image' and without "
                    "test_mode"
                )
        self.sample_per = sample_per
        self.questions_per_sample = questions_per_sample
        super().__init__(ann_file, **base_arguments)

    def read_entries(self) -> list[QuestionEntry]:
        """The questions of the annotation files."""
        raise NotImplementedError

    def picture_paths(self, entries: list[QuestionEntry]) -> list[str]:
        """The file of each entry's picture: by default the one that the entry names, below `data_prefix`."""
        return [join_path(self.data_prefix.get("img_path", ""), entry.image) for entry in entries]

    def load_data_list(self) -> list[dict]:
        entries = self.read_entries()
        samples = [
            {"img_path": path, "image_id": entry.image_id, **_question_fields(entry)}
            for entry, path in zip(entries, self.picture_paths(entries), strict=True)
        ]
        return samples if self.sample_per == "question" else _by_picture(samples)

    def prepare_data(self, idx: int) -> Any:
        info = self.get_data_info(idx)
        if self.questions_per_sample is not None:
            count = len(info["question"])
            chosen = np.sort(np.random.choice(count, min(self.questions_per_sample, count), replace=False))
            info.update({key: [info[key][i] for i in chosen] for key in _QUESTION_FIELDS if key in info})
        return self.pipeline(info)

    # ----- several questions in one sample, as evaluation asks for them -----

    def picture_groups(self) -> list[list[int]] | None:
        """The places of the questions about each picture, in order of first appearance.

        None where a sample has several questions anyway, or where a transform of somebody else's may not take them.
        """
        if self.sample_per != "question" or not all(
            _takes_several(transform) for transform in self.pipeline.transforms
        ):
            return None
        groups: dict[tuple[str, ...], list[int]] = {}
        for place in range(len(self)):
            info = self.get_data_info(place)
            groups.setdefault((info["img_path"], *(key for key in _QUESTION_FIELDS if key in info)), []).append(place)
        return list(groups.values())

    def joined(self, indices: Sequence[int]) -> Any:
        """One sample of the questions at `indices`, all about one picture, as ``sample_per='image'`` would give it."""
        samples = [self.get_data_info(place) for place in indices]
        try:
            return self.pipeline(_together(samples, [key for key in _QUESTION_FIELDS if key in samples[0]]))
        except ImageError as error:
            if not self.skip_bad_images:
                raise
            return self.bad_image(indices[0], error)

    @staticmethod
    def parted(fields: Mapping[str, Any]) -> list[dict]:
        """The fields of each question of a joined sample that a model has answered."""
        own = [key for key in fields if key in _QUESTION_FIELDS or key.startswith("pred_")]
        count = len(fields["pred_answer"])
        return [{**fields, **{key: fields[key][place] for key in own}} for place in range(count)]


def _takes_several(transform: Any) -> bool:
    """Whether a transform leaves questions alone or takes lists of them: ours do, mmcv's know pictures only."""
    return type(transform).__module__.partition(".")[0] in ("blip2", "mmcv", "torchvision")


_QUESTION_FIELDS = (
    *("question", "question_id", "gt_answer", "gt_answer_weight"),
    *("question_type", "answer_type", "multiple_choice_answer"),
)


def _question_fields(entry: QuestionEntry) -> dict[str, Any]:
    fields: dict[str, Any] = {"question": entry.question, "question_id": entry.question_id}
    if entry.answers is not None:
        counts = Counter(entry.answers)  # in order of first appearance
        fields["gt_answer"] = list(counts)
        fields["gt_answer_weight"] = [count / len(entry.answers) for count in counts.values()]
    return {**fields, **(entry.labels or {})}


def _by_picture(samples: list[dict]) -> list[dict]:
    """One sample a picture, in order of first appearance; what belongs to a question becomes a list."""
    groups: dict[str, list[dict]] = {}
    for sample in samples:
        groups.setdefault(sample["img_path"], []).append(sample)
    pictures = []
    for path, group in groups.items():
        keys = [key for key in _QUESTION_FIELDS if any(key in sample for sample in group)]
        partial = next((key for key in keys if any(key not in sample for sample in group)), None)
        if partial:
            raise AnnotationError(
                f"some questions about the picture {path} have {partial!r} and others don't; complete the annotations, "
                "or take a sample_per='question'"
            )
        pictures.append(_together(group, keys))
    return pictures


def _together(samples: Sequence[dict], keys: Sequence[str]) -> dict:
    """One sample of several about the same picture, with lists of what is under `keys`."""
    return {**samples[0], **{key: [sample[key] for sample in samples] for key in keys}}


class NumberedPictures(QuestionDataset):
    """A `QuestionDataset` whose annotations give a picture's number, not its file.

    It is the file of the folder whose name holds the number in twelve digits (``COCO_val2014_000000000042.jpg``), ends
    with it (``42.png``, ``x_42.png``), or is it. Where `search_below` is set, the folders below are looked into too.

    Raises:
        AnnotationError: two files bear the number of one picture.
        MissingImageError: questions ask about pictures that are not there (unless `check_images` is off or
            `skip_bad_images` on).
    """

    search_below = False

    def picture_paths(self, entries: list[QuestionEntry]) -> list[str]:
        folder = self.data_prefix.get("img_path", "")
        files = _files_by_id(folder, self.search_below)
        missing = [entry for entry in entries if entry.image_id not in files]
        if missing and self.check_images and not self.skip_bad_images:
            raise MissingImageError(
                f"{len(missing)} question(s) of {self.describe_source()} ask about pictures that are not among the "
                f"{len(files)} of the folder {folder!r}; the first is question {missing[0].question_id} about picture "
                f"{missing[0].image_id}. Check data_root and data_prefix, or leave them out with skip_bad_images=True "
                "(`--skip-bad-images`)"
            )
        paths = {image_id: self._path(files, image_id) for image_id in {entry.image_id for entry in entries}}
        return [paths[entry.image_id] for entry in entries]

    def _path(self, files: Mapping[int | str, list[str]], image_id: int | str) -> str:
        folder = self.data_prefix.get("img_path", "")
        names = files.get(image_id, [f"{image_id:012d}.jpg" if isinstance(image_id, int) else f"{image_id}.jpg"])
        if len(names) > 1:
            raise AnnotationError(
                f"{self.describe_source()} asks about picture {image_id}, which may be any of {len(names)} files of "
                f"{folder!r}: {names[0]}, {names[1]}. Keep one of them there"
            )
        return join_path(folder, names[0])


def _files_by_id(folder: str, below: bool) -> dict[int | str, list[str]]:
    """The picture files of a folder, and on demand of those `below` it, by the id that their names give."""
    if "://" not in folder and not os.path.isdir(folder or "."):
        raise MissingImageError(f"there is no folder {folder!r} of pictures; check data_root and data_prefix")
    files: dict[int | str, list[str]] = {}
    for name in list_dir_or_file(folder or ".", list_dir=False, recursive=below):
        if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES:
            files.setdefault(_id_in_name(PurePosixPath(name).stem), []).append(name)
    return files


def _id_in_name(stem: str) -> int | str:
    twelve = re.findall(r"(?<!\d)\d{12}(?!\d)", stem)
    ending = twelve[-1] if twelve else stem.rsplit("_", 1)[-1]
    return int(ending) if ending.isascii() and ending.isdigit() else stem
