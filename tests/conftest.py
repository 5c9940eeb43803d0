"""For every test: no network, one thread, the same random numbers; tests marked `gpu` only where there is a GPU."""

import json
import os
import random
from pathlib import Path

# Before the libraries that read them at import, and for the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pytest
import torch
from PIL import Image

# Threads cost more than they give on tensors this small.
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test's random numbers don't depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def published_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COCO's captions, questions and retrieval texts, and GQA, with three pictures each, below ``data/`` of the working
    folder, which is a new one: what mmpretrain's BLIP-2 configs and ours look for, under the published names.
    """
    monkeypatch.chdir(tmp_path)
    coco, gqa = tmp_path / "data" / "coco", tmp_path / "data" / "gqa"
    ids = (7, 42, 139)
    for split in ("train2014", "val2014", "test2015"):
        names = {i: f"{split}/COCO_{split}_{i:012d}.jpg" for i in ids}
        for number, name in enumerate(names.values()):
            (coco / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (80 * number, 120, 60)).save(coco / name)
        asked = [{"image_id": i, "question_id": i * 1000, "question": "What is it?"} for i in ids]
        answers = [{"answer": text, "answer_id": 1} for text in ["cat"] * 7 + ["dog"] * 3]
        annotations = [
            {
                **row,
                "question_type": "what is",
                "answer_type": "other",
                "answers": answers,
                "multiple_choice_answer": "cat",
            }
            for row in asked
        ]
        _write(coco / f"annotations/v2_OpenEnded_mscoco_{split}_questions.json", {"questions": asked})
        _write(coco / f"annotations/v2_mscoco_{split}_annotations.json", {"annotations": annotations})
    for split, folder in {"train": "train2014", "val": "val2014", "test": "val2014"}.items():
        names = {i: f"{folder}/COCO_{folder}_{i:012d}.jpg" for i in ids}
        url = "http://images.cocodataset.org"
        images = [{"id": i, "file_name": Path(name).name, "coco_url": f"{url}/{name}"} for i, name in names.items()]
        texts = [{"id": 2 * i + k, "image_id": i, "caption": f"text {k} of {i}"} for i in ids for k in range(2)]
        _write(coco / f"annotations/caption_karpathy_{split}2014.json", {"images": images, "annotations": texts})
        pairs = [{"image": name, "caption": [f"text of {i}"]} for i, name in names.items()]
        _write(coco / f"annotations/coco_karpathy_{split}.json", pairs)
        _write(coco / f"annotations/coco_karpathy_{split}_gt.json", {"annotations": texts})
    (gqa / "images").mkdir(parents=True)
    for name in ("n1.jpg", "n2.jpg", "n3.jpg"):
        Image.new("RGB", (40, 30), (10, 120, 60)).save(gqa / "images" / name)
    rows = [{"image": f"n{i}.jpg", "question": "Is it?", "answer": "no", "question_id": str(i)} for i in (1, 2, 3)]
    for split in ("train", "testdev"):
        _write(gqa / f"annotations/{split}_balanced_questions.json", rows)
    return tmp_path


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
