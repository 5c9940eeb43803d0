"""A checkpoint of any publisher, opened: its tensors under our keys, and what it says of the model."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from blip2.checkpoints.convert import is_bare_tower, to_ours
from blip2.checkpoints.fetch import fetch
from blip2.checkpoints.folder import folder_config, is_weight_folder, read_folder
from blip2.checkpoints.read import CheckpointError, read_with_settings
from blip2.checkpoints.tables import POSITION_IDS, Table, table

VISION = "vision_backbone."
# Where LAVIS publishes the image encoders that its trainer leaves out, by the width of their features.
_LAVIS_FILES = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
TOWERS = {1408: _LAVIS_FILES + "eva_vit_g.pth", 1024: _LAVIS_FILES + "clip_vit_L.pth"}
_LOOKS_AT_PICTURES = "crossattention.self.key.weight"


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        name: the path or address that it came from.
        table: the rows of its format.
        tensors: under our keys; windows on the files (see `blip2.checkpoints.mapped`).
        lost: what was in the file and has no place here, in words.
        settings: what the model must have for these weights: ``layer_norm_eps`` of `ln_vision_backbone`, and
            ``source``, the format that converted weights came from.
        config: the ``config.json`` of a Hugging Face folder.
        vision_tower: the file that the image encoder was taken from where it was not in the checkpoint.
    """

    name: str
    table: Table
    tensors: dict[str, Tensor]
    lost: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    vision_tower: Path | None = None

    def lacks(self, key: str) -> bool:
        """Whether the format that the weights came from never holds this key of ours, or need not: a count from 0."""
        if key.endswith(POSITION_IDS):
            return True
        origin = self.settings.get("source")
        if origin in ("lavis", "hf") and origin != self.table.name:
            return table(origin, self.table.kind).lacks(key)
        return self.table.name != "openmmlab" and self.table.lacks(key)


def open_checkpoint(source: str | Path, vision_tower: str | Path | None = None) -> Source:
    """Open a file, a Hugging Face folder or an address of either (see `fetch`), whatever its format.

    An image encoder that LAVIS's trainer has left out is taken from `vision_tower`, else from LAVIS's file of that name
    beside the checkpoint or in the cache, else it is fetched.

    Raises `CheckpointError` for an unknown format, an unknown key, a tower that cannot be had; `FileNotFoundError` for
    missing files.
    """
    path = fetch(source)
    settings: dict[str, Any] = {}
    config: dict[str, Any] = {}
    if path.is_dir() and not is_weight_folder(path):
        raise CheckpointError(
            f"checkpoint {path} is a folder without weights: name a .safetensors or .pth file, or a folder in Hugging "
            "Face's layout (config.json and model.safetensors, whole or sharded)"
        )
    if path.is_dir():
        tensors, config = read_folder(path), folder_config(path)
    else:
        tensors, settings = read_with_settings(path)
    rows, converted = to_ours(tensors, str(source))
    if rows.name != "openmmlab":
        eps = config.get("vision_config", {}).get("layer_norm_eps", rows.layer_norm_eps)
        settings = {"layer_norm_eps": eps, "source": rows.name, **settings}
    found = Source(str(source), rows, converted.tensors, converted.lost, settings, config)
    return _with_tower(found, path, vision_tower)


def _with_tower(source: Source, path: Path, vision_tower: str | Path | None) -> Source:
    present = any(key.startswith(VISION) for key in source.tensors)
    if vision_tower is None and (present or source.table.name != "lavis"):
        return source
    file = fetch(vision_tower) if vision_tower is not None else _lavis_tower(source, path)
    tower, _ = read_with_settings(file)
    if not is_bare_tower(tower):
        prefix = "visual_encoder."
        tower = {key.removeprefix(prefix): tensor for key, tensor in tower.items() if key.startswith(prefix)}
    if not is_bare_tower(tower):
        raise CheckpointError(f"{file} holds no image encoder as LAVIS publishes them (eva_vit_g.pth, clip_vit_L.pth)")
    _, converted = to_ours(tower, str(file))
    rest = {key: tensor for key, tensor in source.tensors.items() if not key.startswith(VISION)}
    return replace(source, tensors={**converted.tensors, **rest}, vision_tower=file)


def _lavis_tower(source: Source, path: Path) -> Path:
    width = next((x.shape[1] for key, x in source.tensors.items() if key.endswith(_LOOKS_AT_PICTURES)), None)
    address = TOWERS.get(width or 0)
    lacking = f"checkpoint {source.name} holds no image encoder (LAVIS's trainer leaves frozen parts out)"
    if address is None:
        names = " or ".join(Path(name).name for name in TOWERS.values())
        raise CheckpointError(f"{lacking}, and its Q-Former's width of {width} is none of LAVIS's ({names}): name one")
    name = address.rsplit("/", 1)[1]
    beside = path.parent / name
    if beside.is_file():
        return beside
    try:
        return fetch(address)
    except CheckpointError as error:
        raise type(error)(
            f"{lacking}. It needs {name}: put that file beside the checkpoint, or name it as vision_tower. {error}"
        ) from error
