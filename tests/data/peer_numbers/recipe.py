"""Tiny weights, inputs and tokenizers that a peer and our models can both make, all from names and seeds.

Weights are keyed on mmpretrain's names, which are ours. numpy's RandomState is used because its streams never change
between versions. This file imports nothing of the project: it also runs beside a peer (see README.md).
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORDS = "red blue green yellow circle square star is left right of above below the two three what colour how many"
# Texts of unequal lengths, so that padding is seen to be masked; the longest is beyond 12 tokens and is cut.
TEXTS = [
    "a red circle",
    "the blue square is left of the yellow star",
    "two green stars",
    "three red squares above a circle",
    "the star is below the green square and right of the red circle of the two",
    "a yellow star",
    "two circles",
    "the red star is above the blue circle",
]
TEXTS_OF_PICTURE = [[0, 5], [1, 7, 3], [2], [4, 6]]
# Of the pictures of pairs: 0 and 2, and 1 and 4, are taken for one each.
IMAGE_IDS = [7, 3, 7, 5, 3, 9]
QUESTIONS = [
    "what colour is the star?",
    "how many?",
    "is the red circle left of the two blue squares?",
    "what is above the yellow square",
]
ANSWER_TOKENS = 8
MAX_TXT_LEN = 12
TOPK = 3
VISION = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
IMAGE_SIZE, PATCH_SIZE, QUERIES, PROJECTION = 28, 14, 6, 16
QFORMER = dict(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
    layer_norm_eps=1e-12,
)
OPT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, max_position_embeddings=128)
OPT_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def images(count: int = 5, seed: int = 0) -> torch.Tensor:
    """B×3×28×28, as a preprocessor would hand them over."""
    values = np.random.RandomState(seed).standard_normal((count, 3, IMAGE_SIZE, IMAGE_SIZE))
    return torch.from_numpy(values).float()


def weight(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The value of a parameter; large enough for outputs to differ from input to input."""
    noise = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(shape)
    if len(shape) == 1:
        norm = re.search(r"(norm|ln\d?|ln_vision_backbone)\.weight$", name.lower())
        value = 0.2 * noise + (1 if norm else 0)
        if name.endswith("decoder.final_layer_norm.weight"):
            value = 3.5 * value  # next tokens are told apart more clearly
    elif re.search(r"query_tokens|cls_token|pos_embed", name):
        value = noise
    elif re.search(r"embed(dings|_tokens|_positions)", name):
        value = 0.25 * noise
        if name.endswith("embed_tokens.weight"):
            value[line_feed_id()] *= 2.5  # some answers end before others
    else:
        value = 1.6 * noise / np.prod(shape[1:]) ** 0.5
    return torch.from_numpy(np.asarray(value)).float()


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int, rename: Callable[[str], str] = str) -> None:
    """Give each parameter, but the temperature, its value; `rename` makes a peer's names into mmpretrain's."""
    for key, parameter in model.named_parameters():
        if parameter.dim():
            name = rename(key).replace("predictions.decoder.bias", "predictions.bias")  # the two are one in BERT
            parameter.copy_(weight(name, tuple(parameter.shape), seed))


def bert_tokenizer(folder: Path) -> Path:
    """A WordPiece vocabulary in `folder`: the words, and the letters for all others ('circles' is 'circle', '##s')."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters), "?"]
    vocabulary += WORDS.split()
    _write(folder, "vocab.txt", "\n".join(vocabulary) + "\n")
    config = dict(tokenizer_class="BertTokenizer", do_lower_case=True, model_max_length=512)
    _write(folder, "tokenizer_config.json", json.dumps(config))
    sizes = dict(model_type="bert", hidden_act="gelu", pad_token_id=0, type_vocab_size=2, vocab_size=len(vocabulary))
    _write(folder, "config.json", json.dumps({**sizes, **QFORMER}))
    return folder


def opt_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's vocabulary, in the order of the bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def line_feed_id() -> int:
    return len(OPT_SPECIAL) + ord("\n")


def opt_vocab_size() -> int:
    return len(OPT_SPECIAL) + 256


def opt_tokenizer(folder: Path) -> Path:
    """A byte-level BPE without merges in `folder`, special tokens as in OPT's: ``</s>`` is put first."""
    vocabulary = {token: index for index, token in enumerate([*OPT_SPECIAL, *opt_alphabet()])}
    _write(folder, "vocab.json", json.dumps(vocabulary))
    _write(folder, "merges.txt", "#version: 0.2\n")
    special = dict(unk_token="</s>", bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    config = dict(tokenizer_class="GPT2Tokenizer", add_bos_token=True, model_max_length=1 << 30, **special)
    _write(folder, "tokenizer_config.json", json.dumps(config))
    sizes = dict(model_type="opt", vocab_size=len(vocabulary), word_embed_proj_dim=OPT["hidden_size"], dropout=0.0)
    ids = dict(bos_token_id=2, eos_token_id=2, pad_token_id=1)
    _write(folder, "config.json", json.dumps({**sizes, **ids, **OPT}))
    return folder


def vision_config(**changes: Any) -> dict[str, Any]:
    return (
        dict(
            type="BEiTViT",
            arch=VISION,
            img_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            out_indices=-1,
            layer_scale_init_value=0.0,
            use_abs_pos_emb=True,
            use_rel_pos_bias=False,
            frozen_stages=VISION["num_layers"],
            final_norm=False,
            use_shared_rel_pos_bias=False,
            out_type="raw",
        )
        | changes
    )


def qformer_config(bert_folder: Path) -> dict[str, Any]:
    return dict(
        type="Qformer",
        model_style=str(bert_folder),
        vision_model_width=VISION["embed_dims"],
        add_cross_attention=True,
        cross_attention_freq=2,
        num_query_token=QUERIES,
    )


def retrieval_config(bert_folder: Path, **changes: Any) -> dict[str, Any]:
    width = QFORMER["hidden_size"]
    return (
        dict(
            type="Blip2Retrieval",
            tokenizer=dict(type="Blip2Tokenizer", name_or_path=str(bert_folder)),
            vision_backbone=vision_config(),
            multimodal_backbone=qformer_config(bert_folder),
            vision_neck=dict(type="LinearClsHead", in_channels=width, num_classes=PROJECTION),
            text_neck=dict(type="LinearClsHead", in_channels=width, num_classes=PROJECTION),
            multimodal_head=dict(type="ITMHead", hidden_size=width, with_pooler=False),
            topk=TOPK,
            max_txt_len=MAX_TXT_LEN,
        )
        | changes
    )


def our_retrieval(models: Any, bert_folder: Path, **changes: Any) -> Any:
    """Our model, built by the registry `models`; mmpretrain's Q-Former finds the vocabulary's size by itself."""
    config = retrieval_config(bert_folder, **changes)
    words = len((bert_folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    config["multimodal_backbone"]["vocab_size"] = words + 1  # [DEC]
    return models.build(config)


def pairs(sample: Callable[..., Any], rows: Iterable[int], with_ids: bool) -> list[Any]:
    """What a training batch knows of these pairs of picture and text."""
    ids = [dict(image_id=IMAGE_IDS[row]) if with_ids else {} for row in rows]
    return [sample(text=TEXTS[row], **more) for row, more in zip(rows, ids, strict=True)]


def gallery() -> list[str]:
    """The texts of the first four pictures, picture by picture."""
    return [TEXTS[text] for texts in TEXTS_OF_PICTURE for text in texts]


def vqa_config(bert_folder: Path, text_backbone: dict[str, Any], opt_folder: Path, **changes: Any) -> dict[str, Any]:
    return (
        dict(
            type="Blip2VQA",
            tokenizer=dict(type="AutoTokenizer", name_or_path=str(opt_folder), use_fast=False),
            vision_backbone=vision_config(),
            text_backbone=text_backbone,
            multimodal_backbone=qformer_config(bert_folder),
            vision_neck=dict(type="LinearClsHead", in_channels=QFORMER["hidden_size"], num_classes=OPT["hidden_size"]),
            prompt="Question: {} Answer:",
            max_txt_len=ANSWER_TOKENS,
        )
        | changes
    )


def argmax_multinomial(weights: torch.Tensor, num_samples: int = 1, **_: Any) -> torch.Tensor:
    """Stands in for `torch.multinomial` where hard negatives are drawn: the likeliest, always."""
    assert num_samples == 1
    return weights.argmax(-1, keepdim=True)


def _write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
