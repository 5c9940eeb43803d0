"""State dicts from the publishers' keys to ours and back, by the tables of `blip2.checkpoints.tables`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blip2.checkpoints.read import CheckpointError
from blip2.checkpoints.tables import Flatten, MergedBias, OursOnly, Rename, Table, TheirsOnly, fill_in, table
from blip2.utils.suggest import did_you_mean

FORMATS = {"blip2": "ours", "openmmlab": "OpenMMLab's", "lavis": "LAVIS's", "hf": "Hugging Face's"}
# Beginnings of keys that tell a format, before anything else is looked at.
_MARKS = {
    "openmmlab": ("vision_backbone.", "ln_vision_backbone.", "multimodal_backbone.", "text_backbone.", "vision_neck."),
    "lavis": ("visual_encoder.", "ln_vision.", "Qformer.", "opt_model.", "opt_proj.", "t5_model.", "t5_proj."),
    "hf": ("vision_model.", "qformer.", "language_model.", "language_projection.", "vision_projection."),
}
_RETRIEVAL = ("text_neck.", "multimodal_head.", "multimodal_backbone.cls.", "text_proj", "itm_head.", "Qformer.cls.")
_T5 = ("t5_", "text_backbone.encoder.", "text_backbone.shared.", "language_model.encoder.", "language_model.shared.")
_CLIP = (
    *("vision_backbone.pre_norm.", "visual_encoder.class_embedding", "visual_encoder.positional_embedding"),
    *("visual_encoder.ln_pre.", "visual_encoder.transformer."),
)
# Towers as LAVIS publishes them alone: their keys without `visual_encoder.`.
_BARE_TOWERS = ({"cls_token", "blocks.0.norm1.weight"}, {"class_embedding", "ln_pre.weight"})
_WORDS = ("model.decoder.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Converted:
    """A state dict under other keys.

    Attributes:
        tensors: the same tensors wherever a row only renames.
        lost: what the other side has no place for, in words.
    """

    tensors: dict[str, Tensor]
    lost: tuple[str, ...] = ()


def table_of(keys: Iterable[str], name: str | None = None) -> Table:
    """The table that the keys of a file ask for, or, of our keys, that of the format `name`.

    Keys of no known format are taken for ours: a model of one's own may have any. Raises ValueError for a model that
    `name` cannot express.
    """
    keys = list(keys)
    if name is None:
        marks = {name: sum(key.startswith(marks) for key in keys) for name, marks in _MARKS.items()}
        name = max(marks, key=lambda name: marks[name])
    return table(name, _kind(keys), "clip" if any(key.startswith(_CLIP) for key in keys) else "eva")


def _kind(keys: list[str]) -> str:
    if any(key.startswith(_RETRIEVAL) or key.startswith("embeddings.") for key in keys):
        return "retrieval"
    return "t5" if any(key.startswith(_T5) for key in keys) else "opt"


def is_bare_tower(keys: Iterable[str]) -> bool:
    """Whether these are the keys of an image encoder alone, as LAVIS publishes it."""
    present = set(keys)
    return any(marks <= present for marks in _BARE_TOWERS)


def to_ours(state: Mapping[str, Tensor], source: str = "the checkpoint") -> tuple[Table, Converted]:
    """The tensors of a file of any format under our keys; ours come back as they are.

    Raises `CheckpointError` for a key that the format does not have.
    """
    if is_bare_tower(state):
        state = {f"visual_encoder.{key}": tensor for key, tensor in state.items()}
    rows = table_of(state)
    if rows.name == "openmmlab":
        return rows, Converted(dict(state))
    tensors: dict[str, Tensor] = {}
    lost: list[str] = []
    for key, tensor in state.items():
        found = rows.row_of_theirs(key)
        if found is None:
            known = [row.theirs for row in rows.rows if not isinstance(row, OursOnly)]
            raise CheckpointError(
                f"{source}: {key} has no place in {FORMATS[rows.name]} BLIP-2.{did_you_mean(key, known, count=1)}"
            )
        row, gaps = found
        if isinstance(row, TheirsOnly):
            lost += [f"{key}: {row.why}"] if row.lost else []
        elif isinstance(row, MergedBias):
            query, between, value = tensor.chunk(3)
            if between.any():
                lost.append(f"{key}: its part for keys, which changes nothing")
            tensors[fill_in(row.ours[0], gaps)], tensors[fill_in(row.ours[1], gaps)] = query, value
        elif isinstance(row, Flatten):
            tensors[fill_in(row.ours, gaps)] = tensor.reshape((1,) * row.dims + tuple(tensor.shape))
        elif isinstance(row, Rename):
            tensors[fill_in(row.ours, gaps)] = tensor
    return rows, Converted(tensors, tuple(lost))


def from_ours(state: Mapping[str, Tensor], name: str) -> Converted:
    """Our tensors under the keys of the format `name` ('openmmlab', 'lavis', 'hf').

    Raises `CheckpointError` for a key that the format has no place for, and for a model that it cannot express.
    """
    try:
        rows = table_of(state, name)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    tensors: dict[str, Tensor] = {}
    lost: dict[str, str] = {}
    for key, tensor in state.items():
        found = rows.row_of_ours(key)
        if found is None:
            raise CheckpointError(f"{key} has no place in {FORMATS[name]} BLIP-2")
        row, gaps = found
        if isinstance(row, OursOnly):
            if row.lost:
                lost.setdefault(row.ours, f"{fill_in(row.ours, ('*',) * len(gaps))}: {row.why}")
        elif isinstance(row, MergedBias):
            query, value = (state.get(fill_in(ours, gaps)) for ours in row.ours)
            if query is None or value is None:
                raise CheckpointError(f"{key} comes without its twin ({', '.join(fill_in(o, gaps) for o in row.ours)})")
            tensors[fill_in(row.theirs, gaps)] = torch.cat((query, torch.zeros_like(query), value))
        elif isinstance(row, Flatten):
            tensors[fill_in(row.theirs, gaps)] = tensor.reshape(tensor.shape[row.dims :])
        elif isinstance(row, Rename):
            if rows.vocab_size is not None and key.endswith(_WORDS) and len(tensor) > rows.vocab_size:
                lost["words"] = (
                    f"text_backbone.*: rows {rows.vocab_size} to {len(tensor) - 1} of the words, which no token has"
                )
                tensor = tensor[: rows.vocab_size]
            tensors[fill_in(row.theirs, gaps)] = tensor
    return Converted(tensors, tuple(lost.values()))


def unknown_format(keys: Iterable[str]) -> str | None:
    """What to say of keys of no known format; None of others."""
    keys = list(keys)
    if is_bare_tower(keys) or any(key.startswith(marks) for key in keys for marks in _MARKS.values()):
        return None
    hint = ""
    if any(key.startswith(("model.decoder.", "decoder.", "lm_head", "shared.")) for key in keys):
        hint = " They look like a language model's alone: put its folder into text_backbone.name_or_path."
    shown = ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")
    return (
        f"unknown format: its keys ({shown}) are neither ours (OpenMMLab's: vision_backbone.*, multimodal_backbone.*), "
        f"nor LAVIS's (visual_encoder.*, Qformer.*), nor Hugging Face's (vision_model.*, qformer.*).{hint}"
    )
