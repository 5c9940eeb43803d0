from collections.abc import Callable
from typing import Any

import pytest
import torch

from blip2.registry import MODELS

TINY = {
    "type": "Blip2Caption",
    "vision_backbone": {
        "type": "BEiTViT",
        "arch": {"embed_dims": 32, "num_layers": 2, "num_heads": 2, "feedforward_channels": 64},
        "img_size": 28,
        "patch_size": 7,
        "out_indices": -1,
        "out_type": "raw",
        "layer_scale_init_value": 0.0,
        "use_abs_pos_emb": True,
        "use_rel_pos_bias": False,
        "final_norm": False,
    },
    "multimodal_backbone": {
        "type": "Qformer",
        "vision_model_width": 32,
        "num_query_token": 4,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "vision_neck": {"type": "LinearClsHead", "in_channels": 32, "num_classes": 48},
    "text_backbone": {
        "type": "OPTForCausalLM",
        "vocab_size": 60,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
        "max_position_embeddings": 40,
    },
}


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """Builds the caption model, two layers and 32 wide throughout; the arguments change fields of its parts."""

    def build(seed: int = 0, **changes: dict[str, Any]) -> Any:
        torch.manual_seed(seed)
        config = {
            key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in TINY.items()
        }
        return MODELS.build(config)

    return build
