"""Reading a checkpoint file: only tensors come out, nothing in it is ever run."""

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from blip2.checkpoints.compact import from_int8, shared_files
from blip2.checkpoints.mapped import mark_as_windows

# Where training frameworks put the weights among a file's other entries (OpenMMLab; LAVIS).
WRAPPERS = ("state_dict", "model")
# Where a file of ours says what belongs to its weights: in a safetensors file's metadata as JSON, in a torch file's
# `meta`.
SETTINGS = "blip2"

# What mmengine's training checkpoints hold besides weights: its log's buffers, with methods and numpy values in them.
# None of it is wanted here, so that these names stand for `_Nothing`, and files that hold them can be read.
_IGNORED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "builtins.bytes",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


class _Nothing:
    """Takes the place of an object that is not wanted: any arguments, no effect, no content."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, unsafe or does not fit the model; the text names the file or the keys."""


def read_state_dict(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file or of a torch file, by key.

    On the CPU they are windows on the file (see `blip2.checkpoints.mapped`) where its form allows it: nothing is read
    before it is used. The kind is told by the content, not by the name. A torch file is read with
    ``weights_only=True``; what mmengine's training checkpoints hold besides tensors and plain values is passed over.
    Weights under ``state_dict`` or ``model`` are taken out, and so is the ``module.`` of a data-parallel wrapper.
    Weights that a safetensors file shares with others come from the file beside it that it names; those in eight bits
    (see `blip2.checkpoints.compact`) come as float32.

    Raises `FileNotFoundError` when there is no such file and `CheckpointError` when it is empty, cut off, damaged,
    not a checkpoint, or a pickle that would have to run code.
    """
    tensors, _ = read_with_settings(path)
    return tensors if torch.device(map_location).type == "cpu" else {k: v.to(map_location) for k, v in tensors.items()}


def read_with_settings(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`read_state_dict`, and what the file says of the model that its weights are for (see `SETTINGS`)."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder: name the .safetensors or .pth file in it")
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path} does not exist: check the path, or fetch the file first")
    if path.stat().st_size == 0:
        raise CheckpointError(f"checkpoint {path} is empty (0 bytes): copy or download it again")
    _refuse_web_page(path)
    if _is_safetensors(path):
        return _load_safetensors(path)
    content = _load_torch_file(path)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    settings = meta.get(SETTINGS) if isinstance(meta, Mapping) else None
    return _state_dict(content, path), dict(settings) if isinstance(settings, Mapping) else {}


def _refuse_web_page(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head", b"<!--")):
        raise CheckpointError(
            f"checkpoint {path} is a web page, not a checkpoint: what was saved is the site's answer (an error, or a "
            "page that asks to log in or to confirm). Delete it, and fetch the file itself"
        )


def _is_safetensors(path: Path) -> bool:
    # Eight bytes with the header's length, then the header, which is JSON.
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:9] == b"{" or (path.suffix == ".safetensors" and start[:2] != b"PK")


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            windows = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
        mark_as_windows(list(windows.values()), path)
        tensors = from_int8(windows)
        shared = shared_files(path, metadata)
        settings = json.loads(metadata.get(SETTINGS, "{}"))
    except (SafetensorError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{_damaged(path)} ({first_line(error)})") from error
    for other, beginnings in shared.items():
        if not other.is_file():
            raise CheckpointError(f"checkpoint {path} shares weights with {other.name}, which must lie beside it")
        rest, _ = _load_safetensors(other)
        tensors.update({key: value for key, value in rest.items() if key.startswith(tuple(beginnings))})
    return tensors, settings


def _damaged(path: Path) -> str:
    size = path.stat().st_size
    return f"checkpoint {path} is cut off, damaged or no checkpoint ({size} bytes): delete it and fetch it again"


def _load_torch_file(path: Path) -> Any:
    # One class a name: torch tells them apart by identity.
    ignored: list[Callable | tuple[Callable, str]] = [(type("_Nothing", (_Nothing,), {}), name) for name in _IGNORED]
    try:
        with safe_globals(ignored), path.open("rb") as file:
            # Mapped into memory where the format allows it, so that a large file isn't held twice. torch trusts a
            # name that ends in .safetensors, and maps only what has a name.
            mappable = zipfile.is_zipfile(path) and path.suffix != ".safetensors"
            source = path if mappable else file
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mappable)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it asks for {refused[1]!r}" if refused else "it holds more than tensors, or is damaged"
        raise CheckpointError(
            f"checkpoint {path} was refused: {what}, and reading on could run code. Only tensors and plain values "
            "are read. If you trust its origin, save its weights alone (torch.save of the state dict, or safetensors) "
            "and load that file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{_damaged(path)} ({first_line(error)})") from error
    if mappable:
        mark_as_windows(list(_tensors(content)), path)
    return content


def _tensors(content: Any) -> Iterator[Tensor]:
    """The tensors in nested dictionaries."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type when it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"checkpoint {path} holds no state dict: its content is {_kind(content)}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"checkpoint {path}: the entry {key!r} is no tensor, it is {_kind(value)}")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary with the keys {list(value)[:5]}" if value else "an empty dictionary"
    return "another object" if isinstance(value, _Nothing) else f"of the type {type(value).__name__}"
