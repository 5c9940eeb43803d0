"""Checkpoints from one publisher's format to another's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blip2.apis.config import load_config
from blip2.apis.hub import build_on_meta
from blip2.apis.weights import follow_source
from blip2.checkpoints import CheckpointError, Source, open_checkpoint
from blip2.checkpoints.convert import FORMATS, from_ours, unknown_format
from blip2.checkpoints.export import write_file, write_folder
from blip2.checkpoints.fetch import language_model_folder
from blip2.checkpoints.folder import read_folder
from blip2.checkpoints.hf_config import hf_config
from blip2.checkpoints.load import check_fits
from blip2.models.vision.pos_embed import resize_pos_embed, square_grid

_POSITIONS = "vision_backbone.pos_embed"
_PATCHES = "vision_backbone.patch_embed.projection.weight"
_LANGUAGE_MODEL = "text_backbone."
_OURS_EPS = 1e-5  # OpenMMLab's and LAVIS's, of `ln_vision_backbone`
# The config of what the publishers have published, by what comes after the Q-Former and its width.
_CONFIGS = {
    ("opt", 2560): "blip2-opt2.7b_8xb32_caption",
    ("opt", 4096): "blip2-opt6.7b_caption_paper",
    ("t5", 2048): "blip2-flant5xl_caption_paper",
    ("t5", 4096): "blip2-flant5xxl_vqa_paper",
    ("retrieval", 256): "blip2_8xb32_retrieval",
}
_SUFFIXES = {"blip2": (".safetensors",), "openmmlab": (".pth", ".pt"), "lavis": (".pth", ".pt")}


@dataclass(frozen=True)
class Conversion:
    """What `convert_checkpoint` did: the file or folder that it wrote, the formats, and what was lost, in words."""

    path: Path
    source_format: str
    target_format: str
    lost: tuple[str, ...]


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    to: str,
    *,
    config: str | Path | None = None,
    dtype: torch.dtype | None = None,
    img_size: int | None = None,
    vision_tower: str | Path | None = None,
    language_model: str | Path | None = None,
) -> Conversion:
    """Write the checkpoint `source` (any format, see `open_checkpoint`) to `target` in the format `to`.

    The weights keep their type and their grid of position embeddings unless `dtype` or `img_size` say otherwise.

    Args:
        to: 'blip2' (a .safetensors file), 'openmmlab', 'lavis' (.pth files) or 'hf' (a folder).
        config: for 'hf', the model's config, which knows what weights do not (such as numbers of heads); by default the
            one of the published model of these widths.
        dtype: the type of all floating-point tensors.
        img_size: height and width of the pictures that position embeddings are resized for, in pixels.
        vision_tower: see `open_checkpoint`.
        language_model: for 'hf', the folder or published name of a language model that `source` lacks; by default the
            config's.

    Raises `CheckpointError` where the weights are of no known format, the target cannot express them, or it cannot be
    written; then nothing is left of it.
    """
    target = Path(target)
    if to not in FORMATS:
        raise CheckpointError(f"no format {to!r}: choose one of {', '.join(FORMATS)}")
    if to != "hf" and target.suffix not in _SUFFIXES[to]:
        raise CheckpointError(f"{target} must end in {' or '.join(_SUFFIXES[to])} in the format {to!r}")
    opened = open_checkpoint(source, vision_tower)
    if unknown := unknown_format(opened.tensors):
        raise CheckpointError(f"{source}: {unknown}")
    tensors = dict(opened.tensors)
    if img_size is not None:
        tensors[_POSITIONS] = _resized(opened, img_size)
    opened = replace(opened, tensors=tensors)
    lost = [*opened.lost, *_never_there(opened, to)]
    found = opened.table.name
    eps = opened.settings.get("layer_norm_eps", _OURS_EPS)
    if to == "hf":
        model, opened = _model_of(opened, config, language_model)
        hub_config = hf_config(model)
        hub_config.dtype = dtype or next(x.dtype for x in opened.tensors.values() if x.is_floating_point())
        converted = from_ours(opened.tensors, to)
        lost += _epsilon(eps, hub_config.vision_config.layer_norm_eps, "there is one for all of the image encoder")
        write_folder(_cast(converted.tensors, dtype), target, hub_config)
    elif to == "blip2":
        write_file(_cast(opened.tensors, dtype), target, to, opened.settings)
        return Conversion(target, found, to, tuple(lost))
    else:
        converted = from_ours(opened.tensors, to)
        lost += _epsilon(eps, _OURS_EPS, f"{FORMATS[to]} code has no other; this package reads it from the file")
        write_file(_cast(converted.tensors, dtype), target, to, opened.settings)
    return Conversion(target, found, to, (*lost, *converted.lost))


def _never_there(opened: Source, to: str) -> list[str]:
    """What the source's format does without and the target's has."""
    origin = opened.settings.get("source", opened.table.name)
    if origin != "hf" or to == "hf" or opened.table.kind != "retrieval":
        return []
    return ["temp, multimodal_backbone.cls.*: Hugging Face's files have none; training starts them afresh"]


def _epsilon(source: float, target: float, why: str) -> list[str]:
    return [f"ln_vision_backbone's epsilon of {source:g} becomes {target:g}: {why}"] if source != target else []


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {
        key: tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
        for key, tensor in tensors.items()
    }


def _resized(opened: Source, img_size: int) -> Tensor:
    if _POSITIONS not in opened.tensors or _PATCHES not in opened.tensors:
        raise CheckpointError(f"{opened.name} holds no position embeddings of an image encoder to resize")
    positions, patch = opened.tensors[_POSITIONS], opened.tensors[_PATCHES].shape[-1]
    grid = square_grid(positions.shape[1] - 1)
    if grid is None or img_size < 1 or img_size % patch:
        raise CheckpointError(
            f"position embeddings of {positions.shape[1] - 1} patches cannot be resized to pictures of {img_size} "
            f"pixels: give a multiple of {patch}"
        )
    corners = any(key.startswith("vision_backbone.pre_norm.") for key in opened.tensors)  # CLIP's, as LAVIS does it
    side = img_size // patch
    return resize_pos_embed(positions, grid, (side, side), align_corners=corners)


# ----- for Hugging Face -----


def _model_of(opened: Source, config: str | Path | None, language_model: str | Path | None) -> tuple[nn.Module, Source]:
    """The model on meta that the weights are for, and the weights with a language model."""
    name = config if config is not None else _published(opened)
    cfg = load_config(name)
    retrieval = opened.table.kind == "retrieval"
    if not retrieval and not any(key.startswith(_LANGUAGE_MODEL) for key in opened.tensors):
        opened = _with_language_model(opened, language_model or cfg.model.text_backbone.get("name_or_path"))
    follow_source(cfg, opened)
    if _POSITIONS in opened.tensors:
        grid = square_grid(opened.tensors[_POSITIONS].shape[1] - 1)
        patch = opened.tensors[_PATCHES].shape[-1]
        if grid is not None:
            cfg.model.vision_backbone.img_size = grid[0] * patch
    model = build_on_meta(cfg)
    check_fits(model, opened)
    return model, opened


def _published(opened: Source) -> str:
    neck = opened.tensors.get("vision_neck.fc.weight")
    width = None if neck is None else len(neck)
    name = _CONFIGS.get((opened.table.kind, width or 0))
    if name is None:
        raise CheckpointError(
            f"{opened.name}: no published model projects to {width} numbers, so that its numbers of heads are not "
            "known: name its config (--config)"
        )
    return name


def _with_language_model(opened: Source, name: Any) -> Source:
    if not name:
        raise CheckpointError(
            f"{opened.name} holds no language model, which Hugging Face's format needs: name one (--language-model)"
        )
    tensors = {}
    for key, tensor in read_folder(language_model_folder(name)).items():
        key = f"model.{key}" if key.startswith("decoder.") and opened.table.kind == "opt" else key
        tensors[_LANGUAGE_MODEL + key] = tensor
    return replace(opened, tensors={**opened.tensors, **tensors})
