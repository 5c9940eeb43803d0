"""Reading the weight files of a local Hugging Face folder."""

import json
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from blip2.checkpoints.read import read_state_dict
from blip2.utils.resources import resolve_resource

_FILES = ("model.safetensors", "pytorch_model.bin")


def read_shards(folder: str | Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of a local folder, file by file; safetensors are preferred.

    Raises FileNotFoundError that names what was looked for, CheckpointError for a damaged file or a pickle that would
    run code.
    """
    for file in weight_files(resolve_resource(folder)):
        yield read_state_dict(file)


def weight_files(folder: Path) -> list[Path]:
    """The shards that a folder's index names, or its single weight file."""
    for name in _FILES:
        index, single = folder / f"{name}.index.json", folder / name
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            files = [folder / shard for shard in shards]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise FileNotFoundError(f"{index} names files that are not there: {', '.join(missing)}; fetch them too")
            return files
        if single.is_file():
            return [single]
    raise FileNotFoundError(
        f"no weights in {folder}: looked for {' and '.join(_FILES)}, whole or sharded (with .index.json); "
        "fetch the language model's files into that folder first"
    )
