"""Scoring captions of drawn scenes against the scene graph."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blip2.evaluation.gathered import GatheredMetric
from blip2.registry import METRICS
from blip2.structures.scene import Scene
from blip2.structures.scene_reading import judge_caption
from blip2.utils.errors import AnnotationError


@METRICS.register_module()
class SceneCaptionAccuracy(GatheredMetric):
    """Share of captions, in percent, whose objects are right (``objects``) and which are true throughout (``exact``).

    Args:
        scene_file: JSON with the scene graphs, ``{"<image_id>": {"background": …, "objects": […]}, …}``, as the scene
            generator writes it.
    """

    default_prefix = "scenes"

    def __init__(self, scene_file: str, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        path = Path(scene_file)
        if not path.is_file():
            raise FileNotFoundError(
                f"scene file {scene_file!r} does not exist; `blip2 scenes` writes it beside the pictures"
            )
        self.scenes = {k: Scene.from_dict(v) for k, v in json.loads(path.read_text()).items()}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            key = str(sample["image_id"])
            if key not in self.scenes:
                raise AnnotationError(f"picture {key} has no scene graph: the scene file belongs to another split")
            self.results.append((key, judge_caption(sample["pred_caption"], self.scenes[key])))

    def compute_metrics(self, results: list) -> dict[str, float]:
        verdicts = list(dict(results).values())  # a picture that a padded sampler repeats counts once
        return {
            name: 100 * sum(getattr(verdict, name) for verdict in verdicts) / len(verdicts)
            for name in ("objects", "exact")
        }


@METRICS.register_module()
class DocumentAccuracy(GatheredMetric):
    """Share, in percent, of continuations that are right: ``paraphrase`` of a stated pair of objects, ``answers``.

    It reads the fields of `blip2.datasets.TextDocuments`: a sample with ``scene`` is judged as a caption of that scene,
    the words of the prompt after ``</s>`` included; one with ``answer`` must equal it.
    """

    default_prefix = "documents"

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            if "scene" in sample:
                sentence = sample["prompt"].split("</s>")[-1] + " " + sample["pred_text"]
                self.results.append(("paraphrase", judge_caption(sentence, Scene.from_dict(sample["scene"])).exact))
            else:
                self.results.append(("answers", sample["pred_text"] == sample["answer"]))

    def compute_metrics(self, results: list) -> dict[str, float]:
        right: dict[str, list[bool]] = {}
        for kind, correct in results:
            right.setdefault(kind, []).append(correct)
        return {kind: 100 * sum(values) / len(values) for kind, values in right.items()}
