"""Where the queries of a Q-Former look, and where a word makes them look.

Letters: B pictures, R rows (texts), W words, Q queries, H heads, N picture tokens, h×w the grid of patches.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .blip2_base import Blip2Base
from .blip2_retrieval import Blip2Retrieval
from .qformer.layers import Attention


@contextmanager
def explicit_attention(layers: Sequence[Attention]) -> Iterator[list[list[Tensor]]]:
    """Within this context `layers` compute their attention from a matrix of probabilities, which is kept.

    The fused kernel that they use otherwise never holds that matrix. Their outputs are the same but for rounding, and
    gradients go through the matrix. Dropout is left out: use it in eval mode.

    Yields a list for each layer, to which each call of it adds its probabilities R×H×S×N.
    """
    kept: list[list[Tensor]] = [[] for _ in layers]
    handles = [layer.register_forward_hook(_keeping(seen)) for layer, seen in zip(layers, kept, strict=True)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _keeping(kept: list[Tensor]) -> Any:
    def hook(layer: Attention, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x, mask, (key, value) = inputs
        query = layer._heads(layer.self.query(x).reshape(len(key), -1, x.shape[2]))
        exact = torch.promote_types(query.dtype, torch.float32)
        scores = query.to(exact) @ key.to(exact).transpose(2, 3) / query.shape[3] ** 0.5
        probabilities = (scores if mask is None else scores + mask).softmax(dim=-1)  # B×H×(R/B·S)×N
        rows = probabilities.unflatten(2, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1)  # R×H×S×N
        if torch.is_grad_enabled() and not rows.requires_grad:
            rows.requires_grad_()  # all before it is frozen
        kept.append(rows)
        shared = rows.unflatten(0, (len(key), -1)).transpose(1, 2).flatten(2, 3)
        context = shared.to(value.dtype) @ value
        return layer.output(context.transpose(1, 2).reshape(x.shape), x)

    return hook


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within this context; then each module's mode is what it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def cross_attention_layers(model: Blip2Base) -> dict[int, Attention]:
    """The cross-attention of each layer of the Q-Former that has one, by the layer's number.

    Raises:
        TypeError: the model has no Q-Former of this package that sees pictures.
    """
    encoder = getattr(getattr(getattr(model, "multimodal_backbone", None), "bert", None), "encoder", None)
    layers = {
        number: layer.crossattention
        for number, layer in enumerate(getattr(encoder, "layer", ()))
        if getattr(layer, "has_cross_attention", False)
    }
    if not layers:
        raise TypeError(
            f"{type(model).__name__} has no Q-Former with cross-attention, so there is nothing to see of where it "
            "looks: use a Blip2Caption, Blip2VQA or Blip2Retrieval"
        )
    return layers


def query_attention(model: Blip2Base, images: Tensor, layer: int | None = None) -> Tensor:
    """How much attention each query gives to each patch, mean over the heads: B×Q×h×w.

    Args:
        images: B×3×H×W as the data preprocessor makes them.
        layer: number of the layer of the Q-Former; by default the last one that has cross-attention.

    A query's numbers sum to 1, less what it gives to the image encoder's class token.

    Raises:
        TypeError: the model has no Q-Former. ValueError: that layer has no cross-attention (those that have are named).
    """
    layers = cross_attention_layers(model)
    watched = _chosen(layers, max(layers) if layer is None else layer)
    with evaluating(model), torch.no_grad(), explicit_attention([watched]) as kept:
        model.query_image(model.encode_image(images))
    return _on_grid(kept[0][0].mean(dim=1), images, model)


def word_attention(
    model: Blip2Retrieval, images: Tensor, text: str, layer: int | None = None
) -> tuple[list[str], Tensor]:
    """The words of `text` and where each of them draws the queries' attention in one picture: W and W×h×w, 0 or more.

    With ``A`` the cross-attention (heads × queries × patches) of one layer under the whole text, ``A_w`` the same when
    self-attention cannot see the word w, and ``g`` the gradient of the match score (the matching head's logit of 'yes'
    less that of 'no') by ``A``, the map of w is ``ReLU(mean over heads and queries of α (A - A_w))`` with the weights
    ``α`` = standard deviation of ``g`` over the patches: how much the score depends on where this head of this query
    looks.

    This is Grad-CAM (arXiv 1610.02391) of cross-attention as in ALBEF (arXiv 2107.07651) and LAVIS
    (``compute_gradcam``), changed for the Q-Former. There a text's tokens attend to the picture themselves, so each has
    its own row of ``A``. Here only the queries do, and words act on it through the queries' self-attention: hence the
    difference that leaving a word out makes.

    Args:
        images: one picture, 1×3×H×W, as the data preprocessor makes it.
        text: at least one word; words are what white space separates.
        layer: number of the layer of the Q-Former; by default the first in its second half that has cross-attention.

    Words beyond the model's ``max_txt_len`` are left out.

    Raises:
        TypeError: the model cannot match. ValueError: no word, more than one picture, or a layer without
            cross-attention.
    """
    if not isinstance(model, Blip2Retrieval):
        raise TypeError(f"{type(model).__name__} does not match texts with pictures: word maps need a Blip2Retrieval")
    if len(images) != 1:
        raise ValueError(f"{len(images)} pictures: wanted one")
    layers = cross_attention_layers(model)
    middle = len(model.multimodal_backbone.bert.encoder.layer) / 2
    watched = _chosen(layers, next((n for n in layers if n >= middle), max(layers)) if layer is None else layer)
    input_ids, attention_mask, _ = model.tokenize([text], images.device)
    words, places = _places_of_words(model.tokenizer, text, input_ids.shape[1])
    masks = attention_mask.repeat(len(words) + 1, 1)
    for row, (first, end) in enumerate(places, start=1):
        masks[row, first:end] = 0
    ids = input_ids.expand(len(masks), -1)
    with evaluating(model), torch.inference_mode(False):
        with torch.no_grad():
            pictures = model.multimodal_backbone.project_encoder(model.encode_image(images.clone()))
        with torch.enable_grad(), explicit_attention([watched]) as kept:
            no, yes = model._itm_logits(pictures, ids, masks)[0]
            (gradient,) = torch.autograd.grad(yes - no, kept[0][0])
    attention = kept[0][0].detach()
    weights = gradient[:1].std(dim=-1, keepdim=True)  # 1×H×Q×1
    maps = (weights * (attention[:1] - attention[1:])).mean(dim=1)  # W×Q×N
    return words, _on_grid(maps, images, model).mean(dim=1).relu()


def _chosen(layers: dict[int, Attention], number: int) -> Attention:
    if number not in layers:
        raise ValueError(f"layer={number} of the Q-Former has no cross-attention; these have: {sorted(layers)}")
    return layers[number]


def _on_grid(values: Tensor, images: Tensor, model: Blip2Base) -> Tensor:
    """Values … ×N of picture tokens to … ×h×w of patches: class and register tokens, which come first, are left out."""
    height, width = images.shape[-2:]
    backbone = model.vision_backbone
    timm_model = getattr(backbone, "timm_model", None)
    extra: int = getattr(backbone, "num_extra_tokens", getattr(timm_model, "num_prefix_tokens", 0))
    count = values.shape[-1] - extra
    rows = round(max(0, count * height / width) ** 0.5)
    if not rows or rows * rows * width != count * height:
        raise ValueError(
            f"{type(backbone).__name__} makes {count} patches of a picture of {width}×{height}, which is no grid of "
            "square ones"
        )
    return values[..., extra:].unflatten(-1, (rows, -1))


def _places_of_words(tokenizer: Any, text: str, length: int) -> tuple[list[str], list[tuple[int, int]]]:
    """The words of `text`, and the first token of each and the one behind its last, in `length` tokens with both ends.

    Raises:
        ValueError: the tokenizer joins words (BERT's does not).
    """
    words: list[str] = []
    places: list[tuple[int, int]] = []
    ids: list[int] = []
    for match in re.finditer(r"\S+", text):
        own = tokenizer.encode([match.group()])[0][1:-1]
        first = 1 + len(ids)
        ids += own
        if own and first < length - 1:
            words.append(match.group())
            places.append((first, min(first + len(own), length - 1)))
    if ids != tokenizer.encode([text])[0][1:-1]:
        raise ValueError(
            f"{tokenizer!r} does not encode {text!r} word by word: there is no telling whose tokens are whose"
        )
    return words, places
