"""Sizes of a Q-Former, from a name, a folder or a dict; nothing is fetched."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from blip2.models.checks import check_choice, check_keys, nearest
from blip2.utils.resources import resolve_resource

ACTIVATIONS = ("gelu", "relu", "silu")


@dataclass(frozen=True)
class QformerConfig:
    """BERT's sizes, named as in its ``config.json``; by default bert-base-uncased's, with BLIP-2's word ``[DEC]``."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    vocab_size: int = 30523
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    hidden_act: str = "gelu"
    pad_token_id: int = 0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}."
            )
        check_choice("hidden_act", self.hidden_act, ACTIVATIONS)


ARCHS = {
    "bert-base-uncased": QformerConfig(),
    "bert-large-uncased": QformerConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}


def qformer_config(model_style: str | Path | Mapping[str, Any], **overrides: Any) -> QformerConfig:
    """The sizes of `model_style`, with those of `overrides` that are not None put in their place.

    `model_style` is a name in `ARCHS` (whose vocabulary counts the added ``[DEC]``), a folder with a ``config.json``
    (taken as it stands; a relative one is also looked for in the package's resources), or a dict of `QformerConfig`'s
    fields.
    """
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if isinstance(model_style, Mapping):
        check_keys("model_style", model_style, [field.name for field in fields(QformerConfig)])
        return replace(QformerConfig(**model_style), **overrides)
    if str(model_style) in ARCHS:
        return replace(ARCHS[str(model_style)], **overrides)
    file = resolve_resource(model_style) / "config.json"
    if not file.is_file():
        raise ValueError(
            f"model_style={str(model_style)!r} is neither a known architecture{nearest(model_style, ARCHS)} nor a "
            f"folder with a config.json. Known: {', '.join(ARCHS)}; or give a dict of sizes."
        )
    return replace(_read(file), **overrides)


def _read(file: Path) -> QformerConfig:
    given = json.loads(file.read_text(encoding="utf-8"))
    kind = given.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ValueError(f"{file}: position_embedding_type={kind!r}; a Q-Former has absolute position embeddings only.")
    known = {field.name for field in fields(QformerConfig)}
    return QformerConfig(**{key: value for key, value in given.items() if key in known})
