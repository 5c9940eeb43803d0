"""What tells two models, two pictures or two texts apart: short digests of their contents."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from blip2 import __version__

from .pipeline import pipeline_of

_CHUNK = 2**22  # elements of a tensor that are summed at a time
_COLUMNS = 997  # a prime: rows of this length do not fall together with those of a weight matrix
_WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest_of_bytes(data: bytes) -> str:
    """128 bits of BLAKE2 in hexadecimal; a gigabyte a second."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of_file(path: str | Path) -> str:
    """`digest_of_bytes` of a file's whole content, whatever its name, size and times are."""
    digest = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def digest_of_ids(ids: Sequence[int]) -> str:
    """Of a text, by the tokens that the model sees of it: other words, another vocabulary or another cut tell."""
    return digest_of_bytes(",".join(map(str, ids)).encode())


def digest_of_model(model: nn.Module, config: Config, precision: str) -> str:
    """A digest of all that decides on a model's features: config, pictures' pipeline, precision, every weight.

    The weights count by sums of their bits along rows and columns, which costs one reading of the memory: a change of
    a single bit tells, and so do two weights that changed places.

    Raises:
        ValueError: a weight is on the ``meta`` device (offloaded to disk), so that it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    settings = {
        "version": __version__,
        "precision": precision,
        "model": config.get("model"),
        "data_preprocessor": config.get("data_preprocessor"),
        "pipeline": pipeline_of(config),
    }
    digest.update(json.dumps(_plain(settings), sort_keys=True).encode())
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        if value.is_meta:
            raise ValueError(f"the weight {name} lies on no device that can be read")
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(_sums(value))
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


@torch.no_grad()
def _sums(value: Tensor) -> bytes:
    flat = value.detach().contiguous().reshape(-1)
    if flat.dtype == torch.bool:
        flat = flat.to(torch.uint8)
    bits = flat.view(_WIDTHS[flat.element_size()]) if flat.element_size() in _WIDTHS else flat.view(torch.int64)
    parts = []
    for chunk in bits.split(_CHUNK):
        whole = len(chunk) // _COLUMNS * _COLUMNS
        table = chunk[:whole].view(-1, _COLUMNS)
        # Integers wrap around and don't round, so the order of the additions does not matter.
        parts += [table.sum(0, dtype=torch.int64), table.sum(1, dtype=torch.int64), chunk[whole:].to(torch.int64)]
    return torch.cat(parts).cpu().numpy().tobytes() if parts else b""
