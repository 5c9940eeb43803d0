"""Writing converted weights: one file, or a folder in Hugging Face's layout, whole or not at all."""

import errno
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from blip2.checkpoints.folder import INDEX, WEIGHTS
from blip2.checkpoints.read import SETTINGS, CheckpointError, first_line
from blip2.checkpoints.save import umask
from blip2.utils.files import written_whole

SHARD = 5 * 10**9  # bytes of a file in a folder, at the most


def write_file(tensors: Mapping[str, Tensor], path: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Write one file in the format `name`: 'blip2' (safetensors), 'openmmlab' or 'lavis' (torch's ``.pth``).

    Raises `CheckpointError` where the disk is too small or full, or the folder is not there; nothing is left then.
    """
    _check_place(path, tensors)
    with _told(path), written_whole(path) as partial:
        if name == "blip2":
            metadata = {"format": "pt", **({SETTINGS: json.dumps(settings)} if settings else {})}
            save_file(_apart(tensors), partial, metadata=metadata)
            partial.chmod(0o666 & ~umask())  # safetensors makes files that nobody else may read
        else:
            wrapper = "model" if name == "lavis" else "state_dict"
            meta = {"meta": {SETTINGS: dict(settings)}} if settings else {}
            # torch writes the whole memory that a tensor is a part of.
            own = {key: x if x.untyped_storage().nbytes() == x.nbytes else x.clone() for key, x in tensors.items()}
            torch.save({wrapper: own, **meta}, partial)


def write_folder(tensors: Mapping[str, Tensor], path: Path, config: Any, shard: int = SHARD) -> None:
    """Write a Hugging Face folder: ``config.json`` and safetensors, in files of `shard` bytes at the most.

    Raises as `write_file` does, and for a folder that holds something already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path} exists already: name a new folder, or remove what is there")
    _check_place(path, tensors)
    with _told(path):
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".partial", dir=path.absolute().parent))
        try:
            _write_shards(_apart(tensors), partial, shard)
            config.save_pretrained(partial)
            partial.chmod(0o777 & ~umask())
            if path.is_dir():
                path.rmdir()
            partial.replace(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write_shards(tensors: dict[str, Tensor], folder: Path, limit: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    for key, tensor in tensors.items():
        held = sum(other.nbytes for other in shards[-1].values())
        if shards[-1] and held + tensor.nbytes > limit:
            shards.append({})
        shards[-1][key] = tensor
    stem, suffix = WEIGHTS[0].split(".")
    names = [f"{stem}-{number:05}-of-{len(shards):05}.{suffix}" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [WEIGHTS[0]]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o666 & ~umask())
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{WEIGHTS[0]}{INDEX}").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous, and no two in the same memory, as safetensors want them."""
    seen: set[int] = set()
    apart = {}
    for key, tensor in tensors.items():
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[key] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def _check_place(path: Path, tensors: Mapping[str, Tensor]) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise CheckpointError(f"cannot write {path}: the folder {folder} does not exist")
    needed = sum(tensor.nbytes for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"cannot write {path}: it needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {folder}. Make "
            "room, or choose another disk or a smaller --dtype"
        )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong while writing, as an error that names the file and says that nothing is left."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        text = str(error)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text or "os error 28" in text
        reason = "the disk is full" if full else first_line(error)
        raise CheckpointError(f"cannot write {path}: {reason}. Nothing was left of it") from error
