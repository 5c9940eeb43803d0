"""For every test: no network, one thread, the same random numbers; tests marked `gpu` only where there is a GPU."""

import json
import os
import random
import sys
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

sys.path.insert(0, str(Path(__file__).parent / "data"))  # at import, since test modules import from there too

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
    """What mmpretrain's BLIP-2 configs and ours look for, with ``reduced_recipes.PICTURES`` pictures each.

    It lies below ``data/`` of the working folder, which is a new one.
    """
    from reduced_recipes import PICTURES, write_data

    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    for split in ("train", "val", "test"):
        # As OpenMMLab publishes it: COCO's form, in which only the address tells a picture's folder.
        folder = "train2014" if split == "train" else "val2014"
        names = [f"COCO_{folder}_{number:012d}.jpg" for number in range(PICTURES)]
        url = f"http://images.cocodataset.org/{folder}"
        images = [{"id": i, "file_name": name, "coco_url": f"{url}/{name}"} for i, name in enumerate(names)]
        texts = [
            {"id": 2 * i + k, "image_id": i, "caption": f"text {k} of {i}"} for i in range(PICTURES) for k in (0, 1)
        ]
        content = {"images": images, "annotations": texts}
        (tmp_path / f"data/coco/annotations/caption_karpathy_{split}2014.json").write_text(json.dumps(content))
    gqa = tmp_path / "data" / "gqa"
    for folder in ("images", "annotations"):
        (gqa / folder).mkdir(parents=True)
    rows = [
        {"image": f"n{i}.jpg", "question": "Is it?", "answer": "no", "question_id": str(i)} for i in range(PICTURES)
    ]
    for row in rows:
        Image.new("RGB", (40, 30), (10, 120, 60)).save(gqa / "images" / row["image"])
    for split in ("train", "testdev"):
        (gqa / f"annotations/{split}_balanced_questions.json").write_text(json.dumps(rows))
    return tmp_path
