"""Sizes of the language models: from a published name, a local ``config.json``, or plain numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from blip2.utils.resources import resolve_resource


@dataclass(frozen=True)
class OPTConfig:
    """Sizes of an OPT (Zhang et al. 2022, arXiv 2205.01068, table 1); field names are those of Hugging Face's
    ``config.json``.

    Only the layer norm before each block is offered, with equal widths of embeddings and hidden states: every published
    size but 350M.
    """

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    ffn_dim: int = 3072
    max_position_embeddings: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.0
    pad_token_id: int = 1
    init_std: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id={self.pad_token_id} is outside the vocabulary of {self.vocab_size} tokens")


# name: hidden_size, num_hidden_layers, num_attention_heads (ffn_dim is four times hidden_size in all of them)
_OPT_SIZES = {
    "facebook/opt-125m": (768, 12, 12),
    "facebook/opt-1.3b": (2048, 24, 32),
    "facebook/opt-2.7b": (2560, 32, 32),
    "facebook/opt-6.7b": (4096, 32, 32),
    "facebook/opt-13b": (5120, 40, 40),
}

# What this implementation takes for granted; a config.json that says otherwise is another architecture.
_OPT_FIXED = {
    "model_type": "opt",
    "do_layer_norm_before": True,
    "activation_function": "relu",
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "_remove_final_layer_norm": False,
    "layerdrop": 0.0,
}


def opt_config(name_or_path: str | Path | None = None, **overrides: Any) -> OPTConfig:
    """The sizes of an OPT, without network access.

    `name_or_path` is a published name (``facebook/opt-2.7b``), or a folder with a ``config.json`` (a relative one may
    lie below the resources); ``None`` starts from opt-125m's sizes. Overrides that are not ``None`` win.

    Raises ValueError for opt-350m and for a ``config.json`` of another architecture, FileNotFoundError for a name that
    is neither.
    """
    if name_or_path is None:
        config = OPTConfig()
    elif str(name_or_path) in _OPT_SIZES:
        width, layers, heads = _OPT_SIZES[str(name_or_path)]
        config = OPTConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, ffn_dim=4 * width)
    elif str(name_or_path) == "facebook/opt-350m":
        raise ValueError(
            "facebook/opt-350m normalises after each block and projects its embeddings, which no BLIP-2 uses and "
            f"OPTForCausalLM does not offer; choose one of {', '.join(_OPT_SIZES)}"
        )
    else:
        config = _read_opt_config(name_or_path)
    return replace(config, **{key: value for key, value in overrides.items() if value is not None})


def _read_opt_config(folder: str | Path) -> OPTConfig:
    path, values = _read_config_json(folder, "OPTForCausalLM", _OPT_SIZES, _OPT_FIXED)
    sizes = {field.name: values[field.name] for field in fields(OPTConfig) if field.name in values}
    width = sizes.get("hidden_size", OPTConfig.hidden_size)
    if values.get("word_embed_proj_dim", width) != width:
        raise ValueError(
            f"{path}: word_embed_proj_dim={values['word_embed_proj_dim']} differs from hidden_size={width}, which "
            "OPTForCausalLM does not offer"
        )
    return OPTConfig(**sizes)


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 v1.1 or Flan-T5 (Chung et al. 2022, arXiv 2210.11416); field names are those of Hugging Face's
    ``config.json``.

    Only gated feed-forward layers with a head of their own (not tied to the embeddings) are offered.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 1024
    num_layers: int = 8
    num_decoder_layers: int | None = None
    num_heads: int = 6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    pad_token_id: int = 0
    decoder_start_token_id: int = 0


# name: d_model, d_ff, num_layers (of each half), num_heads
_T5_SIZES = {
    "google/flan-t5-small": (512, 1024, 8, 6),
    "google/flan-t5-base": (768, 2048, 12, 12),
    "google/flan-t5-large": (1024, 2816, 24, 16),
    "google/flan-t5-xl": (2048, 5120, 24, 32),
    "google/flan-t5-xxl": (4096, 10240, 24, 64),
}
_T5_FIXED = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def t5_config(name_or_path: str | Path | None = None, **overrides: Any) -> T5Config:
    """The sizes of a T5, without network access; arguments and errors as those of `opt_config`.

    ``None`` starts from flan-t5-small's sizes.
    """
    if name_or_path is None:
        config = T5Config()
    elif str(name_or_path) in _T5_SIZES:
        width, hidden, layers, heads = _T5_SIZES[str(name_or_path)]
        config = T5Config(d_model=width, d_ff=hidden, num_layers=layers, num_heads=heads)
    else:
        _, values = _read_config_json(name_or_path, "T5ForConditionalGeneration", _T5_SIZES, _T5_FIXED)
        config = T5Config(**{field.name: values[field.name] for field in fields(T5Config) if field.name in values})
    return replace(config, **{key: value for key, value in overrides.items() if value is not None})


def _read_config_json(
    folder: str | Path, model: str, published: Mapping[str, Any], fixed: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """The path and content of a folder's ``config.json``, which must agree with `fixed` where it says anything."""
    path = resolve_resource(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is neither a published name that {model} knows ({', '.join(published)}) nor a folder "
            f"with a config.json (looked for {path}); or give the sizes themselves"
        )
    values = json.loads(path.read_text(encoding="utf-8"))
    for key, expected in fixed.items():
        if values.get(key, expected) != expected:
            raise ValueError(f"{path}: {key}={values[key]!r} is not offered by {model}, only {expected!r}")
    return path, values
