"""Folders in Hugging Face's layout: ``config.json``, and weights in one file or in several with an index."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from blip2.checkpoints.read import CheckpointError, read_state_dict

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"


def is_weight_folder(folder: str | Path) -> bool:
    """Whether weights lie there as Hugging Face lays them out."""
    return any((Path(folder) / f"{name}{end}").is_file() for name in WEIGHTS for end in ("", INDEX))


def weight_files(folder: Path) -> list[Path]:
    """The shards that a folder's index names, or its single weight file; safetensors are preferred.

    Raises FileNotFoundError that names what is missing, CheckpointError for an index that is none.
    """
    for name in WEIGHTS:
        index, single = folder / f"{name}{INDEX}", folder / name
        if index.is_file():
            files = [folder / shard for shard in sorted(set(_weight_map(index).values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise FileNotFoundError(f"{index} names files that are not there: {', '.join(missing)}; fetch them too")
            return files
        if single.is_file():
            return [single]
    raise FileNotFoundError(
        f"no weights in {folder}: looked for {' and '.join(WEIGHTS)}, whole or sharded (with {INDEX}); "
        "fetch the model's files into that folder first"
    )


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's weight files, by key.

    Raises as `weight_files` does, and CheckpointError where a file lacks what the index says it holds.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= read_state_dict(file)
    for name in WEIGHTS:
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            lacking = [f"{key} ({file})" for key, file in _weight_map(index).items() if key not in tensors]
            if lacking:
                raise CheckpointError(
                    f"{index} names tensors that its files do not hold: {', '.join(lacking[:5])}"
                    + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
                    + "; the files are of another version: fetch the folder again"
                )
            break
    return tensors


def folder_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``; empty where there is none."""
    path = folder / "config.json"
    return _json(path) if path.is_file() else {}


def _weight_map(index: Path) -> dict[str, str]:
    found = _json(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise CheckpointError(f"{index} has no 'weight_map' from keys to files: fetch it again")
    outside = next((file for file in found.values() if Path(file).name != file), None)
    if outside is not None:
        raise CheckpointError(f"{index} names {outside!r}, which is no file of its folder")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is no JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object: fetch it again")
    return content
