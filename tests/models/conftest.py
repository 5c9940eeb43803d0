"""Tiny language models, tokenizers and caption models for the tests of this folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

from blip2.checkpoints.convert import to_ours
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
            if not value.dim():
                continue  # a temperature
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


@pytest.fixture(scope="session")
def word_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT vocabulary: the words of `CORPUS` and a few to ask with."""
    folder = tmp_path_factory.mktemp("words")
    words = sorted({word for line in CORPUS for word in line.split()} | {"what", "is", "how", "many", "color", "?"})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


@pytest.fixture
def vqa_model(caption_config: Callable[..., dict[str, Any]], word_folder: Path) -> Callable[..., Any]:
    """Builds a tiny `Blip2VQA`; arguments replace or add to the entries of its config."""

    def build(**changes: Any) -> Any:
        config = caption_config(type="Blip2VQA", prompt="Question: {} Answer:", max_txt_len=6)
        if changes.get("question_in_qformer"):
            config["qformer_tokenizer"] = {"type": "Blip2Tokenizer", "name_or_path": str(word_folder)}
        return MODELS.build({**config, **changes})

    return build


@pytest.fixture
def retrieval_config(caption_config: Callable[..., dict[str, Any]], word_folder: Path) -> Callable[..., dict[str, Any]]:
    """Makes the config of a tiny `Blip2Retrieval`; arguments replace or add to its entries."""

    def build(**changes: Any) -> dict[str, Any]:
        parts = caption_config()
        config = {
            "type": "Blip2Retrieval",
            "tokenizer": {"type": "Blip2Tokenizer", "name_or_path": str(word_folder)},
            "vision_backbone": parts["vision_backbone"],
            "multimodal_backbone": {**parts["multimodal_backbone"], "vocab_size": 60, "max_position_embeddings": 40},
            "vision_neck": {"type": "LinearClsHead", "in_channels": 32, "num_classes": 16},
            "text_neck": {"type": "LinearClsHead", "in_channels": 32, "num_classes": 16},
            "multimodal_head": {"type": "ITMHead", "hidden_size": 32, "with_pooler": False},
        }
        return {**config, **changes}

    return build


@pytest.fixture
def retrieval_model(retrieval_config: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Builds a tiny `Blip2Retrieval` from `retrieval_config`."""
    return lambda **changes: MODELS.build(retrieval_config(**changes))


@pytest.fixture
def our_keys() -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Renames a state dict of transformers."""
    return lambda state: to_ours(state)[1].tensors


@pytest.fixture
def blip2_peer() -> transformers.Blip2ForConditionalGeneration:
    """The caption model of `caption_config` in transformers; the token 303 stands for a query."""
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            layer_norm_eps=1e-6,
        ).to_dict(),
        qformer_config=transformers.Blip2QFormerConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            cross_attention_frequency=2,
            encoder_hidden_size=24,
            layer_norm_eps=1e-12,
        ).to_dict(),
        text_config=transformers.OPTConfig(vocab_size=304, word_embed_proj_dim=SIZES["hidden_size"], **SIZES).to_dict(),
        num_query_tokens=6,
        image_token_index=303,
    )
    return transformers.Blip2ForConditionalGeneration(config).eval()


@pytest.fixture
def blip2_pair(blip2_peer: Any, liven: Callable[..., None]) -> Callable[..., Callable[..., tuple[Any, Any]]]:
    """For a model of ours: gives the model of transformers and it the weights of a seed, made sure of themselves."""

    def build(ours: Any) -> Callable[..., tuple[Any, Any]]:
        ours.eval()
        eos = ours.tokenizer.token_id("\n")

        def seeded(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
            liven(blip2_peer, seed, lm=blip2_peer.language_model, eos=eos)
            with torch.no_grad():
                for layer in blip2_peer.vision_model.encoder.layers:
                    layer.self_attn.qkv.bias[24:48] = 0  # BLIP-2's keys have no bias
            missing, unexpected = ours.load_state_dict(to_ours(blip2_peer.state_dict())[1].tensors, strict=False)
            assert unexpected == [] and [key for key in missing if not key.endswith("position_ids")] == []
            return blip2_peer.to(dtype), ours.to(dtype)

        return seeded

    return build


@pytest.fixture
def captioner(blip2_peer: Any, liven: Callable[..., None]) -> Any:
    """transformers' caption model with lively weights, and without the bias of keys that BLIP-2 does not have."""
    liven(blip2_peer, 3, lm=blip2_peer.language_model, eos=10)
    _drop_key_bias(blip2_peer)
    return blip2_peer


@pytest.fixture
def retriever(liven: Callable[..., None]) -> Any:
    """transformers' retrieval model, in the same way."""
    torch.manual_seed(1)
    config = transformers.Blip2Config(
        vision_config=dict(
            hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14, layer_norm_eps=1e-6,
        ),
        qformer_config=dict(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, vocab_size=60,
            max_position_embeddings=40, cross_attention_frequency=2, encoder_hidden_size=24,
            use_qformer_text_input=True,
        ),
        num_query_tokens=6, image_text_hidden_size=16, image_token_index=None,
    )  # fmt: skip
    model = transformers.Blip2ForImageTextRetrieval(config).eval()
    liven(model, 4)
    _drop_key_bias(model)
    return model


@torch.no_grad()
def _drop_key_bias(model: Any) -> None:
    for layer in model.vision_model.encoder.layers:
        layer.self_attn.qkv.bias[24:48] = 0
