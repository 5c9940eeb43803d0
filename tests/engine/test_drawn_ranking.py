"""What evaluation draws: of retrieval too, into a folder and into the backends of the visualizer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from blip2.apis.runner import build_runner
from blip2.engine.gallery import Gallery
from blip2.engine.hooks import VisualizationHook
from blip2.structures import DataSample
from blip2.visualization import UniversalVisualizer

TOYS = Path(__file__).parents[1] / "data"
GALLERY = Gallery(
    texts=["a red one", "a green one", "a blue one"],
    text_ids=[0, 1, 2],
    picture_ids=[0, 1, 2],
    picture_names=["folder/r.png", "folder/g.png", "folder/b.png"],
    texts_of_picture=[[0], [1], [2]],
    pictures_of_text=[[0], [1], [2]],
)
SCORES = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])


def inputs_of(number: int) -> torch.Tensor:
    picture = torch.zeros(3, 20, 20, dtype=torch.uint8)
    picture[2 - number] = 255  # BGR
    return picture


class Runner:
    def __init__(self, visualizer):
        self.visualizer = visualizer


class Recorder:
    """A visualizer that keeps what it is asked to draw."""

    def __init__(self):
        self.texts, self.pictures = {}, {}

    def visualize_image_caption(self, image, sample, *, name, **options):
        self.texts[name] = image[0, 0].tolist(), sample.pred_caption, sample.pred_score

    def visualize_t2i_retrieval(self, text, images, scores, *, right, name, **options):
        self.pictures[name] = text, [image[0, 0].tolist() for image in images], scores, right


def test_best_texts_and_best_pictures_are_drawn_and_marked():
    recorder = Recorder()
    hook = VisualizationHook(enable=True, interval=1)
    hook.draw_ranking(Runner(recorder), GALLERY, SCORES, SCORES, inputs_of, step=0)
    assert list(recorder.texts) == ["r_texts", "g_texts", "b_texts"]
    assert recorder.texts["g_texts"] == (
        [0, 255, 0],
        ["✗ a red one", "✗ a blue one", "✓ a green one"],
        [3.0, 2.0, 1.0],
    )
    red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    assert recorder.pictures["g_pictures"] == ("a green one", [red, blue, green], [3.0, 2.0, 1.0], [False, False, True])


def test_they_are_files_in_a_folder_every_nth_picture(tmp_path):
    hook = VisualizationHook(enable=True, interval=2, out_dir=str(tmp_path))
    hook.draw_ranking(Runner(UniversalVisualizer()), GALLERY, SCORES, SCORES, inputs_of, step=40)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["40_b_pictures.png", "40_b_texts.png", "40_r_pictures.png", "40_r_texts.png"]
    pixels = np.asarray(Image.open(tmp_path / "40_r_pictures.png"))
    first = [(pixels == colour).all(-1).any(0).nonzero()[0].min() for colour in ((255, 0, 0), (0, 255, 0))]
    assert first[0] < first[1], "in the order of the scores"


def test_a_test_of_retrieval_hands_over_its_ranking(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOYS))
    cfg = Config.fromfile(TOYS / "toy_retrieval_config.py", import_custom_modules=False)
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg, device="cpu", test_only=True)
    drawn = []

    class Hook(VisualizationHook):
        def draw_ranking(self, runner, gallery, i2t, t2i, inputs_of, step):
            drawn.append((gallery, i2t, t2i, inputs_of(4), step))

    runner.register_hook(Hook(enable=True))
    metrics = runner.test()
    ((gallery, i2t, t2i, inputs, step),) = drawn
    from toy_retrieval import picture

    assert torch.equal(inputs, picture(4)) and step == 0
    right = [int(i2t[row].argmax()) in gallery.texts_of_picture[row] for row in range(7)]
    assert 100 * sum(right) / 7 == pytest.approx(metrics["i2t/retrieval/Recall@1"])
    assert t2i.shape == (len(gallery.texts), 7)


def test_tensorboard_gets_drawn_predictions_by_their_step(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    visualizer = UniversalVisualizer(vis_backends=[dict(type="TensorboardVisBackend")], save_dir=str(tmp_path))
    hook, runner = VisualizationHook(enable=True, interval=2), Runner(visualizer)
    loader = type("Loader", (), {"batch_sampler": type("Sampler", (), {"batch_size": 3})})
    runner.val_dataloader, runner.iter = loader, 40
    samples = [DataSample(metainfo={"image_id": n}, pred_caption=f"number {n}") for n in range(3)]
    hook.after_val_iter(runner, 0, {"inputs": [inputs_of(n) for n in range(3)]}, samples)
    hook.draw_ranking(runner, GALLERY, SCORES, SCORES, inputs_of, step=40)
    visualizer.close()
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert set(events.Tags()["images"]) == {"0", "2", "r_texts", "r_pictures", "b_texts", "b_pictures"}
    assert [event.step for event in events.Images("r_texts")] == [40]
