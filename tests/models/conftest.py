"""Tiny language models, tokenizers and caption models for the tests of this folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

from blip2.models import OPTForCausalLM
from blip2.registry import MODELS

CORPUS = [
    "a photo of a red boat on the water below a bridge",
    "a photo of two children who fly a kite above the hill",
    "a small blue cup stands to the left of a yellow plate",
    "three birds sit on a wire and one flies away",
]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def opt_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE laid out like that of the published OPTs: 300 tokens, ``</s>`` is put first."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(CORPUS, vocab_size=300, min_frequency=1, special_tokens=special)
    tokenizer.save_model(str(folder))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "</s>",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def opt_pair() -> Callable[..., tuple[transformers.OPTForCausalLM, OPTForCausalLM]]:
    """Makes a tiny OPT of transformers and ours, both in eval mode, with the same (still dull) weights."""

    def build(vocab_size: int = 60) -> tuple[transformers.OPTForCausalLM, OPTForCausalLM]:
        config = transformers.OPTConfig(vocab_size=vocab_size, word_embed_proj_dim=SIZES["hidden_size"], **SIZES)
        peer = transformers.OPTForCausalLM(config).eval()
        ours = OPTForCausalLM(vocab_size=vocab_size, **SIZES).eval()
        ours.load_state_dict(peer.state_dict())
        return peer, ours

    return build


@pytest.fixture
def liven() -> Callable[..., None]:
    """Gives a model random weights large enough for its outputs to differ from picture to picture.

    Given a language model in it, that is made sure of itself, and the token `eos` likelier, so that texts end at
    different steps.
    """

    @torch.no_grad()
    def apply(model: torch.nn.Module, seed: int, lm: torch.nn.Module | None = None, eos: int | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() == 1:
                norm = name.lower().endswith("norm.weight") or ".ln" in name or name.startswith("ln")
                value.copy_(0.2 * noise + (1 if norm and name.endswith("weight") else 0))
            elif "embed_" in name and "patch" not in name:
                value.copy_(0.25 * noise)
            elif value.dim() == 3:
                value.copy_(noise)
            else:
                value.copy_(1.6 * noise / value[0].numel() ** 0.5)
        if lm is not None:
            lm.model.decoder.final_layer_norm.weight *= 3.5
            lm.model.decoder.embed_tokens.weight[eos] *= 2.5

    return apply


@pytest.fixture
def caption_config(opt_tokenizer: Path) -> Callable[..., dict[str, Any]]:
    """Makes the config of a tiny `Blip2Caption`; arguments replace or add to its entries."""

    def build(**changes: Any) -> dict[str, Any]:
        config = {
            "type": "Blip2Caption",
            "tokenizer": {"type": "AutoTokenizer", "name_or_path": str(opt_tokenizer), "use_fast": False},
            "vision_backbone": {
                "type": "BEiTViT",
                "arch": {"embed_dims": 24, "num_layers": 2, "num_heads": 2, "feedforward_channels": 48},
                "img_size": 28,
                "patch_size": 14,
                "out_indices": -1,
                "layer_scale_init_value": 0.0,
                "use_abs_pos_emb": True,
                "use_rel_pos_bias": False,
                "frozen_stages": 2,
                "final_norm": False,
                "use_shared_rel_pos_bias": False,
                "out_type": "raw",
            },
            "text_backbone": dict(type="OPTForCausalLM", vocab_size=304, **SIZES),
            "multimodal_backbone": {
                "type": "Qformer",
                "model_style": "bert-base-uncased",
                "vision_model_width": 24,
                "add_cross_attention": True,
                "cross_attention_freq": 2,
                "num_query_token": 6,
                "hidden_size": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "intermediate_size": 64,
            },
            "vision_neck": {"type": "LinearClsHead", "in_channels": 32, "num_classes": 32},
            "prompt": "a photo of",
            "max_txt_len": 12,
        }
        return {**config, **changes}

    return build


@pytest.fixture
def caption_model(caption_config: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Builds a tiny `Blip2Caption` from `caption_config`."""
    return lambda **changes: MODELS.build(caption_config(**changes))
