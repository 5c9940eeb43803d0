"""LAVIS's BLIP-2 with OPT: captions. Runs under `serve`; needs salesforce-lavis.

What LAVIS 1.0.2 needs at run time, none of which makes it faster or slower:

- importing it imports spacy, which captioning does not use: an empty module stands in where there is none;
- the vision tower, BERT and OPT are fetched by names written into it: modules of the given sizes stand in;
- its tokenizers want files: a table of the texts that will come stands in;
- its LayerNorm casts to fp32, which fails where answers are compared in fp64: torch's stands in.
"""

import contextlib
import os
import re
import sys
import types
from functools import partial

import torch

# Our key → LAVIS's, all rules in turn.
RULES = (
    (r"^vision_backbone\.patch_embed\.projection\.", "visual_encoder.patch_embed.proj."),
    (r"^vision_backbone\.layers\.", "visual_encoder.blocks."),
    (r"^vision_backbone\.", "visual_encoder."),
    (r"^(visual_encoder\.blocks\.\d+)\.ln([12])\.", r"\1.norm\2."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^ln_vision_backbone\.", "ln_vision."),
    (r"^multimodal_backbone\.", "Qformer."),
    (r"^text_backbone\.", "opt_model."),
    (r"^vision_neck\.fc\.", "opt_proj."),
)


class TableTokenizer:
    """Texts to ids by a table, all texts of a call of one length; called as a tokenizer of transformers is."""

    def __init__(self, table, size):
        self.table, self.size = table, size

    def __len__(self):
        return self.size

    def __call__(self, texts, return_tensors=None, **_):
        from transformers import BatchEncoding

        if return_tensors is None:
            return BatchEncoding({"input_ids": self.table[texts]})
        ids = torch.tensor([self.table[text] for text in ([texts] if isinstance(texts, str) else texts)])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def add_special_tokens(self, _):
        return 0

    def batch_decode(self, ids, **_):
        return [""] * len(ids)


class Instead:
    """Gives what `make` makes, whatever name it is asked to fetch."""

    def __init__(self, make):
        self.from_pretrained = make


def build(job, weights, marks):
    if job["task"] != "caption":
        raise ValueError("only captions are compared with LAVIS, not " + job["task"])
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    with contextlib.suppress(ImportError):
        import spacy  # noqa: F401
    sys.modules.setdefault("spacy", types.ModuleType("spacy"))
    from lavis.models.blip2_models.blip2_opt import Blip2OPT

    _stand_in(job)
    model = Blip2OPT(
        img_size=job["vision"]["img_size"],
        vit_precision="fp32",
        num_query_token=job["qformer"]["queries"],
        prompt=job["prompt"],
    )
    _load(model, weights)
    marks.after(model.ln_vision, "vision")
    marks.after(model.opt_proj, "qformer")
    language_model, found = model.opt_model, []
    generate = language_model.generate

    def search(**kwargs):
        found.append(generate(**kwargs))
        return found[-1]

    language_model.generate = search
    marks.after_first(language_model, "generate", language_model, "prefill", "decode_steps")
    tokens = job["max_new_tokens"]

    def run(pixels):
        found.clear()
        # Its least length counts the prompt.
        length = len(job["table"][job["prompt"]]) + tokens
        model.generate({"image": pixels}, num_beams=job["num_beams"], max_length=tokens, min_length=length)
        return {"ids": found[0][:, -tokens:]}

    return model, run


def _stand_in(job):
    from lavis.models import eva_vit
    from lavis.models.blip2_models import blip2 as parts
    from lavis.models.blip2_models import blip2_opt

    vision, queries, opt = job["vision"], job["qformer"], job["opt"]
    language_model, language_model_config = blip2_opt.OPTForCausalLM, blip2_opt.OPTConfig
    bert, bert_config = parts.BertLMHeadModel, parts.BertConfig
    tokenizer = Instead(lambda *_, **__: TableTokenizer(job["table"], opt["vocab_size"]))
    parts.create_eva_vit_g = lambda *_, **__: eva_vit.VisionTransformer(
        img_size=vision["img_size"],
        patch_size=vision["patch_size"],
        embed_dim=vision["width"],
        depth=vision["layers"],
        num_heads=vision["heads"],
        mlp_ratio=vision["ffn"] / vision["width"],
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=vision["eps"]),
        use_mean_pooling=False,
    )
    parts.BertConfig = Instead(
        lambda *_, **__: bert_config(
            vocab_size=queries["vocab_size"],
            hidden_size=queries["width"],
            num_hidden_layers=queries["layers"],
            num_attention_heads=queries["heads"],
            intermediate_size=queries["ffn"],
            max_position_embeddings=queries["positions"],
            layer_norm_eps=queries["eps"],
        )
    )
    parts.BertLMHeadModel = Instead(lambda *_, config, **__: bert(config))
    parts.LayerNorm = torch.nn.LayerNorm
    parts.BertTokenizer = blip2_opt.AutoTokenizer = tokenizer
    blip2_opt.OPTForCausalLM = Instead(lambda *_, **__: language_model(language_model_config(**opt)))


def _load(model, weights):
    renamed = {_key(key): value for key, value in weights.items()}
    wrong = model.load_state_dict(renamed, strict=False)
    missing = [key for key in wrong.missing_keys if not key.endswith("position_ids")]
    unexpected = [key for key in wrong.unexpected_keys if not key.endswith("position_ids")]
    if missing or unexpected:
        raise ValueError(f"LAVIS's model has other weights: it wants {missing[:5]} and has no {unexpected[:5]}")


def _key(key):
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key
