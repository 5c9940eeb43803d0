"""The COCO caption metric."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log

from blip2.evaluation.gathered import GatheredMetric
from blip2.evaluation.java import find_java
from blip2.evaluation.scorers import METRIC_NAMES, SPICE_HINT, caption_scores, select_metrics
from blip2.registry import METRICS
from blip2.utils.annotations import group_by_image, normalise_image_id, read_captions
from blip2.utils.errors import AnnotationError


@METRICS.register_module()
class COCOCaption(GatheredMetric):
    """BLEU-1 to 4, METEOR, ROUGE-L, CIDEr and, where its models are installed, SPICE (see `caption_scores`).

    What scoring needs is looked at here, before any picture is captioned: the reference file, Java, SPICE's models.

    Each picture counts once. Scores are over the pictures that have a caption; if the reference file has more, a
    warning names some, and the result holds their number as ``missing_images``. Of a list of captions the first counts,
    the most likely.

    Args:
        ann_file: the reference captions, in any form that `read_captions` reads; the file of the dataset will do.
        collect_device, prefix: as in mmengine's ``BaseMetric``.
        metrics: names out of 'Bleu', 'METEOR', 'ROUGE_L', 'CIDEr', 'SPICE'; by default all that can be computed here.

    Raises:
        MissingAnnotationError, AnnotationError: the reference file is not there or unusable.
        JavaNotFoundError: no Java runtime.
        ValueError: an unknown metric, or SPICE asked for without its models.
    """

    def __init__(
        self,
        ann_file: str,
        collect_device: str = "cpu",
        prefix: str | None = None,
        metrics: Sequence[str] | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ann_file = ann_file
        self.metrics = select_metrics(metrics)
        entries = group_by_image(read_captions(ann_file))
        self.references = {entry.image_id: entry.captions for entry in entries if entry.captions}
        if not self.references:
            raise AnnotationError(f"annotation file {ann_file} holds no captions to score against")
        find_java()
        if metrics is None and len(self.metrics) < len(METRIC_NAMES):
            print_log(SPICE_HINT, "current")

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep ``image_id`` and ``pred_caption`` of each data sample.

        Raises:
            KeyError: a data sample lacks one of them.
            ValueError: the references know no such picture.
        """
        for sample in data_samples:
            image_id, caption = predicted_caption(sample)
            if image_id not in self.references:
                raise ValueError(
                    f"the picture {image_id!r} has no captions in {self.ann_file} ({len(self.references)} pictures): "
                    "check that the dataset and the metric are given the same split"
                )
            self.results.append({"image_id": image_id, "caption": caption})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        candidates = first_captions((result["image_id"], result["caption"]) for result in results)
        if not candidates:
            raise ValueError("no picture was captioned, so there is nothing to score")
        scores = caption_scores(self.references, candidates, self.metrics)
        missing = [image_id for image_id in self.references if image_id not in candidates]
        if missing:
            shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            print_log(
                f"{len(missing)} of {len(self.references)} pictures of {self.ann_file} have no caption "
                f"(image_id {shown}): the scores are those of the other {len(candidates)}",
                "current",
                logging.WARNING,
            )
            scores["missing_images"] = len(missing)
        return scores


def first_captions(pairs: Iterable[tuple[int | str, str]]) -> dict[int | str, str]:
    """The first caption of each picture: a sampler may hand one out twice."""
    captions: dict[int | str, str] = {}
    for image_id, caption in pairs:
        captions.setdefault(image_id, caption)
    return captions


def predicted_caption(sample: Mapping[str, Any]) -> tuple[int | str, str]:
    """The ``image_id`` of a data sample and its caption, the first of several.

    Raises `KeyError` when it lacks one of them.
    """
    caption, image_id = sample.get("pred_caption"), sample.get("image_id")
    if caption is None or image_id is None:
        missing = "pred_caption" if caption is None else "image_id"
        step = "the model's predict mode sets it" if caption is None else "add it to meta_keys of PackInputs"
        raise KeyError(f"a data sample has no {missing!r}, which the metric needs: {step}")
    return normalise_image_id(image_id), caption if isinstance(caption, str) else caption[0]
