"""Parameters of a model's parts and the operations that each takes, without memory for the weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from blip2.apis.hub import build_on_meta
from blip2.models import Blip2Retrieval
from blip2.models.blip2_base import Blip2Base

from .meter import counting, read


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: in words, and in brackets the module's.
        parameters, trainable: numbers; of those that the config trains.
        flops: floating-point operations of products, convolutions and attention, a multiplication and an addition being
            two; None where the part cannot be run without weights.
        each: what these are for: 'picture', 'text' …
    """

    name: str
    parameters: int
    trainable: int
    flops: int | None
    each: str


@dataclass(frozen=True)
class Complexity:
    """All parts, and what they were counted with: pixels of a side, tokens of a prompt or a text."""

    parts: list[Part]
    size: tuple[int, int]
    tokens: int
    parameters: int
    trainable: int


def complexity(config: Config, size: tuple[int, int] | None = None, tokens: int = 8) -> Complexity:
    """What the model of `config` takes for one picture.

    Args:
        size: height and width of the picture in pixels; by default the image encoder's own.
        tokens: of the prompt, or of a text that is compared.

    Raises:
        ConfigError: a config that builds no model. TypeError: the model is no BLIP-2. ValueError: sizes or tokens below
            1, a picture that the image encoder does not take.
    """
    model: Any = build_on_meta(config).eval()
    if not isinstance(model, Blip2Base):
        raise TypeError(f"{type(model).__name__} is no BLIP-2 model: wanted Blip2Caption, Blip2VQA or Blip2Retrieval")
    size = size or _own_size(config)
    if min(*size, tokens) < 1:
        raise ValueError(f"size={size}, tokens={tokens}: wanted numbers of 1 or more")
    picture = torch.empty(1, 3, *size, device="meta")
    features, vision = _counted(lambda: model.encode_image(picture))
    encoder = _part("image encoder (vision_backbone)", [model.vision_backbone, model.ln_vision_backbone], vision)
    rest = (
        _retrieval(model, features, tokens) if isinstance(model, Blip2Retrieval) else _writer(model, features, tokens)
    )
    everything = list(model.parameters())
    return Complexity(
        [encoder, *rest], size, tokens, _numbers(everything), _numbers([p for p in everything if p.requires_grad])
    )


def _writer(model: Any, features: Tensor, tokens: int) -> list[Part]:
    queries, flops = _counted(lambda: _queries(model, features, tokens))
    name = "Q-Former (multimodal_backbone, query_tokens)"
    parts = [_part(name, [model.multimodal_backbone], flops, model.query_tokens)]
    projected, flops = _counted(lambda: model.vision_neck(queries))
    parts.append(_part("projection (vision_neck)", [model.vision_neck], flops))
    prompt = torch.empty(1, projected.shape[1] + tokens, projected.shape[2], device="meta")
    prefill, step = _language_model(model.text_backbone, prompt)
    parts.append(_part("language model (text_backbone): queries and prompt", [model.text_backbone], prefill))
    parts.append(Part("language model: one token more", 0, 0, step, "beam and token"))
    return parts


def _queries(model: Any, features: Tensor, tokens: int) -> Tensor:
    """What the queries find in a picture, and in a question where the Q-Former reads it."""
    if not getattr(model, "question_in_qformer", False):
        return model.query_image(features)
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    pictures = model.multimodal_backbone.project_encoder(features)
    return model.query_with_text(pictures, ids, torch.ones_like(ids))


def _language_model(lm: Any, prompt: Tensor) -> tuple[int | None, int | None]:
    """Operations of reading a prompt 1×S×D, and of a token after it."""
    token = torch.zeros(1, 1, dtype=torch.long, device="meta")
    try:
        if getattr(lm, "is_encoder_decoder", False):
            from transformers import DynamicCache, EncoderDecoderCache

            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            encoded, reading = _counted(lambda: lm.read(prompt))
            _, first = _counted(lambda: lm.lm_head(lm.run(token, encoded, None, cache)))
            _, step = _counted(lambda: lm.lm_head(lm.run(token, encoded, None, cache)))
            return reading + first, step
        (_, state), prefill = _counted(lambda: lm.prefill(prompt, None, 1, 2))
        return prefill, _counted(lambda: state.step(token))[1]
    except (RuntimeError, NotImplementedError):  # some of transformers' models look at values
        return None, None


def _retrieval(model: Blip2Retrieval, features: Tensor, tokens: int) -> list[Part]:
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    mask = torch.ones_like(ids)
    _, queries = _counted(lambda: model.vision_neck(model.query_image(features)))
    _, text = _counted(lambda: model._text_feat(model._read_texts(ids, mask)))
    pictures, projection = _counted(lambda: model.multimodal_backbone.project_encoder(features))
    _, matching = _counted(lambda: model._itm_logits(pictures, ids, mask))
    shared = [model.multimodal_backbone, model.vision_neck]
    return [
        _part("Q-Former (multimodal_backbone, query_tokens, vision_neck)", shared, queries, model.query_tokens),
        _part("a text's feature (Q-Former, text_neck)", [model.text_neck], text, model.temp, each="text"),
        Part("matching: a picture's keys and values", 0, 0, projection, "picture"),
        _part("matching (Q-Former, multimodal_head)", [model.multimodal_head], matching, each="pair"),
    ]


def _part(name: str, modules: list[nn.Module], flops: int | None, *more: nn.Parameter, each: str = "picture") -> Part:
    parameters = [*more, *(parameter for module in modules for parameter in module.parameters())]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return Part(name, _numbers(parameters), _numbers(trained), flops, each)


def _numbers(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _counted(work: Callable[[], Any]) -> tuple[Any, int]:
    with torch.no_grad(), counting(nn.Identity()):
        result = work()
        return result, read().flops


def _own_size(config: Config) -> tuple[int, int]:
    size = config.model.vision_backbone.get("img_size", 224)
    return (size, size) if isinstance(size, int) else (size[0], size[1])
