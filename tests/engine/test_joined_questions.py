"""Questions about one picture are asked together in an evaluation, and nobody can tell from the answers."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from PIL import Image

from blip2.apis.runner import build_runner
from blip2.datasets.vqa import COCOVQA
from blip2.engine.data import joined_batches
from blip2.registry import MODELS, TRANSFORMS

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from toy_answerer import ToyAnswerer

# Picture numbers of the questions in their order: those of a picture are apart, and one has more than a batch holds.
ASKED_ABOUT = [3, 1, 3, 2, 1, 3, 3, 3, 5, 3, 4, 3]


@MODELS.register_module(force=True)
class CountingAnswerer(ToyAnswerer):
    """Notes how many pictures each batch had."""

    answers_several = True

    def predict(self, images, data_samples, **overrides):
        self.batches = [*getattr(self, "batches", []), len(images)]
        return super().predict(images, data_samples, **overrides)


@MODELS.register_module(force=True)
class CountingOneByOne(CountingAnswerer):
    answers_several = False


@TRANSFORMS.register_module(force=True)
class SomebodysTransform(BaseTransform):
    def transform(self, results):
        assert isinstance(results["question"], str)
        return results


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in set(ASKED_ABOUT):
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    questions = [
        {"image_id": number, "question_id": 100 + place, "question": "what " * (1 + place)}
        for place, number in enumerate(ASKED_ABOUT)
    ]
    (tmp_path / "questions.json").write_text(json.dumps({"questions": questions}))
    return tmp_path


def dataset(folder, *transforms, **arguments) -> dict:
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "CleanCaption", "keys": "question"},
        *transforms,
        {"type": "PackInputs", "algorithm_keys": ["question"], "meta_keys": ["question_id", "image_id", "img_path"]},
    ]
    return dict(question_file="questions.json", data_root=str(folder), pipeline=pipeline, test_mode=True, **arguments)


def run(folder, model="CountingAnswerer", transforms=(), workers=0, **arguments):
    """Answers by place, and how many pictures the batches had."""
    config = Config(
        {
            "default_scope": "blip2",
            "work_dir": str(folder / "work"),
            "model": {"type": model, "data_preprocessor": {"type": "MultiModalDataPreprocessor"}},
            "test_dataloader": {
                "batch_size": 4,
                "num_workers": workers,
                "dataset": {"type": "COCOVQA", **dataset(folder, *transforms, **arguments)},
            },
            "test_evaluator": [{"type": "ReportVQA", "file_path": str(folder / "answers.json")}],
            "test_cfg": {},
        }
    )
    runner = build_runner(config, device="cpu", test_only=True)
    runner.test_loop.skip_bad_images = True
    runner.test()
    answers = {place: runner.test_loop.samples[place] for place in sorted(runner.test_loop.samples)}
    return answers, runner.bare_model.batches, json.loads((folder / "answers.json").read_text())


@pytest.mark.parametrize("workers", [0, 2])
def test_answers_are_the_same_and_pictures_come_once(folder, workers) -> None:
    together, batches, report = run(folder, workers=workers)
    one_by_one, single_batches, single_report = run(folder, "CountingOneByOne")
    assert single_batches == [4, 4, 4]
    # Picture 3 has 7 questions (4 + 3), picture 1 two, and 2, 5 and 4 one each: 4 | 3 | 2 + 1 + 1 | 1.
    assert batches == [1, 1, 3, 1]
    assert together == one_by_one
    assert [fields["question_id"] for fields in together.values()] == [100 + place for place in range(12)]
    assert report == single_report


def test_transform_of_somebody_else_gets_one_question_at_a_time(folder) -> None:
    _, batches, _ = run(folder, transforms=[{"type": "SomebodysTransform"}])
    assert batches == [4, 4, 4]


def test_unreadable_picture_takes_all_its_questions_along(folder) -> None:
    (folder / "3.png").write_bytes(b"no picture")
    answers, _, _ = run(folder, skip_bad_images=True)
    assert list(answers) == [place for place, number in enumerate(ASKED_ABOUT) if number != 3]


def test_questions_with_and_without_answers_are_not_mixed(folder) -> None:
    data = COCOVQA(**dataset(folder))
    data.full_init()
    entries = [data.get_data_info(place) for place in range(len(data))]
    entries[0]["gt_answer"] = ["red"]  # question 0, of picture 3
    data.get_data_info = lambda place: dict(entries[place])
    groups = data.picture_groups()
    assert sorted(place for group in groups for place in group) == list(range(12))
    assert [0] in groups


def test_batches_hold_whole_groups_and_never_too_much() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 5, 16):
        lengths = torch.randint(1, 9, (40,), generator=generator).tolist()
        starts = [sum(lengths[:n]) for n in range(40)]
        groups = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
        batches = joined_batches(groups, size)
        assert [place for batch in batches for part in batch for place in part] == list(range(sum(lengths)))
        assert all(sum(map(len, batch)) <= size for batch in batches)
        whole = {tuple(group) for group in groups if len(group) <= size}
        assert whole <= {part for batch in batches for part in batch}
