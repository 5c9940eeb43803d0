"""mmpretrain's BLIP-2: captions and retrieval. Runs under `serve`; needs mmpretrain, mmengine and an mmcv.

What mmpretrain 1.2.0 needs at run time, none of which makes it faster or slower:

- its tokenizers want files: a table of the texts that will come stands in;
- ``Blip2Retrieval`` never sets the ``max_txt_len`` that its tokenizing reads, and refuses it as an argument;
- its captioner has five beams and no least length written into it: the search is given what was asked for;
- its retrieval draws a progress bar for each direction: left, on standard error.
"""

import json
import os

import torch


class TableTokenizer:
    """Texts to ids by a table, called as a tokenizer of transformers is."""

    def __init__(self, table, pad, size):
        self.table, self.pad, self.size = table, pad, size

    def __len__(self):
        return self.size

    def __call__(self, texts, return_tensors=None, padding=None, max_length=None, add_special_tokens=True, **_):
        from transformers import BatchEncoding

        if isinstance(texts, str) and return_tensors is None:
            return BatchEncoding({"input_ids": self.table[texts]})
        rows = [self.table[text] for text in ([texts] if isinstance(texts, str) else texts)]
        length = max_length if padding == "max_length" else max(map(len, rows))
        ids = torch.full((len(rows), length), self.pad)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})

    def batch_decode(self, ids, **_):
        return [""] * len(ids)


def build(job, weights, marks):
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    import mmpretrain.models  # noqa: F401 (registers them)
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS, TOKENIZER

    init_default_scope("mmpretrain")
    TOKENIZER.register_module(name="TableTokenizer", module=TableTokenizer)
    if job["task"] == "retrieval":
        from mmpretrain.models.multimodal import Blip2Retrieval

        Blip2Retrieval.max_txt_len = job["max_txt_len"]
    model = MODELS.build(_config(job))
    _load(model, weights)
    marks.after(model.ln_vision_backbone, "vision")
    run = _captioner(job, model, marks) if job["task"] == "caption" else _ranker(job, model, marks)
    return model, run


def _captioner(job, model, marks):
    marks.after(model.vision_neck, "qformer")
    language_model, found = model.text_backbone, []
    generate = language_model.generate

    def search(**kwargs):
        kwargs.update(
            num_beams=job["num_beams"], min_new_tokens=job["max_new_tokens"], max_new_tokens=job["max_new_tokens"]
        )
        found.append(generate(**kwargs))
        return found[-1]

    language_model.generate = search
    marks.after_first(language_model, "generate", language_model, "prefill", "decode_steps")

    def run(pixels):
        found.clear()
        model(pixels, None, mode="predict")
        return {"ids": found[0][:, -job["max_new_tokens"] :]}

    return run


def _ranker(job, model, marks):
    from mmpretrain.structures import DataSample

    marks.after(model.vision_neck, "qformer")
    marks.after(model.text_neck, "texts")
    texts, batch = job["texts"], job["feature_batch"]

    def samples(pictures):
        # Each picture comes with its share of the texts, as in a data set.
        rows = []
        for picture in range(pictures):
            own = texts[picture * len(texts) // pictures : (picture + 1) * len(texts) // pictures]
            rows.append(DataSample(text=own, gt_text_id=[0] * len(own), gt_image_id=[0] * len(own)))
        return rows

    def run(pixels):
        rows = samples(len(pixels))
        parts = [
            model(pixels[start : start + batch], rows[start : start + batch], mode="tensor")
            for start in range(0, len(pixels), batch)
        ]
        features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        i2t, t2i = model.predict_all(features, rows)
        scores = {name: torch.stack([row.pred_score for row in of]) for name, of in (("i2t", i2t), ("t2i", t2i))}
        marks("ranking")
        return scores

    return run


def _config(job):
    vision, queries = job["vision"], job["qformer"]
    config = dict(
        type={"caption": "Blip2Caption", "retrieval": "Blip2Retrieval"}[job["task"]],
        tokenizer=dict(type="TableTokenizer", table=job["table"], pad=job["pad"], size=queries["vocab_size"]),
        vision_backbone=dict(
            type="BEiTViT",
            arch=dict(
                embed_dims=vision["width"],
                num_layers=vision["layers"],
                num_heads=vision["heads"],
                feedforward_channels=vision["ffn"],
            ),
            img_size=vision["img_size"],
            patch_size=vision["patch_size"],
            out_indices=-1,
            layer_scale_init_value=0.0,
            use_abs_pos_emb=True,
            use_rel_pos_bias=False,
            use_shared_rel_pos_bias=False,
            final_norm=False,
            out_type="raw",
        ),
        multimodal_backbone=dict(
            type="Qformer",
            model_style=_write(job, "bert", _bert(queries)),
            vision_model_width=vision["width"],
            add_cross_attention=True,
            cross_attention_freq=queries["cross_attention_freq"],
            num_query_token=queries["queries"],
        ),
        vision_neck=dict(type="LinearClsHead", in_channels=queries["width"], num_classes=job["neck_width"]),
    )
    if job["task"] == "caption":
        opt = _write(job, "opt", dict(job["opt"], model_type="opt", do_layer_norm_before=True))
        config["text_backbone"] = dict(type="OPTForCausalLM", name_or_path=opt, load_pretrained=False)
        # Also the longest prompt; the number of new tokens is set at the search.
        return dict(config, prompt=job["prompt"], max_txt_len=512)
    return dict(
        config,
        text_neck=dict(type="LinearClsHead", in_channels=queries["width"], num_classes=job["neck_width"]),
        multimodal_head=dict(type="ITMHead", hidden_size=queries["width"], with_pooler=False),
        topk=job["topk"],
    )


def _bert(queries):
    return dict(
        model_type="bert",
        vocab_size=queries["vocab_size"],
        hidden_size=queries["width"],
        num_hidden_layers=queries["layers"],
        num_attention_heads=queries["heads"],
        intermediate_size=queries["ffn"],
        max_position_embeddings=queries["positions"],
        layer_norm_eps=queries["eps"],
        hidden_act="gelu",
        pad_token_id=0,
    )


def _write(job, name, config):
    """A folder with a ``config.json``, for what only reads its sizes from one."""
    folder = os.path.join(job["folder"], name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)
    return folder


def _load(model, weights):
    """mmpretrain's keys are ours."""
    wrong = model.load_state_dict(weights, strict=False)
    missing = [key for key in wrong.missing_keys if not key.endswith("position_ids")]
    unexpected = [key for key in wrong.unexpected_keys if not key.endswith("position_ids")]
    if missing or unexpected:
        raise ValueError(f"mmpretrain's model has other weights: it wants {missing[:5]} and has no {unexpected[:5]}")
