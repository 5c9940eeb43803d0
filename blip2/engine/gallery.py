"""The pictures and texts of a retrieval test: which belong together, and their features from all processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast, get_dist_info
from torch import Tensor

from blip2.utils.errors import AnnotationError


@dataclass(frozen=True)
class Gallery:
    """What is ranked. Places of pictures and texts count from 0.

    Attributes:
        texts: in the order of their pictures.
        text_ids, picture_ids: as the annotations number them; their places where they don't.
        picture_names: how an error names each picture.
        texts_of_picture, pictures_of_text: the places of the right ones.
    """

    texts: list[str]
    text_ids: list[Any]
    picture_ids: list[Any]
    picture_names: list[str]
    texts_of_picture: list[list[int]]
    pictures_of_text: list[list[int]]


def gallery_of(samples: Sequence[dict]) -> Gallery:
    """The gallery of pictures with their texts, as `COCORetrieval` gives them in a test.

    A sample has ``text`` (one or a list) and may have ids: ``image_id`` of the picture, ``gt_text_id`` of its texts,
    ``gt_image_id`` of the picture that each of them belongs to (by default the one it came with).

    Raises:
        AnnotationError: a picture without a text, not as many ids as texts, an id that is unknown or comes twice.
    """
    names = [_name(sample, place) for place, sample in enumerate(samples)]
    texts_of = [_texts(sample, name) for sample, name in zip(samples, names, strict=True)]
    picture_ids = [sample.get("image_id", place) for place, sample in enumerate(samples)]
    picture_at = _places(picture_ids, "image_id")
    texts: list[str] = []
    text_ids: list[Any] = []
    texts_of_picture: list[list[int]] = []
    pictures_of_text: list[list[int]] = []
    for sample, name, own, picture_id in zip(samples, names, texts_of, picture_ids, strict=True):
        places = list(range(len(texts), len(texts) + len(own)))
        texts += own
        texts_of_picture.append(places)
        text_ids += _ids(sample, "gt_text_id", places, name)
        for owner in _ids(sample, "gt_image_id", [picture_id] * len(own), name):
            if owner not in picture_at:
                raise AnnotationError(
                    f"gt_image_id {owner!r} of a text of {name} is the image_id of no picture of the data set: check "
                    "the annotation file, and that PackInputs passes image_id on (meta_keys)"
                )
            pictures_of_text.append([picture_at[owner]])
    _places(text_ids, "gt_text_id")
    return Gallery(texts, text_ids, picture_ids, names, texts_of_picture, pictures_of_text)


def _texts(sample: dict, name: str) -> list[str]:
    text = sample.get("text")
    texts = [text] if isinstance(text, str) else list(text or ())
    if not texts:
        raise AnnotationError(
            f"{name} has no text: a test of retrieval wants pictures with their texts, "
            "COCORetrieval(…, test_mode=True) and PackInputs(algorithm_keys=['text', 'gt_text_id', 'gt_image_id'])"
        )
    return texts


def _ids(sample: dict, field: str, default: list[Any], name: str) -> list[Any]:
    ids = sample.get(field)
    if ids is None:
        return default
    ids = [ids] if isinstance(ids, int | str) else list(ids)
    if len(ids) != len(default):
        raise AnnotationError(f"{name} has {len(default)} text(s), but {len(ids)} {field}: {ids}")
    return ids


def _places(ids: Sequence[Any], field: str) -> dict[Any, int]:
    places: dict[Any, int] = {}
    for place, number in enumerate(ids):
        if places.setdefault(number, place) != place:
            raise AnnotationError(f"{field} {number!r} comes twice in the data set: each needs one of its own")
    return places


def _name(sample: dict, place: int) -> str:
    path = sample.get("img_path")
    return str(path) if path else f"picture {sample.get('image_id', place)}"


def gather_rows(parts: list[tuple[list[int], Tensor]], total: int, device: torch.device | str) -> Tensor:
    """Rows of all processes, each at its place.

    Args:
        parts: places and rows that this process has, batch by batch; none is fine as long as another has some. Rows of
            all batches are alike. The list is emptied, so that large rows are not held twice.
        total: how many rows there are in all processes together.
        device: where the rows of this process are and the result is to be.
    """
    rank, world_size = get_dist_info()
    described = all_gather_object([(places, tuple(rows.shape[1:]), rows.dtype) for places, rows in parts])
    gathered: Tensor | None = None
    for source, batches in enumerate(described):
        for places, shape, dtype in batches:
            if gathered is None:
                gathered = torch.empty(total, *shape, dtype=dtype, device=device)
            if source == rank:
                rows = parts.pop(0)[1].contiguous()
            else:
                rows = torch.empty(len(places), *shape, dtype=dtype, device=device)
            if world_size > 1:
                broadcast(rows.view(torch.uint8), source)  # bytes: not every backend knows every type
            gathered[torch.tensor(places, device=device)] = rows
    if gathered is None:
        raise ValueError("no process has anything to gather")
    return gathered
