"""Heat maps over pictures from anywhere: where the queries of a model look, and where a word makes them look."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset.utils import pseudo_collate
from mmengine.model import BaseModel
from numpy.typing import NDArray
from torch import Tensor

from blip2.models import attention_maps

from .inferencers.encoding import EncodingInferencer
from .inferencers.inputs import ImageInput

Map = NDArray[np.float32]


def query_attention(model: BaseModel, picture: ImageInput, layer: int | None = None) -> Map:
    """How much attention each query of a caption, question or retrieval model gives to each place: Q×H×W.

    Args:
        model: from `get_model`, `init_model` or an inferencer's ``model``; it is left as it was.
        picture: what inferencers take: a path, an address, a PIL picture …
        layer: number of the layer of the Q-Former; by default the last one that has cross-attention.

    H×W is the picture's size. The numbers are the patches' attention (mean over heads; over all patches they sum to 1,
    less the class token's part), interpolated between the patches' centres. The config's test pipeline must show the
    model the whole picture, as those of the zoo do: a crop would be stretched.

    Examples:
        >>> from blip2 import get_model
        >>> from blip2.apis.explain import query_attention
        >>> model = get_model("blip2-tiny_shapes-caption", pretrained=True)
        >>> query_attention(model, "demo/scene_1.png").shape  # doctest: +SKIP
        (16, 96, 96)

    Raises:
        TypeError: the model has no Q-Former. ValueError: the layer has no cross-attention, or the model does not know
            its config. OSError: the picture cannot be read.
    """
    attention_maps.cross_attention_layers(model)  # before the picture is read
    with attention_maps.evaluating(model):
        images, size = _prepared(EncodingInferencer(model), picture)
        return _stretched(attention_maps.query_attention(model, images, layer)[0], size)


def word_maps(model: BaseModel, picture: ImageInput, text: str, layer: int | None = None) -> list[tuple[str, Map]]:
    """Where each word of `text` draws a retrieval model's attention when it matches text and picture.

    Args:
        model: a `Blip2Retrieval`; it is left as it was.
        picture: what inferencers take: a path, an address, a PIL picture …
        text: some words; they are cleaned as the config's test pipeline cleans texts.
        layer: number of the layer of the Q-Former; by default the first in its second half that has cross-attention.

    Returns:
        Each word, in order, with its map H×W of the picture's size. Maps are 0 or more and of one scale, so that they
        can be compared; `blip2.models.attention_maps.word_attention` says how they are made, and after what.

    Raises:
        TypeError: the model is no `Blip2Retrieval`. ValueError: no word, or a layer without cross-attention. OSError:
            the picture cannot be read.
    """
    if not hasattr(model, "itm_logits"):
        raise TypeError(
            f"{type(model).__name__} does not match texts with pictures: word maps need a retrieval model "
            "(blip2-tiny_shapes-retrieval, blip2_3rdparty_retrieval); query_attention() takes any BLIP-2 model"
        )
    with attention_maps.evaluating(model):
        inferencer = EncodingInferencer(model)
        (cleaned,) = inferencer.clean([text], "text")
        images, size = _prepared(inferencer, picture)
        words, maps = attention_maps.word_attention(model, images, cleaned, layer)
        return list(zip(words, _stretched(maps, size), strict=True))


def _prepared(inferencer: EncodingInferencer, picture: ImageInput) -> tuple[Tensor, tuple[int, int]]:
    """The picture as the model gets it, 1×3×H'×W', and its own height and width."""
    pixels = inferencer.pipeline.load(picture)
    data: dict[str, Any] = inferencer.model.data_preprocessor(pseudo_collate([inferencer.pipeline(pixels)]), False)
    return data["images"], (pixels.shape[0], pixels.shape[1])


def _stretched(maps: Tensor, size: tuple[int, int]) -> Map:
    """Maps M×h×w to M×H×W."""
    with torch.no_grad():
        return F.interpolate(maps[None].float(), size, mode="bilinear", align_corners=False)[0].cpu().numpy()
