"""The small model that comes with the package: its file, and what it says of scenes that it has never seen."""

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from blip2.apis import ImageCaptionInferencer, get_model
from blip2.apis.metafile import model_entries
from blip2.datasets.scenes.render import draw_scene
from blip2.datasets.scenes.sample import random_scene
from blip2.structures.scene_reading import judge_caption
from blip2.utils.resources import resources_root

NAME = "blip2-tiny_shapes-caption"
PICTURES = 60


@pytest.fixture(scope="module")
def inferencer():
    return ImageCaptionInferencer(NAME, device="cpu")


def share_right(inferencer, combinations):
    """Shares of captions with right objects, and of exact ones, over freshly drawn scenes."""
    verdicts = []
    scenes, pictures = [], []
    for index in range(PICTURES):
        rng = random.Random(f"fresh {combinations} {index}")
        scenes.append(random_scene(rng, combinations))
        pictures.append(draw_scene(scenes[-1], rng))
    for scene, result in zip(scenes, inferencer(pictures, batch_size=PICTURES), strict=True):
        verdicts.append(judge_caption(result["pred_caption"], scene))
    return sum(v.objects for v in verdicts) / PICTURES, sum(v.exact for v in verdicts) / PICTURES


def test_captions_of_fresh_scenes_are_true(inferencer):
    objects, exact = share_right(inferencer, "seen")
    assert objects >= 0.88
    assert exact >= 0.7


def test_captions_of_combinations_never_seen_are_often_true(inferencer):
    objects, exact = share_right(inferencer, "held_out")
    assert objects >= 0.5
    assert exact >= 0.4


def test_the_demo_pictures_are_captioned(inferencer):
    pictures = sorted((resources_root() / "demo").glob("*.png"))
    assert len(pictures) >= 4
    results = inferencer([str(picture) for picture in pictures])
    assert all(len(result["pred_caption"].split()) >= 6 for result in results)


def test_the_weights_are_one_small_half_precision_file():
    path = Path(model_entries()[NAME].weights)
    assert path.stat().st_size <= 12e6
    with safe_open(path, "pt") as file:
        floats = {file.get_tensor(key).dtype for key in file.keys()} - {torch.int64}  # noqa: SIM118
    assert floats == {torch.float16}


def test_the_built_model_has_the_parameters_that_the_metafile_states():
    entry = model_entries()[NAME]
    assert sum(p.numel() for p in get_model(NAME).parameters()) == entry.parameters_built
