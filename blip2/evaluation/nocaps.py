"""NoCaps: the file that its server scores, and scores by domain where the captions are at hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from blip2.evaluation.coco_caption import COCOCaption, first_captions, predicted_caption
from blip2.evaluation.gathered import GatheredMetric
from blip2.evaluation.scorers import caption_scores
from blip2.registry import METRICS
from blip2.utils.annotations import normalise_image_id, read_captions, read_json
from blip2.utils.errors import AnnotationError
from blip2.utils.files import written_whole

# How much COCO's captions say of what is in a picture, from much to nothing.
DOMAINS = ("in-domain", "near-domain", "out-domain")


@METRICS.register_module()
class NocapsSave(GatheredMetric):
    """Writes the captions as EvalAI's NoCaps server takes them, ``[{"image_id": 0, "caption": "a baby"}, …]``.

    The file appears whole or not at all, when all pictures are captioned. There are no scores. A picture that comes
    again counts once.

    Args:
        save_dir: the folder of the file; it is made.
        collect_device, prefix: as in mmengine's ``BaseMetric``.
        file_name: the file's name; the default is mmpretrain's.
        ann_file: a NoCaps file whose pictures must all be captioned, and no others; the server refuses a file with
            gaps.

    Raises:
        ValueError: a `file_name` that doesn't end in .json.
        AnnotationError: `ann_file` cannot be used (see `read_captions`).
    """

    def __init__(
        self,
        save_dir: str = "./",
        collect_device: str = "cpu",
        prefix: str | None = None,
        file_name: str = "nocap_pred.json",
        ann_file: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.path = Path(save_dir).expanduser() / file_name
        if self.path.suffix != ".json" or self.path.is_dir():
            raise ValueError(f"file_name={file_name!r} must name a file that ends in .json")
        self.expected: set[int | str] | None = None
        if ann_file is not None:
            self.expected = {entry.image_id for entry in read_captions(ann_file, captions_optional=True)}
        self.ann_file = ann_file

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the picture and the caption of each data sample.

        Raises:
            KeyError: a data sample lacks one of them.
        """
        self.results += [predicted_caption(sample) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[int | str, str]]) -> dict[str, float]:
        captions = first_captions(results)
        if self.expected is not None and self.expected != captions.keys():
            missing, others = self.expected - captions.keys(), captions.keys() - self.expected
            example = sorted(missing or others, key=str)[0]
            raise ValueError(
                f"{len(missing)} picture(s) of {self.ann_file} have no caption and {len(others)} captioned one(s) "
                f"aren't in it, such as image_id {example}: nothing was written"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = [{"image_id": image_id, "caption": caption} for image_id, caption in captions.items()]
        with written_whole(self.path) as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        print_log(f"{len(content)} captions written to {self.path}", "current")
        return {}


@METRICS.register_module()
class NocapsCaption(COCOCaption):
    """`COCOCaption` over all pictures, and over those of each domain: ``CIDEr``, ``in-domain/CIDEr`` …

    Each domain is scored as a set of its own, with CIDEr's word weights from its own references. The server's program
    isn't public, so that equal numbers can't be promised: scores to publish come from there (`NocapsSave`).

    Args:
        ann_file: ``nocaps_val_4500_captions.json``, which has the captions, and ``domain`` with each of ``images``.
        Others as in `COCOCaption`.

    Raises:
        AnnotationError: the file names no domains; otherwise as `COCOCaption`.
    """

    def __init__(self, ann_file: str, *arguments: Any, **named: Any) -> None:
        super().__init__(ann_file, *arguments, **named)
        self.domains = _domains(ann_file)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        scores = super().compute_metrics(results)
        captions = first_captions((result["image_id"], result["caption"]) for result in results)
        for domain in DOMAINS:
            chosen = {image_id: text for image_id, text in captions.items() if self.domains.get(image_id) == domain}
            if chosen:
                parts = caption_scores(self.references, chosen, self.metrics)
                scores.update({f"{domain}/{name}": score for name, score in parts.items()})
        return scores


def _domains(path: str) -> dict[int | str, str]:
    content = read_json(path)
    images = content.get("images", []) if isinstance(content, dict) else []
    domains = {normalise_image_id(image["id"]): image.get("domain") for image in images}
    strange = sorted({str(domain) for domain in domains.values()} - set(DOMAINS))
    if strange or not domains:
        raise AnnotationError(
            f"annotation file {path} doesn't name a domain out of {list(DOMAINS)} with each picture (found: "
            f"{', '.join(strange) or 'no pictures'}); nocaps_val_4500_captions.json does. COCOCaption scores without "
            "domains"
        )
    return domains
