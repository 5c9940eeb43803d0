"""Tiny generative models with random weights, and pictures that they tell apart."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from tokenizers import ByteLevelBPETokenizer

from blip2.apis import get_model, load_config


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> str:
    """A tokenizer in OPT's form, whose tokens are mostly single bytes."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(["a red circle above a blue square"], vocab_size=290, special_tokens=special)
    tokenizer.save_model(str(folder))
    tokens = {"unk_token": "</s>", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    about = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_config(tokenizer_folder) -> Callable[..., Config]:
    """A function: the config of a tiny model of a type, and changes of the model; `keys` are the texts of a sample."""

    def make(kind: str, *, keys: tuple[str, ...] = (), positions: int = 64, **changes: Any) -> Config:
        arch = {"embed_dims": 24, "num_layers": 2, "num_heads": 2, "feedforward_channels": 48}
        pipeline: list[dict[str, Any]] = [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "scale": (28, 28), "interpolation": "bicubic", "backend": "pillow"},
            {"type": "PackInputs", "algorithm_keys": list(keys), "meta_keys": ["image_id"]},
        ]
        if keys:
            pipeline.insert(2, {"type": "CleanCaption", "keys": list(keys)})
        qformer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        model = {
            "type": kind,
            "tokenizer": {"type": "AutoTokenizer", "name_or_path": tokenizer_folder},
            "vision_backbone": {"type": "BEiTViT", "arch": arch, "img_size": 28, "patch_size": 14, "out_type": "raw"},
            "multimodal_backbone": {"type": "Qformer", "vision_model_width": 24, "num_query_token": 4, **qformer},
            "vision_neck": {"type": "LinearClsHead", "in_channels": 32, "num_classes": 32},
            "text_backbone": {
                "type": "OPTForCausalLM",
                "vocab_size": 304,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "ffn_dim": 64,
                "max_position_embeddings": positions,
            },
            **changes,
        }
        preprocessor = {
            "type": "MultiModalDataPreprocessor",
            "mean": [122.770938, 116.7460125, 104.09373615],
            "std": [68.5005327, 66.6321579, 70.32316305],
            "to_rgb": True,
        }
        dataset = {"type": "ImageTextDataset", "pipeline": pipeline}
        fields = {"model": model, "data_preprocessor": preprocessor, "test_dataloader": {"dataset": dataset}}
        return load_config(Config(fields))

    return make


@pytest.fixture(scope="session")
def build() -> Callable[[Config], BaseModel]:
    """A function: the model of a config, with weights large enough for pictures to differ in what is said of them."""

    def make(config: Config) -> BaseModel:
        torch.manual_seed(0)
        model = get_model(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.3)
        return model

    return make


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Five pictures, each darker than the one before."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (40, 30, 3), dtype=np.uint8) // (1 + number) for number in range(5)]
