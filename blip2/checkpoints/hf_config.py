"""The ``config.json`` of Hugging Face's BLIP-2 for a model of ours."""

from dataclasses import asdict
from typing import Any

from torch import nn

from blip2.checkpoints.read import CheckpointError

# The token that stands for a query in Hugging Face's prompts: the first after the tokenizer's own.
_IMAGE_TOKENS = {"opt": 50265, "t5": 32100}


def hf_config(model: nn.Module) -> Any:
    """transformers' ``Blip2Config`` of a `Blip2Caption`, `Blip2VQA` or `Blip2Retrieval`, which may be on ``meta``.

    Its one epsilon of all norms of the image encoder is that of the blocks.

    Raises `CheckpointError` that names what transformers' BLIP-2 cannot express.
    """
    reasons = _not_expressible(model)
    if reasons:
        raise CheckpointError(f"transformers' BLIP-2 has no such model: {'; '.join(reasons)}")
    from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig

    vision: Any = model.vision_backbone
    queries: Any = model.multimodal_backbone
    block = vision.layers[0]
    sizes = queries.config
    retrieval = not hasattr(model, "text_backbone")
    text = None if retrieval else _text_config(model.text_backbone)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=vision.embed_dims,
            intermediate_size=block.ffn.layers[1].in_features,
            num_hidden_layers=vision.num_layers,
            num_attention_heads=block.attn.num_heads,
            image_size=vision.img_size[0],
            patch_size=vision.patch_embed.patch_size[0],
            layer_norm_eps=block.ln1.eps,
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            vocab_size=sizes.vocab_size if retrieval else 30522,  # its default; a captioner reads no words with it
            hidden_size=sizes.hidden_size,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            intermediate_size=sizes.intermediate_size,
            max_position_embeddings=sizes.max_position_embeddings,
            hidden_act=sizes.hidden_act,
            layer_norm_eps=sizes.layer_norm_eps,
            cross_attention_frequency=cross_attention_frequency(queries),
            encoder_hidden_size=queries.vision_model_width,
            use_qformer_text_input=retrieval,
        ).to_dict(),
        num_query_tokens=queries.num_query_token,
        text_config=None if text is None else text.to_dict(),
        image_text_hidden_size=_width(model.vision_neck) if retrieval else 256,
    )
    kind = "Blip2ForImageTextRetrieval" if retrieval else "Blip2ForConditionalGeneration"
    config.architectures = [kind]
    config.image_token_index = None
    if text is not None:
        token = _IMAGE_TOKENS[text.model_type]
        config.image_token_index = token if token < text.vocab_size else text.vocab_size - 1
    return config


def _text_config(language_model: Any) -> Any:
    from transformers import OPTConfig, T5Config

    sizes = language_model.config
    if type(language_model).__name__ == "OPTForCausalLM":
        return OPTConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            word_embed_proj_dim=sizes.hidden_size,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            ffn_dim=sizes.ffn_dim,
            max_position_embeddings=sizes.max_position_embeddings,
            pad_token_id=sizes.pad_token_id,
            tie_word_embeddings=sizes.tie_word_embeddings,
        )
    # Its own head, whose logits are not scaled: transformers tells both from the one word, which it then forgets.
    own_head: dict[str, Any] = {"tie_word_embeddings": False}
    config = T5Config(**asdict(sizes), feed_forward_proj="gated-gelu", **own_head)
    config.tie_word_embeddings = False
    config.dense_act_fn = language_model.encoder.config.dense_act_fn
    return config


def _not_expressible(model: nn.Module) -> list[str]:
    vision: Any = model.vision_backbone
    queries: Any = model.multimodal_backbone
    reasons = []
    if type(vision).__name__ != "BEiTViT":
        reasons.append(f"its vision backbone is a {type(vision).__name__}, not a BEiTViT")
    elif (
        vision.has_relative_bias
        or vision.pos_embed is None
        or vision.cls_token is None
        or vision.ln1 is not None
        or vision.out_type != "raw"
        or vision.out_indices[-1] != vision.num_layers - 1
        or any(layer.gamma_1 is not None or not layer.attn.has_qv_bias for layer in vision.layers)
    ):
        reasons.append("its BEiTViT differs from EVA's as BLIP-2 uses it")
    elif vision.img_size[0] != vision.img_size[1]:
        reasons.append(f"its vision backbone is made for {vision.img_size} pixels, which are not square")
    language_model = getattr(model, "text_backbone", None)
    name = type(language_model).__name__
    if language_model is not None and name not in ("OPTForCausalLM", "T5ForConditionalGeneration"):
        reasons.append(f"its language model is a {name}, not an OPTForCausalLM or a T5ForConditionalGeneration")
    if type(queries).__name__ != "Qformer":
        reasons.append(f"its multimodal backbone is a {type(queries).__name__}, not a Qformer")
    elif queries.with_text and language_model is not None:
        reasons.append("its Q-Former reads the question")
    return reasons


def cross_attention_frequency(queries: Any) -> int:
    """Every how many layers there is cross-attention."""
    having = [index for index, layer in enumerate(queries.bert.encoder.layer) if layer.has_cross_attention]
    return having[1] - having[0] if len(having) > 1 else len(queries.bert.encoder.layer)


def _width(neck: Any) -> int:
    return int(neck.fc.out_features)
