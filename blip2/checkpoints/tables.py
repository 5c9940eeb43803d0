"""Whose keys are called what: one table for each format that the publishers use, read top to bottom.

Our keys are OpenMMLab's. A row says how a key of another format (`theirs`) and ours belong together, in both
directions; the first row that matches a key counts. In a key ``{n}`` stands for a number and ``{x}`` for any rest, and
what stood there is put in again on the other side, in order.
"""

import re
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Rename:
    """The same tensor under two names."""

    theirs: str
    ours: str


@dataclass(frozen=True)
class Flatten:
    """The same numbers, here with a leading dimension (or several) of one."""

    theirs: str
    ours: str
    dims: int


@dataclass(frozen=True)
class MergedBias:
    """One bias of queries, keys and values there; here one of queries and one of values.

    The keys' part adds the same to all of a query's scores, so that it changes nothing.
    """

    theirs: str
    ours: tuple[str, str]


@dataclass(frozen=True)
class TheirsOnly:
    """Passed over when read. It is never written. `lost`: somebody may miss it."""

    theirs: str
    why: str
    lost: bool = False


@dataclass(frozen=True)
class OursOnly:
    """Left out when written; when read, the model keeps what it starts with. `lost`: somebody may miss it."""

    ours: str
    why: str
    lost: bool = False


Row = Rename | Flatten | MergedBias | TheirsOnly | OursOnly


@dataclass(frozen=True)
class Table:
    """The rows of one format, and what a file of it says of the model without words.

    `name` is 'openmmlab', 'lavis' or 'hf'; `kind` what comes after the Q-Former: 'opt', 't5' or 'retrieval'. Both name
    the format for people, too.
    """

    name: str
    kind: str
    rows: tuple[Row, ...]
    layer_norm_eps: float  # of `ln_vision_backbone`
    vocab_size: int | None = None  # rows of the language model's words, where others cannot be built

    def row_of_theirs(self, key: str) -> tuple[Row, tuple[str, ...]] | None:
        """The first row for a key of the other format, and what stood in its gaps."""
        for row in self.rows:
            if not isinstance(row, OursOnly) and (found := _pattern(row.theirs).fullmatch(key)):
                return row, found.groups()
        return None

    def row_of_ours(self, key: str) -> tuple[Row, tuple[str, ...]] | None:
        """The first row for one of our keys, and what stood in its gaps."""
        for row in self.rows:
            if isinstance(row, TheirsOnly):
                continue
            for name in (row.ours,) if isinstance(row.ours, str) else row.ours:
                if found := _pattern(name).fullmatch(key):
                    return row, found.groups()
        return None

    def lacks(self, key: str) -> bool:
        """Whether a file of this format never holds this key of ours."""
        found = self.row_of_ours(key)
        return found is not None and isinstance(found[0], OursOnly)


def fill_in(template: str, gaps: tuple[str, ...]) -> str:
    """`template` with its ``{n}`` and ``{x}`` replaced by `gaps` in order."""
    parts = iter(gaps)
    return re.sub(r"\{[nx]\}", lambda _: next(parts), template)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\{n\}", r"(\d+)").replace(r"\{x\}", "(.+)")
    return re.compile(text)


# ----- the image encoder -----

_LAVIS_EVA: tuple[Row, ...] = (
    Rename("visual_encoder.cls_token", "vision_backbone.cls_token"),
    Rename("visual_encoder.pos_embed", "vision_backbone.pos_embed"),
    Rename("visual_encoder.patch_embed.proj.{x}", "vision_backbone.patch_embed.projection.{x}"),
    Rename("visual_encoder.blocks.{n}.norm1.{x}", "vision_backbone.layers.{n}.ln1.{x}"),
    Rename("visual_encoder.blocks.{n}.norm2.{x}", "vision_backbone.layers.{n}.ln2.{x}"),
    Rename("visual_encoder.blocks.{n}.attn.q_bias", "vision_backbone.layers.{n}.attn.q_bias"),
    Rename("visual_encoder.blocks.{n}.attn.v_bias", "vision_backbone.layers.{n}.attn.v_bias"),
    Rename("visual_encoder.blocks.{n}.attn.qkv.{x}", "vision_backbone.layers.{n}.attn.qkv.{x}"),
    Rename("visual_encoder.blocks.{n}.attn.proj.{x}", "vision_backbone.layers.{n}.attn.proj.{x}"),
    Rename("visual_encoder.blocks.{n}.mlp.fc1.{x}", "vision_backbone.layers.{n}.ffn.layers.0.0.{x}"),
    Rename("visual_encoder.blocks.{n}.mlp.fc2.{x}", "vision_backbone.layers.{n}.ffn.layers.1.{x}"),
)
_LAVIS_CLIP: tuple[Row, ...] = (
    Flatten("visual_encoder.class_embedding", "vision_backbone.cls_token", 2),
    Flatten("visual_encoder.positional_embedding", "vision_backbone.pos_embed", 1),
    Rename("visual_encoder.conv1.weight", "vision_backbone.patch_embed.projection.weight"),
    Rename("visual_encoder.ln_pre.{x}", "vision_backbone.pre_norm.{x}"),
    Rename("visual_encoder.transformer.resblocks.{n}.ln_1.{x}", "vision_backbone.layers.{n}.ln1.{x}"),
    Rename("visual_encoder.transformer.resblocks.{n}.ln_2.{x}", "vision_backbone.layers.{n}.ln2.{x}"),
    Rename(
        "visual_encoder.transformer.resblocks.{n}.attn.in_proj_weight", "vision_backbone.layers.{n}.attn.qkv.weight"
    ),
    Rename("visual_encoder.transformer.resblocks.{n}.attn.in_proj_bias", "vision_backbone.layers.{n}.attn.qkv.bias"),
    Rename("visual_encoder.transformer.resblocks.{n}.attn.out_proj.{x}", "vision_backbone.layers.{n}.attn.proj.{x}"),
    Rename("visual_encoder.transformer.resblocks.{n}.mlp.c_fc.{x}", "vision_backbone.layers.{n}.ffn.layers.0.0.{x}"),
    Rename("visual_encoder.transformer.resblocks.{n}.mlp.c_proj.{x}", "vision_backbone.layers.{n}.ffn.layers.1.{x}"),
)
_HF_EVA: tuple[Row, ...] = (
    Rename("vision_model.embeddings.class_embedding", "vision_backbone.cls_token"),
    Rename("vision_model.embeddings.position_embedding", "vision_backbone.pos_embed"),
    Rename("vision_model.embeddings.patch_embedding.{x}", "vision_backbone.patch_embed.projection.{x}"),
    Rename("vision_model.encoder.layers.{n}.layer_norm1.{x}", "vision_backbone.layers.{n}.ln1.{x}"),
    Rename("vision_model.encoder.layers.{n}.layer_norm2.{x}", "vision_backbone.layers.{n}.ln2.{x}"),
    MergedBias(
        "vision_model.encoder.layers.{n}.self_attn.qkv.bias",
        ("vision_backbone.layers.{n}.attn.q_bias", "vision_backbone.layers.{n}.attn.v_bias"),
    ),
    Rename("vision_model.encoder.layers.{n}.self_attn.qkv.weight", "vision_backbone.layers.{n}.attn.qkv.weight"),
    Rename("vision_model.encoder.layers.{n}.self_attn.projection.{x}", "vision_backbone.layers.{n}.attn.proj.{x}"),
    Rename("vision_model.encoder.layers.{n}.mlp.fc1.{x}", "vision_backbone.layers.{n}.ffn.layers.0.0.{x}"),
    Rename("vision_model.encoder.layers.{n}.mlp.fc2.{x}", "vision_backbone.layers.{n}.ffn.layers.1.{x}"),
    Rename("vision_model.post_layernorm.{x}", "ln_vision_backbone.{x}"),
)
# What the towers' own files hold besides: LAVIS builds 39 of 40 blocks (ViT-g) and 23 of 24 (ViT-L).
_TOWER_ENDS = tuple(
    TheirsOnly(f"visual_encoder.{name}", "BLIP-2 uses the encoder without its end")
    for name in (
        *("blocks.39.{x}", "norm.{x}", "fc_norm.{x}", "head.{x}"),
        *("transformer.resblocks.23.{x}", "ln_post.{x}", "proj"),
    )
)

# ----- the Q-Former -----

POSITION_IDS = "multimodal_backbone.bert.embeddings.position_ids"
_LAVIS_QFORMER: tuple[Row, ...] = (
    Rename("query_tokens", "query_tokens"),
    Rename("ln_vision.{x}", "ln_vision_backbone.{x}"),
    Rename("Qformer.{x}", "multimodal_backbone.{x}"),
)
_HF_QFORMER: tuple[Row, ...] = (
    Rename("query_tokens", "query_tokens"),
    TheirsOnly("embeddings.position_ids", "they count from 0"),
    OursOnly(POSITION_IDS, "they count from 0"),
    Rename("qformer.layernorm.{x}", "multimodal_backbone.bert.embeddings.LayerNorm.{x}"),
    Rename("embeddings.{x}", "multimodal_backbone.bert.embeddings.{x}"),
    Rename(
        "qformer.encoder.layer.{n}.attention.attention.{x}",
        "multimodal_backbone.bert.encoder.layer.{n}.attention.self.{x}",
    ),
    Rename(
        "qformer.encoder.layer.{n}.crossattention.attention.{x}",
        "multimodal_backbone.bert.encoder.layer.{n}.crossattention.self.{x}",
    ),
    Rename("qformer.encoder.layer.{n}.{x}", "multimodal_backbone.bert.encoder.layer.{n}.{x}"),
)

# ----- what comes after it -----

_T5_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_NO_PLACE_IN_T5 = "old files have it; T5 never uses it"
_LAVIS_HEADS: dict[str, tuple[Row, ...]] = {
    "opt": (
        Rename("opt_proj.{x}", "vision_neck.fc.{x}"),
        Rename("opt_model.{x}", "text_backbone.{x}"),
    ),
    "t5": (
        Rename("t5_proj.{x}", "vision_neck.fc.{x}"),
        TheirsOnly(f"t5_model.{_T5_UNUSED}", _NO_PLACE_IN_T5),
        Rename("t5_model.{x}", "text_backbone.{x}"),
    ),
    "retrieval": (
        Rename("temp", "temp"),
        Rename("vision_proj.{x}", "vision_neck.fc.{x}"),
        Rename("text_proj.{x}", "text_neck.fc.{x}"),
        Rename("itm_head.{x}", "multimodal_head.fc.{x}"),
    ),
}
_HF_HEADS: dict[str, tuple[Row, ...]] = {
    "opt": (
        Rename("language_projection.{x}", "vision_neck.fc.{x}"),
        Rename("language_model.{x}", "text_backbone.{x}"),
    ),
    "t5": (
        Rename("language_projection.{x}", "vision_neck.fc.{x}"),
        TheirsOnly(f"language_model.{_T5_UNUSED}", _NO_PLACE_IN_T5),
        Rename("language_model.{x}", "text_backbone.{x}"),
    ),
    "retrieval": (
        Rename("vision_projection.{x}", "vision_neck.fc.{x}"),
        Rename("text_projection.{x}", "text_neck.fc.{x}"),
        Rename("itm_head.{x}", "multimodal_head.fc.{x}"),
        OursOnly("temp", "the contrastive loss's temperature, which only training needs", lost=True),
        OursOnly("multimodal_backbone.cls.{x}", "the head that writes texts, which only training needs", lost=True),
    ),
}


_OPT_WORDS = 50272  # OPT's 50265 tokens, filled up; Hugging Face fills them up to 50304


def table(name: str, kind: str, tower: str = "eva") -> Table:
    """The table of a format, for what comes after the Q-Former ('opt', 't5', 'retrieval') and an image encoder ('eva',
    'clip').

    Raises ValueError for a model that the format cannot express.
    """
    if name == "lavis":
        encoder = _LAVIS_CLIP if tower == "clip" else _LAVIS_EVA
        rows = (*_TOWER_ENDS, *encoder, *_LAVIS_QFORMER, *_LAVIS_HEADS[kind])
        return Table(name, kind, rows, 1e-5, _OPT_WORDS if kind == "opt" else None)
    if name == "hf":
        if tower == "clip":
            raise ValueError("Hugging Face's BLIP-2 has no ViT-L: its image encoder has no norm before its blocks")
        return Table(name, kind, (*_HF_EVA, *_HF_QFORMER, *_HF_HEADS[kind]), 1e-6)
    language_model = OursOnly("text_backbone.{x}", "the language model, which comes from its own publisher", lost=True)
    return Table(name, kind, (language_model, Rename("{x}", "{x}")), 1e-5)
