"""Features of a gallery on disk, kept by the content of each item and by the model that made them."""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from blip2.checkpoints.fetch import cache_dir

_FORMAT = "blip2-features"
_VERSION = "1"
_MARK = f'"format":"{_FORMAT}"'.encode()
_LONGEST_HEADER = 2**27  # bytes; safetensors allows fewer
_SUFFIX = ".safetensors"
_PART = ".part"
_ABANDONED = 24 * 3600.0  # seconds after which a temporary file belongs to no running process


Taken = TypeVar("Taken")


class FeatureCacheError(ValueError):
    """A path given for cached features that holds something else, or cannot be written."""


@dataclass(frozen=True)
class Rows:
    """Features of some items: row `i` of each tensor belongs to the item with the digest ``digests[i]``."""

    digests: tuple[str, ...]
    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if len(tensor) != len(self.digests):
                raise ValueError(f"{name} has {len(tensor)} rows for {len(self.digests)} items")


def default_folder() -> Path:
    """Where features are kept unless another place is named: ``prototypes`` below the cache of checkpoints.

    Nothing else lies there, and it may be deleted at any time.
    """
    return cache_dir() / "prototypes"


def cache_path(place: str | Path | None, name: str) -> Path:
    """The file for a gallery.

    Args:
        place: None for `default_folder`, another folder (it exists, or its name has no suffix), or the file itself.
        name: of the file in a folder.
    """
    folder = default_folder() if place is None else Path(place).expanduser()
    if place is not None and not folder.is_dir() and folder.suffix:
        return folder
    return folder / f"{name}{_SUFFIX}"


class FeatureCache:
    """One file of features: a safetensors file whose metadata say which model made them and of which contents.

    A file is written under another name and renamed when it is whole and on the disk, so no reader meets half a file,
    however the writer ended; of two writers at once the last one's file stays, and both are right. A file that is
    damaged all the same, or was made by another model or version, counts as none.

    Args:
        path: of the file.
        model: the model's digest.
        names: the tensors that are wanted.
    """

    def __init__(self, path: Path, model: str, names: Sequence[str]) -> None:
        self.path = path
        self.model = model
        self.names = tuple(names)

    def read(self) -> Rows | None:
        """What the file holds for this model, None if nothing. Tensors are on the CPU.

        Raises:
            FeatureCacheError: the path is a folder, or a file that was not written by this class: it is left alone.
        """
        if self.path.is_dir():
            raise FeatureCacheError(f"the feature cache {str(self.path)!r} is a folder; name a file in it")
        if not self.path.is_file():
            return None
        if not self._is_ours():
            raise FeatureCacheError(
                f"{self.path} holds no features of this package, and is not overwritten: name another prototype_cache, "
                "or delete the file"
            )
        return self._read(lambda file, digests: Rows(digests, {name: file.get_tensor(name) for name in self.names}))

    def digests(self) -> frozenset[str]:
        """Of the items whose features the file holds now; as `read`, without the features."""
        ours = self.path.is_file() and self._is_ours()
        return (self._read(lambda file, digests: frozenset(digests)) if ours else None) or frozenset()

    def _read(self, take: Callable[[Any, tuple[str, ...]], Taken]) -> Taken | None:
        try:
            with safe_open(self.path, framework="pt") as file:
                about = file.metadata()
                if about.get("version") != _VERSION or about.get("model") != self.model:
                    return None
                if not set(self.names) <= set(file.keys()):
                    return None
                return take(file, tuple(json.loads(about["digests"])))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            print_log(f"feature cache {self.path} is damaged ({error}) and made anew", "current", logging.WARNING)
            return None

    def _is_ours(self) -> bool:
        # Nothing but features lies in the default folder, however damaged.
        return self.path.is_relative_to(default_folder()) or _has_our_header(self.path)

    def check_place(self) -> None:
        """Raises `FeatureCacheError` where `write` would for want of rights: better before the work than after it."""
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise self._unwritable("the folder is not writable")

    def write(self, rows: Rows) -> None:
        """Puts `rows` in the place of what the file held.

        Raises:
            FeatureCacheError: the place cannot be written to.
        """
        about = {
            "format": _FORMAT,
            "version": _VERSION,
            "model": self.model,
            "digests": json.dumps(rows.digests),
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in rows.tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}-{uuid4().hex[:8]}{_PART}")
            try:
                save_file(tensors, temporary, metadata=about)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())  # renamed before it is on the disk, a file may be empty after a crash
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from error

    def _unwritable(self, reason: object) -> FeatureCacheError:
        return FeatureCacheError(
            f"features cannot be kept at {self.path} ({reason}); name another place with prototype_cache, or False to "
            "keep none"
        )

    def _remove_abandoned(self) -> None:
        """Removes what writers left that were killed long ago."""
        for path in self.path.parent.glob(f".{self.path.name}.*{_PART}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()


def _has_our_header(path: Path) -> bool:
    """Whether a file begins as ours do; an empty one counts, and one whose end is missing."""
    with path.open("rb") as file:
        start = file.read(8)
        if not start:
            return True
        length = int.from_bytes(start, "little")  # of the header, in any safetensors file
        return _MARK in file.read(min(length, _LONGEST_HEADER))


def concatenate(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batches' features, rows of one batch after those of another."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
